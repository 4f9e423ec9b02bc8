"""Each fault under load: no report is lost, and none is there twice."""

from __future__ import annotations

import random

import pytest

from tests.faults.breaking import FAULTS, Fault, order, wait_for_told
from tests.faults.nodes import DEAD, Setup

#: Reports in a second, of all publishers together.
RATE = 200


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_loses_nothing(celery_setup: Setup, fault: Fault) -> None:
    celery_setup.load.start(RATE)
    celery_setup.wait_for_kept(100)
    with order(celery_setup, "busy"):  # so that a fault always has a victim
        celery_setup.wait_for_kept(10)
        fault(celery_setup, random.Random(fault.__name__))
    wait_for_told(celery_setup, "returned", 100)  # publishing goes on
    celery_setup.wait_for_kept(100)  # and so does the worker
    celery_setup.load.stop()
    ledger = celery_setup.settle()
    ledger.assert_nothing_lost()
    assert not ledger.parked, celery_setup.broker.ids(DEAD)
