"""A real file system that is full, then read-only: needs the right to mount one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.breaking import wait_for_log, wait_for_told
from tests.faults.nodes import Setup
from tests.faults.processes import PATIENCE
from tests.support import eventually

RATE = 200


def mount(*command: str | Path) -> bool:
    done = subprocess.run(["mount", *command], capture_output=True, check=False)
    return done.returncode == 0


@pytest.fixture
def disk(celery_setup: Setup) -> Iterator[Path]:
    """A file system of 1 MB in memory, in the place of the repository."""
    folder = celery_setup.home / "oopses"
    if not mount("-t", "tmpfs", "-o", "size=1m", "oopses", folder):
        pytest.skip("nothing can be mounted here (that needs root)")
    yield folder
    celery_setup.worker.kill()  # it has files open there
    subprocess.run(["umount", folder], check=True)


def test_a_full_file_system(celery_setup: Setup, disk: Path) -> None:
    celery_setup.load.start(RATE)
    wait_for_log(celery_setup.worker, "No space left on device")
    wait_for_told(celery_setup, "returned")
    assert mount("-o", "remount,size=100m", disk)
    celery_setup.wait_for_kept(100)
    celery_setup.load.stop()
    celery_setup.settle().assert_nothing_lost()


def test_a_read_only_file_system(celery_setup: Setup, disk: Path) -> None:
    assert mount("-o", "remount,size=100m", disk)
    celery_setup.load.start(RATE)
    celery_setup.wait_for_kept(50)
    # Refused as long as a file is open for writing.
    eventually(lambda: mount("-o", "remount,ro", disk), PATIENCE)
    wait_for_log(celery_setup.worker, "Read-only file system")
    assert mount("-o", "remount,rw", disk)
    celery_setup.wait_for_kept(100)
    celery_setup.load.stop()
    celery_setup.settle().assert_nothing_lost()
