"""A cluster of three nodes loses one under load, then the next: no report is lost."""

from __future__ import annotations

import itertools
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.cluster import Cluster, ClusterNode
from tests.support import ROOT, Worker, environment, eventually

#: What docs/deploying.md says of a cluster: its configuration, and how to watch it.
PAGE = (ROOT / "docs/deploying.md").read_text()
(CONFIG,) = re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL)
(GROW,) = re.findall(r"`(rabbitmq-queues grow .*)`", PAGE)
WATCHING = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)[-1].splitlines()

#: Seconds that publishing may stop for when a node's process is killed: a promise.
LONGEST_GAP = 10.0

#: When a machine vanishes: until the others know (net_ticktime and a quarter of it),
#: until the publishers know (OOPS_PUBLISH_TIMEOUT, twice), and a busy machine's share.
LONGEST_GAP_FROZEN = 12.5 + 10.0 + 7.5

#: Seconds that one call may take: OOPS_PUBLISH_TIMEOUT, and what a busy machine adds.
LONGEST_CALL = 5.0 + 2.0

PUBLISHER = """
import random, sys, time
import oops_celery

if sys.argv[2] == "in this order":  # so that each node has a publisher
    random.shuffle = lambda urls: None
with open(sys.argv[1], "a", buffering=1) as ledger:
    for number in range(10**9):
        started = time.time()
        report = {"publisher": sys.argv[1], "number": number}
        ids = oops_celery.publisher(report)
        print(started, time.time(), *ids, file=ledger)
        time.sleep(0.01)
"""


class Publisher:
    """A process that publishes all the time, and writes down what it is told."""

    def __init__(self, ledger: Path, url: str, order: str) -> None:
        self.ledger = ledger
        ledger.touch()
        self.process = subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, ledger, order],
            env=environment(RABBITMQ_URL=url),
            cwd=ledger.parent,
        )
        self.stopped_at = 0.0

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.stopped_at = self.stopped_at or time.time()

    def calls(self) -> list[tuple[float, float, str]]:
        """Return of each call: when it started, when it ended, the id, or none."""
        calls = []
        for line in self.ledger.read_text().splitlines():
            started, ended, *ids = line.split()
            calls.append((float(started), float(ended), "".join(ids)))
        return calls

    def ids(self) -> list[str]:
        return [report_id for _, _, report_id in self.calls() if report_id]

    def longest_gap(self) -> float:
        """Return the longest time, in seconds, without a report taken."""
        taken = [ended for _, ended, report_id in self.calls() if report_id]
        moments = [*taken, self.stopped_at]
        return max(after - before for before, after in itertools.pairwise(moments))

    def longest_call(self) -> float:
        """Return the longest time that the application was kept waiting.

        The first call also reads the settings and declares the topology.
        """
        return max(ended - started for started, ended, _ in self.calls()[1:])


class Load:
    """Publishers on every node, and two workers that write to one repository."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.repository = folder / "oopses"
        self._stack = ExitStack()
        self.workers: list[Worker] = []
        self.publishers: list[Publisher] = []
        hosts = [node.host for node in cluster.nodes]
        try:
            for name in ("one", "two"):
                (folder / name).mkdir()
                worker = Worker(
                    folder / name,
                    cluster.url,
                    *("-c", "1", "-n", f"{name}@%h"),
                    OOPS_REPOSITORY=str(self.repository),
                    RABBITMQ_HEARTBEAT="5",
                )
                self._stack.callback(worker.kill)
                assert worker.process.poll() is None, worker.text()
                self.workers.append(worker)
            for number in range(4):
                turned = hosts[number % 3 :] + hosts[: number % 3]
                publisher = Publisher(
                    folder / f"publisher-{number}",
                    f"amqp://guest:guest@{','.join(turned)}/",
                    "in this order" if number < 3 else "in random order",
                )
                self._stack.callback(publisher.stop)
                self.publishers.append(publisher)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._stack.close()

    def go_on(self, reports: int = 100) -> None:
        """Wait until every publisher has had some more reports taken."""
        goals = [len(one.ids()) + reports for one in self.publishers]
        eventually(
            lambda: all(
                len(one.ids()) >= goal
                for one, goal in zip(self.publishers, goals, strict=True)
            ),
            timeout=60,
        )

    def has_stopped(self) -> bool:
        """Whether nobody has had a report taken for some time."""
        return not any(
            report_id
            for one in self.publishers
            for _, _, report_id in one.calls()[-100:]
        )

    def stop_publishing(self) -> None:
        for publisher in self.publishers:
            publisher.stop()

    def longest_gap(self) -> float:
        return max(publisher.longest_gap() for publisher in self.publishers)

    def longest_call(self) -> float:
        return max(publisher.longest_call() for publisher in self.publishers)

    def summary(self) -> str:
        """Say what was measured."""
        taken = sum(len(one.ids()) for one in self.publishers)
        calls = sum(len(one.calls()) for one in self.publishers)
        gaps = ", ".join(f"{one.longest_gap():.2f}" for one in self.publishers)
        waits = ", ".join(f"{one.longest_call():.2f}" for one in self.publishers)
        return (
            f"{taken} reports taken, {calls - taken} times []\n"
            f"longest gap of each publisher: {gaps} s\n"
            f"longest call of each publisher: {waits} s"
        )

    def kept(self) -> set[str]:
        """Return the ids of the reports in the repository.

        The file of a report is named by the hash of all of it, so look into it.
        """
        from oops_celery import wire

        return {
            wire.decode(path.read_bytes())["id"]
            for path in self.repository.glob("*/*")
            if path.suffix != ".tmp"
        }

    def lost(self) -> set[str]:
        """Return the ids that a publisher was given and that are not kept."""
        return {i for one in self.publishers for i in one.ids()} - self.kept()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), CONFIG) as started:
        yield started


@pytest.fixture
def load(cluster: Cluster, tmp_path: Path) -> Iterator[Load]:
    started = Load(tmp_path, cluster)
    yield started
    started.close()


def bring_back(cluster: Cluster, node: ClusterNode) -> None:
    """Start a node, and wait until it follows the queue's leader again."""
    node.start()
    node.wait()
    eventually(lambda: cluster.members("oopses")[node.name] == "follower", 60)


