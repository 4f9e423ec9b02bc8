"""Two workers share the queue: what one drops, the other takes up."""

from __future__ import annotations

import pytest

from tests.faults.breaking import MISSED, order, wait_for_told
from tests.faults.nodes import Setup
from tests.faults.processes import PATIENCE
from tests.support import eventually

RATE = 200

pytestmark = pytest.mark.workers(2)


def test_one_is_killed(celery_setup: Setup) -> None:
    first, second = celery_setup.workers
    celery_setup.load.start(RATE)
    celery_setup.wait_for_kept(100)
    for worker in (first, second):
        eventually(lambda w=worker: "succeeded" in w.logs(), PATIENCE)
    with order(celery_setup, "busy"):  # so that it has reports at work
        celery_setup.wait_for_kept(20)
        first.kill()
    celery_setup.wait_for_kept(200)
    celery_setup.load.stop()
    celery_setup.settle().assert_nothing_lost()
    assert first.container.status == "exited"


def test_one_is_frozen_until_the_broker_drops_it(celery_setup: Setup) -> None:
    """The other gets its reports; thawed, it goes on with the same ones."""
    first, _ = celery_setup.workers
    celery_setup.load.start(RATE)
    celery_setup.wait_for_kept(100)
    before = celery_setup.broker.logs().count(MISSED)
    with first.pause():
        eventually(lambda: celery_setup.broker.logs().count(MISSED) > before, PATIENCE)
        celery_setup.load.stop()
        celery_setup.settle().assert_nothing_lost()  # without the frozen one
    celery_setup.load.start(RATE)
    wait_for_told(celery_setup, "returned", 100)
    received = first.logs().count(" received")
    eventually(lambda: first.logs().count(" received") > received, PATIENCE)
    celery_setup.load.stop()
    celery_setup.settle().assert_nothing_lost()
