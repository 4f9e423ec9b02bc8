"""`make memory`: the worker's memory, over many reports and before a large backlog.

python -m tests.faults.memory --reports 100000
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import kombu
from rich.console import Console

import oops_celery
from tests.faults.breaking import away
from tests.faults.load import USUAL
from tests.faults.nodes import Setup
from tests.faults.soak import local_setup
from tests.support import eventually

#: What the worker's memory may grow by, from a tenth of the reports to all of them.
ALLOWED = 1.10

#: Reports that are refused before memory is measured.
REFUSALS = 5000

#: Seconds that all reports may take.
PATIENCE = 3600.0


def publish(setup: Setup, count: int) -> None:
    """Publish so many reports, as fast as the broker confirms them."""
    url = setup.broker.container.url
    publisher = oops_celery.Publisher(lambda: kombu.Connection(url), "oopses", "")
    filler = "x" * USUAL
    numbers = range(setup.published, setup.published + count)
    reports = ({"type": "ValueError", "n": n, "filler": filler} for n in numbers)
    answers = publisher.publish_many(reports)
    assert sum(1 for one in answers if one) == count
    setup.published += count


def wait_for_refusals(setup: Setup) -> None:
    """Wait until so many reports were refused that the memory for that is taken."""
    log = setup.worker.container.log
    enough = log.stat().st_size + REFUSALS * 2000  # a traceback has about as much
    eventually(lambda: log.stat().st_size > enough, PATIENCE)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--reports", type=int, default=100_000)
    options = parser.parse_args()
    console = Console()
    sizes: list[float] = []

    def measure(setup: Setup, what: str) -> None:
        sizes.append(setup.worker.rss() / 2**20)
        console.print(f"{what:<45} {sizes[-1]:8.1f} MiB")

    with tempfile.TemporaryDirectory() as folder, local_setup(Path(folder), 1) as setup:
        setup.published = 0
        tenth = options.reports // 10
        for count in (tenth, options.reports - tenth):
            publish(setup, count)
            eventually(lambda: setup.records.count_kept() >= setup.published, PATIENCE)
            measure(setup, f"after {setup.published:,} reports")
        with away(setup) as repository:
            repository.touch()
            for count in (tenth, options.reports - tenth):
                publish(setup, count)
                wait_for_refusals(setup)
                waiting = setup.broker.ready_messages()
                measure(setup, f"repository down, {waiting:,} waiting")
    grown = max(sizes[1] / sizes[0], sizes[3] / sizes[2])
    console.print(f"at most {grown:.2f} times as much, for ten times the reports")
    return 1 if grown > ALLOWED else 0


if __name__ == "__main__":
    sys.exit(main())
