"""`make bench` measures what it says; how fast it all is, no test asks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import SECTIONS
from benchmarks.reports import SIZES, reports
from oops_celery import wire
from tests.support import ROOT, environment


@pytest.mark.parametrize("size", SIZES)
def test_reports_are_of_their_size_and_the_same_each_time(size: str) -> None:
    first = [wire.encode(report) for report in reports(size, 3)]
    assert first == [wire.encode(report) for report in reports(size, 3)]
    assert len({encoded.id for encoded in first}) == 3
    assert 0.7 < len(first[0].body) / SIZES[size] < 1.3
    assert first[0].id != next(wire.encode(one).id for one in reports(size, 1, seed=2))


@pytest.mark.slow
def test_each_part_measures_something(old_python: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--old-python", old_python, "--json"]
        + ["--rounds", "1", "--scale", "0.01"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(done.stdout)["results"]
    assert [*results] == [*SECTIONS]
    assert all(value > 0 for rows in results.values() for _, _, value, _ in rows)
