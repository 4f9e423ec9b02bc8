"""pytest-celery's nodes and setup, over processes of this machine."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import amqp
import psutil
from pytest_celery import CeleryTestBroker, CeleryTestSetup, CeleryTestWorker

from tests.faults.ledger import Ledger, Records
from tests.faults.load import Load
from tests.faults.processes import PATIENCE, LocalProcess
from tests.support import PACKAGED, eventually

#: The default topology, with its pauses shortened: 50 ms, 0.3 s, 3 s.
TOPOLOGY = re.sub(
    r"x_message_ttl: (\d+)",
    lambda found: f"x_message_ttl: {int(found[1]) // 200}",
    PACKAGED.read_text(),
)

WORK = ("oopses", "oopses.retry.1", "oopses.retry.2", "oopses.retry.3")
DEAD = "oopses.dead"


def prepare(home: Path) -> None:
    """Make the folder that a run's workers and publishers share."""
    for name in ("oopses", "fallback", "orders", "records"):
        (home / name).mkdir(parents=True, exist_ok=True)
    (home / "topology.yml").write_text(TOPOLOGY)


class Pausing:
    """A node that can be frozen, as a machine out of memory is."""

    container: LocalProcess

    @contextmanager
    def pause(self) -> Iterator[None]:
        self.container.pause()
        try:
            yield
        finally:
            self.container.unpause()


class BrokerNode(Pausing, CeleryTestBroker):
    """A RabbitMQ node."""

    def ctl(self, *command: str) -> str:
        return str(self.container.ctl(*command))

    def ready_messages(self, queues: Iterable[str] = WORK) -> int:
        """Count the messages that wait in queues; a missing queue has none."""
        total = 0
        with self.container.connect() as connection:
            for queue in queues:
                channel = connection.channel()
                try:
                    total += channel.queue_declare(queue, passive=True)[1]
                except amqp.NotFound:
                    continue
                channel.close()
        return total

    def is_drained(self) -> bool:
        """Whether no report is in the queues or on its way in a worker."""
        try:
            if self.ready_messages():
                return False
        except (OSError, amqp.AMQPError):
            return False
        return not any(sum(counts) for counts in self.counts().values())

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return, for each queue of `WORK`, what waits and what workers have."""
        columns = ("name", "messages_ready", "messages_unacknowledged")
        lines = self.ctl("list_queues", "--no-table-headers", *columns).splitlines()
        found = {}
        for queue, ready, in_workers in (
            one.split("\t") for one in lines if "\t" in one
        ):
            if queue in WORK:
                found[queue] = int(ready or 0), int(in_workers or 0)
        return found

    def knows(self, worker: WorkerNode) -> bool:
        """Whether a worker's connection is open on both sides."""
        columns = ("--no-table-headers", "peer_port", "state")
        lines = self.ctl("list_connections", *columns).splitlines()
        running = {one.split()[0] for one in lines if one.endswith("running")}
        return any(str(port) in running for port in worker.container.ports())

    def ids(self, *queues: str) -> list[str]:
        """Return the ids of the reports in queues, and leave them there."""
        found = []
        with self.container.connect() as connection:
            for queue in queues:
                channel = connection.channel()
                channel.auto_decode = False
                try:
                    while (message := channel.basic_get(queue)) is not None:
                        found.append(str(message.headers.get("id")))
                except amqp.NotFound:
                    continue
        return found

    def delete(self, queue: str) -> int:
        """Delete a queue; return the number of messages that went with it.

        RabbitMQ 3.10 deletes it once more when it is killed soon after and comes back,
        though the queue has been declared again meanwhile; so this node is not killed
        any more, and no other test gets it.
        """
        self.container.spoilt = True
        with self.container.connect() as connection:
            return int(connection.channel().queue_delete(queue))

    def kill(self, *args: Any, **kwargs: Any) -> None:
        assert not self.container.spoilt, "a queue has been deleted here; see delete"
        super().kill(*args, **kwargs)

    def clean(self) -> None:
        """Empty the queues. They stay: see `delete`."""
        eventually(self._is_empty, PATIENCE)

    def _is_empty(self) -> bool:
        """Purge the queues; say whether nobody is left who may put something back."""
        try:
            with self.container.connect() as connection:
                channel = connection.channel()
                for queue in (*WORK, DEAD):
                    channel.queue_purge(queue)
                    _, ready, consumers = channel.queue_declare(queue, passive=True)
                    if ready or consumers:
                        return False
        except amqp.NotFound as error:
            return "no queue" in str(error)  # the first test; or it is just starting
        except (OSError, amqp.AMQPError):
            return False
        return True


class WorkerNode(Pausing, CeleryTestWorker):
    """A worker."""

    def get_running_processes_info(
        self, columns: list[str] | None = None, filters: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Tell about the worker's processes, the main process first."""
        found = []
        for process in self.container.processes():
            try:
                found.append(process.as_dict(columns))
            except psutil.NoSuchProcess:
                continue
        wanted = (filters or {}).items()
        return [one for one in found if all(one.get(k) == v for k, v in wanted)]

    def pool_pids(self) -> list[int]:
        infos = self.get_running_processes_info(["pid", "ppid"])
        return [one["pid"] for one in infos if one["ppid"] == self.container.group]

    def rss(self) -> int:
        """Bytes of memory that the worker's processes hold together."""
        infos = self.get_running_processes_info(["memory_info"])
        return sum(one["memory_info"].rss for one in infos)


class Setup(CeleryTestSetup):
    """A broker, workers, the programs that publish, and the books on all of it."""

    broker: BrokerNode
    worker: WorkerNode

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.home: Path = self.worker.container.folder
        self.records = Records(self.home)
        self.load = Load(self.home, self.broker.container.url)

    @property
    def workers(self) -> list[WorkerNode]:
        return list(self.worker_cluster)

    def teardown(self) -> None:
        self.load.kill()
        super().teardown()

    def wait_for_kept(self, more: int, timeout: float = PATIENCE) -> None:
        """Wait until so many more reports are in the repository."""
        wanted = self.records.count_kept() + more
        eventually(lambda: self.records.count_kept() >= wanted, timeout)

    def settle(self, timeout: float = 300.0) -> Ledger:
        """Wait until every report has come to rest; return the ledger.

        A message that RabbitMQ moves from one queue to the other, at least once, is
        counted in neither meanwhile. That may take its 3 minutes, when the other queue
        was not there at first.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.broker.is_drained() and not (ledger := self.ledger()).lost:
                return ledger
            time.sleep(0.1)
        return self.ledger()

    def ledger(self) -> Ledger:
        waiting = self.broker.ids(*WORK)  # first: from there they go to the others
        parked = self.broker.ids(DEAD)
        return self.records.ledger(waiting=waiting, parked=parked)
