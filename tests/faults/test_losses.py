"""Connections are lost: the worker is never stuck, and no innocent is parked."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from oops_celery.receiving.watchdog import STUCK
from tests.faults.breaking import LOST
from tests.faults.losses import Field, Plan, runs
from tests.faults.processes import PATIENCE, BrokerProcess
from tests.support import eventually

#: Runs of each kind: FAULTS_RUNS=10 has more of them, FAULTS_SEED=n other ones.
RUNS = int(os.environ.get("FAULTS_RUNS", "1"))
SEED = int(os.environ.get("FAULTS_SEED", "1"))


@pytest.fixture(scope="module")
def node() -> Iterator[BrokerProcess]:
    process = BrokerProcess()
    process.start()
    yield process
    process.teardown()


@pytest.mark.parametrize(
    ("pool", "options", "count"),
    [
        ("prefork", (), 20 * RUNS),
        ("prefork", ("--prefetch-multiplier", "1"), 5 * RUNS),
        ("threads", (), 5 * RUNS),
        ("solo", (), 5 * RUNS),
        ("gevent", ("-c", "10"), 5 * RUNS),
        ("eventlet", ("-c", "10"), 5 * RUNS),
    ],
    ids=["batches", "one by one", "threads", "solo", "gevent", "eventlet"],
)
def test_twelve_losses(
    node: BrokerProcess, pool: str, options: tuple[str, ...], count: int
) -> None:
    plans = [Plan(SEED + number, reports=200) for number in range(count)]
    assert runs(node, plans, "-P", pool, *options) == []


def test_sixty_losses(node: BrokerProcess) -> None:
    plans = [Plan(SEED + number, losses=60, reports=400) for number in range(2 * RUNS)]
    assert runs(node, plans) == []


def test_twelve_losses_while_processes_have_much_to_say(node: BrokerProcess) -> None:
    """What they say is half read when the connection is lost."""
    plans = [Plan(SEED + number, reports=200, verbose=True) for number in range(3)]
    assert runs(node, plans) == []


# -- The causes, one by one -----------------------------------------------------------


@pytest.fixture
def place(node: BrokerProcess, tmp_path: Path) -> Iterator[Field]:
    """A worker with one process, behind a proxy."""
    made = Field(tmp_path, node, "-c", "1")
    made.worker.start()
    yield made
    made.close()


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def main_of(place: Field) -> int:
    return place.worker.group


def process_of(place: Field) -> int:
    _, process = place.worker.processes()
    return int(process.pid)


def publish(place: Field, count: int, **more: object) -> None:
    for number in range(count):
        place.report(number=number, **more)


def wait_until_idle(pid: int) -> None:
    """Wait until a process does nothing, as it waits for room in a pipe."""
    process = psutil.Process(pid)

    def rests() -> bool:
        before = process.cpu_times()
        time.sleep(0.5)
        return process.cpu_times() == before

    eventually(rests, PATIENCE)


def lose(place: Field) -> None:
    before = place.worker.logs().count(LOST)
    eventually(place.to_worker.cut, PATIENCE)
    eventually(lambda: place.worker.logs().count(LOST) > before, PATIENCE)


def has_received_again(place: Field) -> bool:
    """Return whether messages came since the last loss: over the present connection."""
    return " received" in place.worker.logs().rpartition(LOST)[2]


def test_what_is_half_read_when_the_connection_is_lost(place: Field) -> None:
    """Celery reads on as if a new message began there."""
    process = process_of(place)
    for _ in range(5):
        with frozen(process):
            publish(place, 20, order="verbose once")
        with frozen(main_of(place)):
            wait_until_idle(process)
            place.to_worker.cut()
        place.wait_until_all_is_kept()
    assert process_of(place) == process
    place.stop()


def test_what_is_half_written_when_the_connection_is_lost(place: Field) -> None:
    """Celery waits for 10 s, and then kills the process."""
    process = process_of(place)
    with frozen(process):
        publish(place, 10, filler="x" * 100_000)
        place.received(10)
        connected = place.worker.logs().count("Connected to")
        started = time.monotonic()
        lose(place)
        eventually(lambda: place.worker.logs().count("Connected to") > connected)
        assert time.monotonic() - started < 8
    place.wait_until_all_is_kept()
    assert process_of(place) == process
    assert "damaged" not in place.worker.logs()


def test_the_end_of_a_worker_comes_after_what_is_half_written(place: Field) -> None:
    process = process_of(place)
    with frozen(process):
        publish(place, 10, filler="x" * 100_000)
        place.received(10)
        os.kill(main_of(place), signal.SIGTERM)
        eventually(lambda: "Warm shutdown" in place.worker.logs())
    assert place.worker.wait() == 0
    place.worker.start()
    place.wait_until_all_is_kept()


@pytest.mark.parametrize("losses", [1, 3])
def test_a_report_at_work_when_the_connection_is_lost_is_done_once(
    place: Field, losses: int
) -> None:
    """Its message comes again, and is told the end of it."""
    with frozen(process_of(place)):
        publish(place, 20, order="count")
        place.received(20)
        for number in range(losses):
            lose(place)
            place.received(20 * (2 + number))
    place.wait_until_all_is_kept()
    seen = [path.stat().st_size for path in place.home.glob("seen-*")]
    assert seen == [1] * 20


@pytest.mark.parametrize("way", ["to the broker", "to the worker"])
def test_a_frozen_network_is_a_lost_connection(place: Field, way: str) -> None:
    """Noticed by heartbeats, and by TCP; while events and reports are sent."""
    publish(place, 20)
    place.wait_until_all_is_kept()
    before = place.worker.logs().count(LOST)
    assert place.to_worker.freeze(way == "to the broker")
    publish(place, 200)
    eventually(lambda: place.worker.logs().count(LOST) > before, PATIENCE)
    place.wait_until_all_is_kept()
    place.stop()


@pytest.mark.parametrize("way", ["to the broker", "to the worker"])
def test_sigterm_while_the_network_is_frozen(place: Field, way: str) -> None:
    publish(place, 20)
    place.wait_until_all_is_kept()
    assert place.to_worker.freeze(way == "to the broker")
    place.stop()


def test_a_network_that_flaps_parks_nothing(place: Field) -> None:
    """RabbitMQ counts a delivery for each message that the worker had."""
    with frozen(process_of(place)):
        publish(place, 30)
        for _ in range(15):
            eventually(lambda: has_received_again(place), PATIENCE)
            lose(place)
    place.wait_until_all_is_kept()


def test_an_innocent_report_is_not_judged_by_lost_connections(place: Field) -> None:
    """Its process dies for the first time after its message came again."""
    place.stop()
    publish(place, 1, order="hang once")
    with place.broker.container.connect() as connection:
        assert connection.channel().basic_get("oopses")
    place.worker.start()
    eventually(lambda: list(place.home.glob("seen-*")), PATIENCE)
    os.kill(process_of(place), signal.SIGKILL)
    place.wait_until_all_is_kept()


def test_the_watchdog_takes_a_new_connection(node: BrokerProcess, place: Field) -> None:
    """Processes that take nothing are as near as one comes to a stuck worker."""
    with frozen(process_of(place)):
        publish(place, 10)
        eventually(lambda: STUCK in place.worker.logs(), PATIENCE)
        eventually(lambda: place.worker.logs().count("Connected to") > 1, PATIENCE)
    log = place.worker.logs()
    assert "10 messages; 9 reports wait, 1 batches are handed over, 0 are begun" in log
    place.wait_until_all_is_kept(stuck=True)
