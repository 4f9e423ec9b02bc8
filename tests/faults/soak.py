"""`make soak`: faults in a random mix, under load, and one table of what became of it.

python -m tests.faults.soak --seconds 600 --seed 1
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_celery import CeleryBrokerCluster, CeleryWorkerCluster
from rich.console import Console
from rich.table import Table

from tests.faults.breaking import MIXED
from tests.faults.ledger import Ledger
from tests.faults.nodes import BrokerNode, Setup, WorkerNode, prepare
from tests.faults.processes import BrokerProcess, LocalProcess, WorkerProcess

#: Reports in a second, of all publishers together; what the machine allows, at most.
RATE = 600

#: One report in so many is deadly, slow, hanging or large.
ODD_ONE_IN = 1000


def mix(
    setup: Setup, chance: random.Random, seconds: float, say: Callable[[str], None]
) -> int:
    """Have one fault after the other, chosen by chance; return their number."""
    until = time.monotonic() + seconds
    faults = 0
    while time.monotonic() < until:
        fault = chance.choice(MIXED)
        say(fault.__name__)
        fault(setup, chance)
        faults += 1
        setup.wait_for_kept(1)  # what is mended works
    return faults


@contextmanager
def local_setup(home: Path, workers: int) -> Iterator[Setup]:
    """A setup of pytest-celery's, outside pytest."""
    prepare(home)
    broker = BrokerProcess()
    processes: list[LocalProcess] = [broker]
    try:
        broker.start()
        for number in range(workers):
            worker = WorkerProcess(
                f"w{number + 1}", home, broker.url, OOPS_TASK_TIME_LIMIT="10"
            )
            processes.append(worker)
            worker.start()
        nodes = [WorkerNode(worker, None) for worker in processes[1:]]
        setup = Setup(
            worker_cluster=CeleryWorkerCluster(*nodes),
            broker_cluster=CeleryBrokerCluster(BrokerNode(broker, None)),
            backend_cluster=None,
        )
        try:
            yield setup
        finally:
            setup.teardown()
    finally:
        for process in reversed(processes):
            process.teardown()


def table(ledger: Ledger, seed: int, faults: int, seconds: float) -> Table:
    shown = Table(title=f"seed {seed}: {faults} faults in {seconds:.0f} s")
    rows = {
        "reports published": len(ledger.published),
        "returned": len(ledger.returned),
        "fallen back": len(ledger.fallen_back),
        "republished": len(ledger.kept),
        "parked": len(ledger.parked),
        "still waiting": len(ledger.waiting),
        "fallen back, and republished": len(ledger.both),
        "duplicates": len(ledger.twice),
        "lost": len(ledger.lost),
    }
    shown.add_column("")
    shown.add_column("reports", justify="right")
    for name, count in rows.items():
        shown.add_row(name, f"{count:,}")
    return shown


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    console = Console()
    started = time.monotonic()

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        console.print(f"soak: seed {seed}, {options.seconds:.0f} s; Ctrl-C ends it")
        with local_setup(home, options.workers) as setup:

            def say(fault: str) -> None:
                passed = time.monotonic() - started
                told = len(setup.records.told())
                kept = setup.records.count_kept()
                console.print(
                    f"{passed:6.0f} s {told:8,} published {kept:8,} kept  {fault}"
                )

            faults = 0
            setup.load.start(RATE, odd=1 / ODD_ONE_IN)
            try:
                faults = mix(setup, random.Random(seed), options.seconds, say)
            except KeyboardInterrupt:
                console.print("interrupted: what was mended is counted")
                for process in (setup.broker.container, setup.worker.container):
                    if process.status == "exited":
                        process.start()
            lasted = time.monotonic() - started
            setup.load.stop()
            say("waiting until every report has come to rest")
            ledger = setup.settle(600)
            console.print(table(ledger, seed, faults, lasted))
            for one in (*ledger.lost, *ledger.twice)[:20]:
                console.print(f"lost or twice: {one}")
    return 1 if ledger.lost else 0


if __name__ == "__main__":
    sys.exit(main())
