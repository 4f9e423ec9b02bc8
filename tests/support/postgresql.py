"""A private PostgreSQL server, from the system's package."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from itertools import count
from pathlib import Path

import psycopg

from tests.support.waiting import eventually

#: The folder of the newest version's programs.
PROGRAMS = max(
    Path("/usr/lib/postgresql").glob("*/bin"),
    key=lambda folder: int(folder.parent.name),
    default=Path("/usr/lib/postgresql/bin"),
)

#: PostgreSQL refuses to run as root: then it runs as the user of Debian's package.
AS_USER = ("runuser", "-u", "postgres", "--") if os.geteuid() == 0 else ()


class PostgreSQL:
    """A server whose process can be killed and started again, on the same data."""

    def __init__(self) -> None:
        # Not in pytest's folders, where another user may not look.
        self.folder = Path(tempfile.mkdtemp(prefix="oops-pg"))
        if AS_USER:
            shutil.chown(self.folder, "postgres")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self._numbers = count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-A", "trust", "-U", "oops", "--no-sync", "data")

    def _command(self, program: str, *options: str) -> list[str]:
        return [*AS_USER, str(PROGRAMS / program), *options]

    def _run(self, program: str, *options: str) -> None:
        done = subprocess.run(
            self._command(program, *options),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(
                    "postgres",
                    *("-D", "data", "-p", str(self.port), "-k", ""),
                    *("-c", "listen_addresses=127.0.0.1"),
                ),
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        eventually(self._is_up)

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        try:
            psycopg.connect(self._conninfo("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _conninfo(self, database: str) -> str:
        return f"postgresql://oops@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """Make a database; return its URL for SQLAlchemy."""
        name = f"oops{next(self._numbers)}"
        with psycopg.connect(self._conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        return f"postgresql+psycopg://oops@127.0.0.1:{self.port}/{name}"

    def signal(self, number: int) -> None:
        """Send a signal to all its processes."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """End it as a power cut would, as far as one machine can show that."""
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGKILL)
            self._process.wait()
        # A killed server leaves its lock file; the number in it may be another's.
        (self.folder / "data/postmaster.pid").unlink(missing_ok=True)

    def clean_up(self) -> None:
        """End it, and remove all of it."""
        self.kill()
        shutil.rmtree(self.folder)
