"""Faults in a random mix: a short soak."""

from __future__ import annotations

import os
import random

import pytest

from tests.faults.nodes import Setup
from tests.faults.soak import mix

#: FAULTS_SEED=n chooses the same faults again.
SEED = int(os.environ.get("FAULTS_SEED") or random.randrange(10**6))


@pytest.mark.workers(2, OOPS_TASK_TIME_LIMIT="10")
def test_a_random_mix_loses_nothing(celery_setup: Setup) -> None:
    print(f"FAULTS_SEED={SEED}")  # noqa: T201 - pytest shows it with a failure
    celery_setup.load.start(200, odd=1 / 500)
    assert mix(celery_setup, random.Random(SEED), 40, print) > 0
    celery_setup.load.stop()
    celery_setup.settle().assert_nothing_lost()