@pytest.mark.slow
def test_a_cluster_that_loses_its_leaders_loses_no_report(
    cluster: Cluster, load: Load
) -> None:
    """The leader is killed under load, comes back, and the next one is killed."""
    load.go_on()
    first = cluster.leader("oopses")
    first.kill()
    load.go_on()
    bring_back(cluster, first)
    load.go_on()
    second = cluster.leader("oopses")
    assert second is not first
    second.kill()
    load.go_on()
    bring_back(cluster, second)
    load.go_on()
    load.stop_publishing()

    print(load.summary())  # noqa: T201 - with pytest -s
    eventually(lambda: not load.lost(), timeout=120)
    assert load.longest_gap() <= LONGEST_GAP
    assert load.longest_call() <= LONGEST_CALL
    eventually(lambda: cluster.depth("oopses") == 0)
    assert cluster.depth("oopses.dead") == 0


@pytest.mark.slow
def test_a_cluster_that_loses_a_machine_loses_no_report(
    cluster: Cluster, load: Load
) -> None:
    """The leader is frozen: its connections stay open, and nothing answers."""
    load.go_on()
    lost = cluster.leader("oopses")
    lost.signal(signal.SIGSTOP)
    try:
        load.go_on()
    finally:
        lost.kill()
    bring_back(cluster, lost)
    load.go_on()
    load.stop_publishing()

    print(load.summary())  # noqa: T201 - with pytest -s
    eventually(lambda: not load.lost(), timeout=120)
    assert load.longest_gap() <= LONGEST_GAP_FROZEN
    assert load.longest_call() <= LONGEST_CALL
    assert cluster.depth("oopses.dead") == 0


@pytest.mark.slow
def test_a_cluster_that_loses_two_nodes_takes_nothing_and_loses_nothing(
    cluster: Cluster, load: Load
) -> None:
    """One node of three must not take reports; with the second, all goes on."""
    load.go_on()
    first, second, _ = cluster.nodes
    first.kill()
    second.kill()
    eventually(load.has_stopped)
    first.start()
    first.wait()
    load.go_on()
    bring_back(cluster, second)
    load.go_on()
    load.stop_publishing()

    print(load.summary())  # noqa: T201 - with pytest -s
    eventually(lambda: not load.lost(), timeout=120)
    assert load.longest_call() <= LONGEST_CALL
    assert cluster.depth("oopses.dead") == 0


@pytest.fixture
def virtual_host(cluster: Cluster) -> str:
    """A virtual host ``oops``, with the default topology and one report."""
    node = cluster.nodes[0]
    if "oops\n" not in node.ctl("-q", "list_vhosts"):
        node.ctl("add_vhost", "oops")
        node.ctl("set_permissions", "-p", "oops", "guest", ".*", ".*", ".*")
        program = "import oops_celery; print(oops_celery.publisher({'k': 1}))"
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment(RABBITMQ_URL=f"{node.url}oops"),
            capture_output=True,
            text=True,
            check=True,
        )
        assert "OOPS-" in done.stdout, done.stderr
    return "oops"


@pytest.mark.slow
def test_the_commands_for_watching_say_what_is_wrong(
    cluster: Cluster, virtual_host: str
) -> None:
    listing, alarms, critical = (shlex.split(line) for line in WATCHING)
    first, second, _ = cluster.nodes
    eventually(lambda: re.search(r"^oopses\t1\t0$", first.run(*listing), re.MULTILINE))
    first.run(*alarms)
    first.run(*critical)  # raises unless it exits with 0
    second.kill()
    with pytest.raises(AssertionError, match="quorum"):
        first.run(*critical)
    second.start()
    second.wait()
    eventually(lambda: len(cluster.running()) == 3)


@pytest.mark.slow
def test_a_node_that_comes_later_gets_its_copies(
    cluster: Cluster, virtual_host: str
) -> None:
    program, command, name, which = shlex.split(GROW)
    assert name == "rabbit@rabbit3"
    first, _, third = cluster.nodes
    first.run(program, "shrink", third.name)
    assert third.name not in cluster.members("oopses", virtual_host)
    first.run(program, command, third.name, which)
    assert len(cluster.members("oopses", virtual_host)) == 3
