"""A real worker in a folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.support.project import environment
from tests.support.waiting import PATIENCE, eventually


class Worker:
    """A real ``celery -A oops_celery worker`` in a folder of its own."""

    def __init__(
        self,
        folder: Path,
        url: str,
        *options: str,
        python: str | Path = sys.executable,
        **environ: str,
    ) -> None:
        self.folder = folder
        self.log = folder / "worker.log"
        self._command = [
            str(Path(python).with_name("celery")),
            *("-A", "oops_celery", "worker", "--loglevel", "INFO", "-n", "w@%h"),
            *(options or ("-c", "2")),
        ]
        usual = {"RABBITMQ_URL": url, "OOPS_REPOSITORY": "oopses"}  # a folder
        self._environ = environment(**{**usual, **environ})
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env=self._environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        ready = self.text().count(" ready.")
        eventually(
            lambda: self.text().count(" ready.") > ready or process.poll() is not None
        )
        return process

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def restart(self) -> None:
        self.process = self._start()

    def kill(self) -> None:
        """Kill the worker and its pool, as the out-of-memory killer would."""
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def pool_pids(self) -> list[int]:
        out = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        return [int(pid) for pid in out.split()]

    def kill_pool(self) -> None:
        """Kill the processes of the pool; some may be ending already."""
        for pid in self.pool_pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()

    def files(self) -> list[Path]:
        """Return the reports in the repository."""
        return [
            path
            for path in self.folder.glob("oopses/*/*")
            if not path.name.endswith(".tmp")
        ]
