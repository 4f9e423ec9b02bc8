"""What is measured, on a private broker: each contender a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import amqp
import psutil
from rabbitfixture.server import RabbitServer

import oops_celery
from benchmarks.reports import reports
from oops_celery import FolderPublisher

HERE = Path(__file__).parent

#: Files of the repository before the clock starts: the worker has found its pace.
WARM_UP = 0.1

#: Reports of a measurement, at least.
LEAST = 40

#: A file system in memory, on Linux.
MEMORY = Path("/dev/shm")

#: Seconds that a contender may take.
PATIENCE = 600


class Bench:
    """A broker, two Pythons, and a folder.

    Args:
        old_python: The Python that has oops-amqp, and the bson package it brings.
        scale: Times the usual number of reports.
    """

    def __init__(self, old_python: Path, scale: float = 1.0) -> None:
        self._old_python = old_python
        self._scale = scale
        self._seed = 0
        #: Pythons that have an amqp-dispatcher.
        self.dispatchers: list[Path] = []
        self.folder = Path(tempfile.mkdtemp(prefix="oops-bench-"))
        #: Where repositories are made.
        self._repositories = self.folder
        self._server = RabbitServer(ctltimeout=60)
        self._server.setUp()
        self.host = f"127.0.0.1:{self._server.config.port}"
        self.url = f"amqp://guest:guest@{self.host}/"
        self._environ = {**os.environ, "RABBITMQ_URL": self.url}
        os.environ["RABBITMQ_URL"] = self.url
        with oops_celery.app.connection_for_write() as connection:
            oops_celery.Topology.load().declare(connection.channel)

    def close(self) -> None:
        """End the broker, and remove the folder."""
        self._server.cleanUp()
        shutil.rmtree(self.folder, ignore_errors=True)

    def count(self, usual: int) -> int:
        """Return the number of reports in place of the usual one."""
        return max(int(usual * self._scale), LEAST)

    # -- Publishing -------------------------------------------------------------------

    def publishing(
        self, contenders: tuple[str, ...], size: str, count: int, rounds: int
    ) -> dict[str, float]:
        """Return the median of seconds for a report, of each contender, by turns."""
        found: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name in contenders:
                found[name].append(self.run(name, size, count))
                self.purge()
        return {name: statistics.median(values) for name, values in found.items()}

    def run(self, name: str, size: str, count: int, **more: Any) -> float:
        """Run a contender; return what it measured."""
        return float(self._finish(self._start(name, size, count, **more)))

    def _start(
        self, name: str, size: str, count: int, **more: Any
    ) -> subprocess.Popen[str]:
        self._seed += 1  # no report twice, in any round
        given = {"size": size, "count": count, "seed": self._seed, "host": self.host}
        old = name.startswith("oops_amqp")
        return subprocess.Popen(
            [
                str(self._old_python) if old else sys.executable,
                str(HERE / "contenders.py"),
                name,
                json.dumps({**given, **more}),
            ],
            env=self._environ,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            text=True,
        )

    @staticmethod
    def _finish(process: subprocess.Popen[str]) -> str:
        out, _ = process.communicate(timeout=PATIENCE)
        if process.returncode:
            raise RuntimeError(f"{process.args} has failed")
        return out

    def resubmit(self, name: str, size: str, count: int) -> float:
        """Return the seconds for a report, from a fallback repository to the broker.

        Args:
            name: The contender, or ``resubmit``: our command, its start included.
            size: A key of `benchmarks.reports.SIZES`.
            count: Reports in the repository.
        """
        with self.repository() as folder:
            self._seed += 1
            publish = FolderPublisher(folder, sync=False)
            for report in reports(size, count, self._seed):
                publish(report)
            if name != "resubmit":
                return self.run(name, size, count, folder=str(folder))
            command = [sys.executable, "-m", "oops_celery.cli", "resubmit", str(folder)]
            seconds = self.seconds_of(command, 1) / count
            if files(folder):
                raise RuntimeError("some reports are still there")
            return seconds

    # -- Receiving --------------------------------------------------------------------

    def fill(self, size: str, count: int) -> None:
        """Put reports into the queue, as our publisher sends them."""
        self._seed += 1
        publisher = oops_celery.Publisher()
        done = publisher.publish_many(reports(size, count, self._seed))
        if sum(map(len, done)) != count:
            raise RuntimeError("the queue could not be filled")
        publisher.close()

    def oops_amqp_receiver(self, size: str, count: int) -> float:
        """Return the reports that oops-amqp's Receiver stores in a second."""
        self.fill(size, count)
        with amqp.Connection(host=self.host) as connection:
            connection.channel().basic_publish(amqp.Message(b"end"), "oopses", "")
        return self._rate_of(["oops_amqp_receiver"], size, count)

    def bare_receivers(self, size: str, count: int) -> float:
        """Return the reports that the least there can be stores, in 2 processes."""
        self.fill(size, count)
        return self._rate_of(["bare_receiver"] * 2, size, count)

    def _rate_of(self, names: list[str], size: str, count: int) -> float:
        with self.repository() as folder:
            started = [
                self._start(name, size, count, folder=str(folder)) for name in names
            ]
            for process in started:
                self._finish(process)
            return rate(folder, count)

    def worker(self, size: str, count: int, workers: int = 1) -> float:
        """Return the reports that our worker stores in a second, with 2 processes."""
        self.fill(size, count)
        with self.repository() as folder, self.running(folder, workers):
            self.wait(folder, count)
            return rate(folder, count)

    @contextmanager
    def in_memory(self, wanted: bool = True) -> Iterator[None]:
        """Make repositories in memory: the pace of a disk changes all the time."""
        if wanted and MEMORY.is_dir():
            self._repositories = MEMORY
        try:
            yield
        finally:
            self._repositories = self.folder

    @contextmanager
    def repository(self) -> Iterator[Path]:
        """A folder for reports."""
        os.sync()  # nobody pays for what was written, or removed, before
        folder = Path(tempfile.mkdtemp(dir=self._repositories))
        yield folder
        shutil.rmtree(folder)

    @contextmanager
    def running(
        self, folder: Path, workers: int = 1
    ) -> Iterator[list[subprocess.Popen[bytes]]]:
        """Workers with 2 processes each."""
        environ = {**self._environ, "OOPS_REPOSITORY": str(folder)}
        celery = Path(sys.executable).with_name("celery")
        processes = [
            subprocess.Popen(
                [celery, "-A", "oops_celery", "worker", "-c", "2", "-n", f"w{n}@%h"],
                env=environ,
                cwd=self.folder,
                stdout=subprocess.DEVNULL,
            )
            for n in range(workers)
        ]
        try:
            yield processes
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(PATIENCE)

    def wait(self, folder: Path, count: int) -> None:
        """Wait until so many reports are stored. Looks seldom: looking takes time."""
        deadline = time.monotonic() + PATIENCE
        with amqp.Connection(host=self.host) as connection:
            channel = connection.channel()
            while channel.queue_declare("oopses", passive=True).message_count:
                if time.monotonic() > deadline:
                    raise RuntimeError("the worker does not come to an end")
                time.sleep(0.25)
        while len(files(folder)) < count:
            if time.monotonic() > deadline:
                raise RuntimeError("reports are missing")
            time.sleep(0.1)

    def purge(self) -> None:
        """Empty the queue."""
        with amqp.Connection(host=self.host) as connection:
            connection.channel().queue_purge("oopses")

    # -- One report, and what the programs need --------------------------------------

    def latency(self, count: int) -> list[float]:
        """Return the seconds from publishing a report to its file, nothing else to do.

        Sorted, the shortest first.
        """
        publish = oops_celery.Publisher()
        seconds = []
        with self.repository() as folder, self.running(folder):
            day = None
            for number, report in enumerate(reports("3 KB", count + 20, 0)):
                time.sleep(0.02)
                started = time.perf_counter()
                if not publish(report):
                    raise RuntimeError("a report was not published")
                while day is None or len(os.listdir(day)) <= number:
                    with suppress(StopIteration, FileNotFoundError):
                        day = day or next(folder.iterdir())
                    time.sleep(0.0005)
                seconds.append(time.perf_counter() - started)
        publish.close()
        return sorted(seconds[20:])

    def memory(self, size: str, counts: tuple[int, ...]) -> dict[int, float]:
        """Return the worker's memory (MB, all its processes) after so many reports."""
        found = {}
        with self.repository() as folder, self.running(folder) as (process,):
            total = 0
            for count in counts:
                self.fill(size, count - total)
                total = count
                self.wait(folder, total)
                found[count] = rss(process.pid)
        return found

    def seconds_of(self, command: list[str], rounds: int) -> float:
        """Return the median of the seconds that a command takes."""
        found = []
        for _ in range(rounds):
            started = time.perf_counter()
            subprocess.run(
                command,
                check=True,
                env=self._environ,
                cwd=self.folder,
                stdout=subprocess.DEVNULL,
            )
            found.append(time.perf_counter() - started)
        return statistics.median(found)

    def seconds_to_ready(self, rounds: int) -> float:
        """Return the seconds from starting a worker to the first report's file."""
        found = []
        for _ in range(rounds):
            self.fill("3 KB", 1)
            with self.repository() as folder:
                started = time.perf_counter()
                with self.running(folder):
                    while not files(folder):
                        time.sleep(0.01)
                    found.append(time.perf_counter() - started)
        return statistics.median(found)


def files(folder: Path) -> list[Path]:
    """Return the reports of a folder."""
    return [path for path in folder.glob("*/*") if path.suffix != ".tmp"]


def rate(folder: Path, count: int) -> float:
    """Return the reports stored in a second, by the times of their files."""
    times = sorted(path.stat().st_mtime for path in files(folder))
    if len(times) != count:
        raise RuntimeError(f"{len(times)} of {count} reports are there")
    first = int(count * WARM_UP)
    return (count - first) / (times[-1] - times[first])


def rss(pid: int) -> float:
    """Return the memory of a process and its children, in MB."""
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    return sum(one.memory_info().rss for one in family) / 1e6
