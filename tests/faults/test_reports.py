"""Reports that harm whoever takes them, and settings that bear it."""

from __future__ import annotations

import random
import signal

import pytest

from tests.faults.breaking import restart_broker, wait_for_told
from tests.faults.load import TOO_LARGE
from tests.faults.nodes import DEAD, Setup
from tests.faults.processes import PATIENCE, ROOT
from tests.support import eventually

RATE = 100


def test_a_report_that_kills_its_process_is_parked(celery_setup: Setup) -> None:
    """Only that one; those beside it in the worker are kept."""
    celery_setup.load.start(RATE)
    celery_setup.wait_for_kept(50)
    deadly = [celery_setup.load.report(order="exit") for _ in range(3)]
    parked = eventually(
        lambda: len(found := celery_setup.broker.ids(DEAD)) >= 3 and found, PATIENCE
    )
    celery_setup.wait_for_kept(50)
    celery_setup.load.stop()
    assert sorted(parked) == sorted(deadly)
    ledger = celery_setup.settle()
    ledger.assert_nothing_lost()
    assert set(ledger.parked) == set(deadly)


def test_a_report_that_kills_the_whole_worker_keeps_nobody_waiting(
    celery_setup: Setup,
) -> None:
    """RabbitMQ puts it back to its place; some others are done before it each time."""
    all_but_one_are_kept(celery_setup)


@pytest.mark.parametrize(
    "pool",
    [
        pytest.param(name, marks=pytest.mark.workers(1, OOPS_WORKER_POOL=name))
        for name in ("solo", "threads")
    ],
)
def test_such_a_report_keeps_nobody_waiting_in_other_pools(
    celery_setup: Setup, pool: str
) -> None:
    all_but_one_are_kept(celery_setup)


def all_but_one_are_kept(celery_setup: Setup) -> None:
    """Start the worker again and again, with a report that kills it among others."""
    worker, broker = celery_setup.worker.container, celery_setup.broker
    with celery_setup.worker.pause():
        for number in range(60):
            deadly = {"order": "kill the worker"} if number == 30 else {}
            celery_setup.load.report(**deadly)
    for _ in range(15):
        assert worker.wait() == -signal.SIGKILL
        if celery_setup.records.count_kept() == 59:
            break
        worker.launch()
    assert celery_setup.records.count_kept() == 59
    assert celery_setup.ledger().lost == []
    assert broker.ids(DEAD) == []


def test_a_report_at_work_when_the_broker_restarts(celery_setup: Setup) -> None:
    """It takes 10 s. It is sent again meanwhile, and is one file."""
    slow = celery_setup.load.report(order="sleep 10")
    celery_setup.worker.wait_for_log(f"[{slow}] received")
    celery_setup.load.start(RATE)
    restart_broker(celery_setup, random.Random(0))
    celery_setup.wait_for_kept(50)
    celery_setup.load.stop()
    ledger = celery_setup.settle()
    ledger.assert_nothing_lost()
    assert ledger.kept[slow] == 1
    assert celery_setup.worker.logs().count(f"[{slow}] received") == 2


def test_a_report_of_20_mb_goes_to_the_fallback(celery_setup: Setup) -> None:
    large = celery_setup.load.report(size=TOO_LARGE)
    usual = celery_setup.load.report()
    ledger = celery_setup.settle()
    ledger.assert_nothing_lost()
    assert ledger.fallen_back == {large}
    assert ledger.returned == {usual} == set(ledger.kept)


@pytest.mark.workers(1, OOPS_TASK_TIME_LIMIT="3")
def test_a_time_limit_ends_what_hangs(celery_setup: Setup) -> None:
    """What hangs once is kept the next time; what hangs again is parked, and once."""
    celery_setup.load.start(RATE)
    celery_setup.wait_for_kept(50)
    once = celery_setup.load.report(order="hang once")
    always = celery_setup.load.report(order="hang")
    eventually(lambda: celery_setup.broker.ids(DEAD) == [always], PATIENCE)
    celery_setup.wait_for_kept(50)
    celery_setup.load.stop()
    ledger = celery_setup.settle()
    ledger.assert_nothing_lost()
    assert ledger.kept[once] == 1
    assert ledger.parked == {always: 1}
    log = celery_setup.worker.logs()
    assert log.count(f"[{once}] received") == log.count(f"[{always}] received") == 2


@pytest.mark.workers(1, PYTHONPATH=f"{ROOT}:{ROOT}/tests/faults/clock")
def test_time_jumps(celery_setup: Setup) -> None:
    """`time.time` of worker and publishers goes a day ahead, then two days back.

    Also while the broker is away, and publishers pause before they ask it again.
    """
    path = f"{ROOT}:{ROOT}/tests/faults/clock"
    celery_setup.load.start(RATE, PYTHONPATH=path)
    celery_setup.wait_for_kept(50)
    for jump in (86_400, -86_400):
        celery_setup.broker.kill()
        wait_for_told(celery_setup, "fallback")
        (celery_setup.home / "clock").write_text(str(jump))
        celery_setup.broker.restart()
        wait_for_told(celery_setup, "returned", 100)
        celery_setup.wait_for_kept(100)
    celery_setup.load.stop()
    celery_setup.settle().assert_nothing_lost()
