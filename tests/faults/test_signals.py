"""A worker is told to end: reports at work go back, and none is judged by that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.losses import Field
from tests.faults.processes import PATIENCE, BrokerProcess
from tests.support import eventually

SUPERVISOR = """
[supervisord]
pidfile={home}/supervisord.pid
logfile={home}/supervisord.log

[program:worker]
command={command}
directory={home}
stdout_logfile={log}
redirect_stderr=true
stopasgroup=true
stopwaitsecs={patience:.0f}
"""


@pytest.fixture(scope="module")
def node() -> Iterator[BrokerProcess]:
    process = BrokerProcess()
    process.start()
    yield process
    process.teardown()


@pytest.fixture
def place(node: BrokerProcess, tmp_path: Path) -> Iterator[Field]:
    made = Field(tmp_path, node)
    yield made
    made.close()


def once(place: Field) -> None:
    os.killpg(place.worker.group, signal.SIGTERM)


def twice(place: Field) -> None:
    """The second one while processes end, or are about to."""
    pool = place.worker.processes()[1:]
    once(place)
    eventually(lambda: not all(one.is_running() for one in pool), PATIENCE)
    once(place)


def twice_at_once(place: Field) -> None:
    once(place)
    once(place)


def processes_first(place: Field) -> None:
    """A container's shell sends it on, and later ends itself."""
    main, *pool = place.worker.processes()
    for process in pool:
        process.terminate()
    main.terminate()
    once(place)


@pytest.mark.parametrize("signals", [once, twice, twice_at_once, processes_first])
def test_sigterm_to_all_processes(
    place: Field, signals: Callable[[Field], None]
) -> None:
    """Three times for the same reports: as if that were their doing."""
    for number in range(60):
        place.report(order="sleep 1" if number % 5 == 0 else None)
    received = 0
    for _ in range(3):
        place.worker.start()
        place.received(received + 10)
        signals(place)
        place.worker.wait()
        received = place.worker.logs().count(" received")
    place.worker.start()
    place.wait_until_all_is_kept()
    place.stop()


def test_supervisord_that_stops_the_group(place: Field) -> None:
    for number in range(30):
        place.report(order="sleep 1" if number % 5 == 0 else None)
    settings = place.home / "supervisord.conf"
    settings.write_text(
        SUPERVISOR.format(
            home=place.home,
            command=" ".join(place.worker.command),
            log=place.worker.log,
            patience=PATIENCE,
        ).replace("%h", "%%h")
    )
    received = 0
    for _ in range(3):
        with (place.home / "supervisord.out").open("ab") as out:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "supervisor.supervisord",
                    "--nodaemon",
                    "-c",
                    settings,
                ],
                env=place.worker.environ,
                stdout=out,
                stderr=out,
            )
        try:
            place.received(received + 4)
        finally:
            process.terminate()
            assert process.wait(PATIENCE) == 0
        received = place.worker.logs().count(" received")
    place.worker.start()
    place.wait_until_all_is_kept()
