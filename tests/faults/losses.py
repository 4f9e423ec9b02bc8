"""`make soak-losses`: connections are lost again and again, while reports flow.

python -m tests.faults.losses --runs 200 --losses 12 --seed 1

Each run publishes reports, loses connections of the worker and of the publisher in
ways that its seed chooses, and has the repository refuse for a while. Afterwards each
report is kept, none is parked, and the worker ends when it is asked to.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import kombu

from oops_celery import Publisher, Topology
from oops_celery.receiving.watchdog import STUCK
from tests.faults.ledger import Records
from tests.faults.nodes import DEAD, TOPOLOGY, BrokerNode, prepare
from tests.faults.processes import PATIENCE, BrokerProcess, WorkerProcess
from tests.faults.proxy import Loop, Proxy
from tests.support import eventually

#: Seconds without any progress after which a run has failed: a busy machine is slow.
STALLED = 30.0

#: Seconds that a worker may take to end.
ENDED = 60.0

#: Runs that share a worker.
RUNS_A_WORKER = 5


class Failed(Exception):
    """A run in which something was lost, parked, late or stuck."""


@dataclass(frozen=True)
class Plan:
    """One run.

    Attributes:
        seed: Chooses the faults, and when.
        losses: How often connections are lost.
        reports: Number of reports, of 3 to 6 KB each.
        refusing: Whether the repository refuses for a while in the middle.
        verbose: Whether it tells of that at length: so that what a process says fills
            its pipe.
    """

    seed: int
    losses: int = 12
    reports: int = 3000
    refusing: bool = True
    verbose: bool = False


class Field:
    """A broker, behind proxies for a worker and for a publisher.

    Args:
        home: Folder of the worker.
        broker: A running broker.
        options: Options of the worker's command.
        environ: Its settings.
    """

    def __init__(
        self, home: Path, broker: BrokerProcess, *options: str, **environ: str
    ) -> None:
        prepare(home)
        self.home = home
        self.broker = BrokerNode(broker, None)
        self.broker.clean()
        with kombu.Connection(broker.url) as connection:
            assert not Topology.parse(TOPOLOGY).declare(connection.channel)
        self._loop = Loop()
        port = int(broker.host.rpartition(":")[2])
        self.to_worker, self.to_publisher = (Proxy(self._loop, port) for _ in range(2))
        self.worker = WorkerProcess("w", home, self.to_worker.url, *options, **environ)
        self._publisher, self._direct = (
            Publisher(lambda url=url: kombu.Connection(url), "oopses", "")
            for url in (self.to_publisher.url, broker.url)
        )
        self._records = Records(home)
        self._number = 0

    def close(self) -> None:
        """End the worker and the proxies."""
        self.worker.teardown()
        self._publisher.close()
        self._direct.close()
        self._loop.stop()

    def run(self, plan: Plan) -> float:
        """Carry out a plan; return the seconds from its last loss until all was kept.

        Raises:
            Failed: Something was lost, parked, twice, late or stuck.
        """
        chance = random.Random(plan.seed)
        publishing = threading.Thread(target=self._publish, args=(plan,))
        order = self.home / "orders" / ("verbose" if plan.verbose else "EIO")
        refuses = range(plan.losses // 3, 2 * plan.losses // 3) if plan.refusing else ()
        publishing.start()
        for number in range(plan.losses):
            if number in refuses:
                order.touch()
            else:
                order.unlink(missing_ok=True)
            time.sleep(chance.uniform(0.02, 0.4))
            chance.choice(LOSSES)(self._victim(chance), chance)
        order.unlink(missing_ok=True)
        publishing.join()
        last = time.monotonic()
        self.wait_until_all_is_kept()
        return time.monotonic() - last

    def _victim(self, chance: random.Random) -> Proxy:
        """The worker has consuming, events, and what it sends on; all may be lost."""
        return chance.choice((self.to_worker, self.to_worker, self.to_publisher))

    def _publish(self, plan: Plan) -> None:
        chance = random.Random(plan.seed)
        with (self.home / "records" / "losses").open("a") as records:
            for number in range(plan.reports):
                report = {
                    "type": "ValueError",
                    "run": plan.seed,
                    "n": number,
                    "filler": "x" * chance.randrange(3000, 6000),
                }
                ids = self._publisher(report)
                while not ids:  # its fallback: straight to the broker
                    ids = self._direct(report)
                records.write(f"returned {ids[0]}\n")
                records.flush()

    def report(self, **report: object) -> None:
        """Publish a report, straight to the broker."""
        self._number += 1
        ids = self._direct({"type": "ValueError", "serial": self._number, **report})
        with (self.home / "records" / "direct").open("a") as records:
            records.write(f"returned {ids[0]}\n")

    def received(self, count: int) -> None:
        """Wait until the worker has so many messages, of all connections together."""
        eventually(lambda: self.worker.logs().count(" received") >= count, PATIENCE)

    def wait_until_all_is_kept(self, stuck: bool = False) -> None:
        """Wait as long as there is progress.

        Args:
            stuck: Whether the watchdog was needed.

        Raises:
            Failed: Something is lost, parked, twice, or late.
        """
        published = self._records.count_told("returned")
        kept, deadline = -1, 0.0
        while (now := time.monotonic()) < deadline or kept < 0:
            if kept != (kept := self._records.count_kept()):
                deadline = now + STALLED
            if kept >= published and self.broker.is_drained():
                break
            time.sleep(0.1)
        ledger = self._records.ledger(waiting=(), parked=self.broker.ids(DEAD))
        counts = self.broker.counts()
        problems = {
            "lost": ledger.lost,
            "twice": ledger.twice,
            "parked": sorted(ledger.parked),
            "late": [f"{queue} {n}" for queue, n in counts.items() if any(n)],
            "stuck": [STUCK] if (STUCK in self.worker.logs()) != stuck else [],
            "damaged": ["queue"] if "damaged" in self.worker.logs() else [],
        }
        found = {what: some[:5] for what, some in problems.items() if some}
        if found:
            raise Failed(f"{found}, {len(ledger.kept)} of {published} kept")

    def stop(self) -> float:
        """Ask the worker to end; return the seconds that it took.

        Raises:
            Failed: It is late, or has failed.
        """
        started = time.monotonic()
        self.worker.kill("SIGTERM")
        try:
            code = self.worker.wait(ENDED)
        except Exception as error:
            raise Failed(f"SIGTERM does not end the worker: {error}") from None
        if code:
            raise Failed(f"the worker has ended with {code}")
        return time.monotonic() - started


def _cut_by_rst(proxy: Proxy, chance: random.Random) -> None:
    proxy.cut(reset=True, chance=chance)


def _cut_by_fin(proxy: Proxy, chance: random.Random) -> None:
    proxy.cut(reset=False, chance=chance)


def _half_close(proxy: Proxy, chance: random.Random) -> None:
    proxy.half_close(chance.random() < 0.5)
    time.sleep(chance.uniform(0, 0.3))
    proxy.cut()


def _freeze(proxy: Proxy, chance: random.Random) -> None:
    proxy.freeze(chance.random() < 0.5)
    time.sleep(chance.uniform(0.1, 1.5))
    proxy.cut(reset=chance.random() < 0.5)


def _throttle(proxy: Proxy, chance: random.Random) -> None:
    proxy.throttle(1024)
    time.sleep(chance.uniform(0.1, 1.0))
    proxy.cut(reset=chance.random() < 0.5)


def _split(proxy: Proxy, chance: random.Random) -> None:
    proxy.split()
    time.sleep(chance.uniform(0.1, 0.6))
    if chance.random() < 0.5:
        proxy.heal()
        time.sleep(chance.uniform(0.0, 0.2))
    proxy.cut(reset=chance.random() < 0.5)


#: A plain cut is the most common.
LOSSES: tuple[Callable[[Proxy, random.Random], None], ...] = (
    *(_cut_by_rst, _cut_by_fin) * 3,
    _half_close,
    _freeze,
    _throttle,
    _split,
)


@contextmanager
def field(broker: BrokerProcess, *options: str, **environ: str) -> Iterator[Field]:
    """A field in a folder of its own, with its worker started."""
    with tempfile.TemporaryDirectory() as folder:
        made = Field(Path(folder), broker, *options, **environ)
        try:
            made.worker.start()
            yield made
        finally:
            made.close()


def runs(
    broker: BrokerProcess,
    plans: list[Plan],
    *options: str,
    say: Callable[[str], None] = print,
    **environ: str,
) -> list[str]:
    """Carry out plans, some with each worker; return what has failed."""
    failures = []
    while plans:
        some, plans = plans[:RUNS_A_WORKER], plans[RUNS_A_WORKER:]
        with field(broker, *options, **environ) as made:
            try:
                for plan in some:
                    started = time.monotonic()
                    after = made.run(plan)
                    lasted = time.monotonic() - started
                    say(f"seed {plan.seed}: {lasted:.1f} s, all kept after {after:.1f}")
                say(f"  SIGTERM ends the worker after {made.stop():.1f} s")
            except Failed as error:
                failures.append(f"seed {plan.seed}: {error}")
                say(failures[-1])
                log = Path(tempfile.gettempdir()) / f"losses-{plan.seed}.log"
                log.write_text(made.worker.logs())
                say(f"  the worker's log is {log}")
    return failures


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--losses", type=int, default=12)
    parser.add_argument("--reports", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pool", default="prefork")
    parser.add_argument("--verbose", action="store_true", help="of the repository")
    options = parser.parse_args()
    broker = BrokerProcess()
    try:
        broker.start()
        plans = [
            Plan(seed, options.losses, options.reports, verbose=options.verbose)
            for seed in range(options.seed, options.seed + options.runs)
        ]
        failures = runs(broker, plans, "-P", options.pool)
    finally:
        broker.teardown()
    print(f"{len(failures)} of {options.runs} runs failed")  # noqa: T201
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
