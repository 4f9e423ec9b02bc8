"""What a worker says of reports that its repository refuses."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from oops_celery.receiving.refusals import WARNING_INTERVAL, Refusals
from tests.support import Node, Worker, eventually


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return what was logged since the last call, at the default level of a worker."""
    caplog.set_level(logging.WARNING, "oops_celery")

    def take() -> list[str]:
        lines = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return lines

    return take


def test_the_first_is_said_at_once_and_the_others_once_a_minute(
    said: Callable[[], list[str]],
) -> None:
    now = [1000.0]
    refusals = Refusals(lambda: now[0])
    for number in range(769):
        refusals.refused(f"OSError: full {number}", "oopses.retry.2")
        refusals.tell()
    (line,) = said()
    assert line.startswith("reports refused since 20")
    assert line.endswith(
        ": 1; last reason: OSError: full 0; they wait in oopses.retry.2"
    )
    now[0] += WARNING_INTERVAL
    refusals.taken()
    refusals.tell()
    refusals.tell()
    (line,) = said()
    assert ": 769, 768 of them in the last minute; last reason: OSError: full 768;" in (
        line
    )
    assert refusals.known()["refused"] == 769


def test_that_reports_are_taken_again_is_said_once(
    said: Callable[[], list[str]],
) -> None:
    now = [1000.0]
    refusals = Refusals(lambda: now[0])
    refusals.taken()
    refusals.tell()
    refusals.refused("OSError: full", "oopses.retry.1")
    said()
    now[0] += WARNING_INTERVAL
    refusals.tell()  # neither taken nor refused: nobody knows
    assert said() == []
    refusals.taken()
    refusals.tell()
    (line,) = said()
    assert line.startswith("reports are taken again; 1 were refused since 20")
    now[0] += WARNING_INTERVAL
    refusals.taken()
    refusals.tell()
    assert said() == []
    assert refusals.known()["reason"] == "OSError: full"
    refusals.refused("OSError: again", "oopses.retry.1")
    (line,) = said()
    assert ": 1; last reason: OSError: again;" in line


def test_a_long_reason_is_shortened(said: Callable[[], list[str]]) -> None:
    Refusals().refused("x" * 5000, "oopses.retry.1")
    (line,) = said()
    assert len(line) < 500


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads", "gevent", "eventlet"])
def test_at_the_default_level_each_pool_says_it_once(
    pool: str,
    broker: Node,
    worker: Callable[..., Worker],
    run: Callable[..., str],
    keeper: Callable[[str], dict[str, str]],
) -> None:
    settings = keeper(
        """
        if seen == 1:
            raise OSError("disk full\\x1b[2J")
        return repository.publish(report)
        """
    )
    started = worker("-P", pool, "-c", "2", **settings)
    run(
        "import oops, oops_celery\n"
        "for n in range(30):\n"
        "    assert oops_celery.publisher({'n': n})",
        OOPS_PUBLISH_TIMEOUT="50",
    )
    eventually(lambda: len(started.files()) == 30, 180)
    text = started.text()
    lines = [one for one in text.splitlines() if "reports refused since" in one]
    assert len(lines) == 1, text
    assert ": WARNING/MainProcess] " in lines[0]
    assert (
        "last reason: OSError: disk full\\x1b[2J; they wait in oopses.retry.1"
        in (lines[0])
    )
