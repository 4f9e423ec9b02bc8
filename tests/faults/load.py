"""The load: programs that publish numbered reports, as applications do.

Each writes down what it was told: the id, and whether the broker has the report or,
after ``[]``, the fallback.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.support import ROOT, environment

#: Bytes of a report that `Publisher` refuses, and of a common one.
TOO_LARGE = 20_000_000
USUAL = 500


class Application:
    """A program's `oops.Config`: the publisher, and a fallback for its ``[]``."""

    def __init__(self, home: Path, name: str, publisher: Any) -> None:
        import oops

        from oops_celery import FolderPublisher

        self._name = name
        self._publisher = publisher
        self._answer: list[str] = []
        self._number = 0
        path = home / "records" / name
        self._record = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._config = oops.Config()
        self._config.publisher = oops.publish_with_fallback(
            self._publish, FolderPublisher(home / "fallback")
        )

    def _publish(self, report: dict[str, Any]) -> list[str]:
        self._answer = self._publisher(report)
        return self._answer

    def report(self, **more: Any) -> str:
        """Publish one report; return its id."""
        self._number += 1
        told = {"type": "ValueError", "by": self._name, "n": self._number}
        filler = "x" * more.pop("size", USUAL)
        (one,) = self._config.publish({**told, "filler": filler, **more})
        where = "returned" if self._answer else "fallback"
        os.write(self._record, f"{where} {one}\n".encode())
        return str(one)


class Load:
    """Several such programs at work."""

    def __init__(self, home: Path, url: str) -> None:
        self._home = home
        self._environ = environment(
            RABBITMQ_URL=url,
            PYTHONPATH=str(ROOT),
            OOPS_TOPOLOGY=str(home / "topology.yml"),
        )
        self._url = url
        self._started = 0
        self._running: list[subprocess.Popen[bytes]] = []
        self._here: Application | None = None

    def start(
        self, rate: float, processes: int = 2, odd: float = 0, **environ: str
    ) -> None:
        """Start to publish.

        Args:
            rate: Reports in a second, at most; of all programs together.
            processes: Number of programs.
            odd: The share of reports that kill, hold or hang the process they come to.
            environ: More settings, by their name in the environment.
        """
        for _ in range(processes):
            self._started += 1
            command = [sys.executable, "-m", "tests.faults.load", str(self._home)]
            options = [f"load-{self._started}", str(rate / processes), str(odd)]
            with (self._home / "load.log").open("ab") as log:
                self._running.append(
                    subprocess.Popen(
                        command + options,
                        cwd=self._home,
                        env={**self._environ, **environ},
                        stdout=log,
                        stderr=log,
                    )
                )

    def report(self, **report: Any) -> str:
        """Publish one report from this process."""
        if self._here is None:
            import kombu

            import oops_celery

            publisher = oops_celery.Publisher(
                lambda: kombu.Connection(self._url), "oopses", ""
            )
            self._here = Application(self._home, "here", publisher)
        return self._here.report(**report)

    def signal(self, number: int) -> None:
        for program in self._running:
            program.send_signal(number)

    def stop(self) -> None:
        """Have the programs finish what they publish, and end."""
        self.signal(signal.SIGTERM)
        codes = [program.wait(60) for program in self._running]
        self._running = []
        assert not any(codes), (self._home / "load.log").read_text()[-3000:]

    def kill(self) -> None:
        for program in self._running:
            program.kill()
            program.wait()
        self._running = []


ODD = ({"order": "exit"}, {"order": "sleep 1"}, {"order": "hang once"})
ODD_SIZES = ({"size": TOO_LARGE}, {"size": 1_000_000})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("name")
    parser.add_argument("rate", type=float)
    parser.add_argument("odd", type=float)
    options = parser.parse_args()
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the one that started us

    import oops_celery

    application = Application(options.home, options.name, oops_celery.publisher)
    choice = random.Random(options.name)
    due = time.monotonic()
    while not stopped:
        odd = choice.random() < options.odd
        application.report(**(choice.choice(ODD + ODD_SIZES) if odd else {}))
        due += 1 / options.rate
        late = time.monotonic() - due
        if late < 0:
            time.sleep(-late)
        elif late > 1:
            due = time.monotonic()  # after a fault: no burst to catch up


if __name__ == "__main__":
    main()
