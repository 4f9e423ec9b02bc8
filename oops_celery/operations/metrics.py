"""Metrics of the queues for Prometheus, which Flower lacks, as it sees tasks only.

No message is taken from a queue. So the exact age of the oldest report is unknown:
looking at a message is a delivery, and quorum queues limit deliveries.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from amqp.exceptions import ConnectionError as AMQPConnectionError
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from oops_celery.errors import RepositoryError, SendError
from oops_celery.operations.dead_letters import filed, together
from oops_celery.operations.depths import (
    Depth,
    all_queues,
    depths,
    final_dead_letter_queues,
)
from oops_celery.settings import repository_url as urls
from oops_celery.transport.sender import Sender
from oops_celery.transport.troubles import in_a_line

if TYPE_CHECKING:
    from oops_celery.celery import App
    from oops_celery.topology.model import Topology

logger = logging.getLogger(__name__)


class QueueCollector(Collector):
    """Asks the broker at each scrape, over its own connection.

    Args:
        app: Has the broker's URL.
        topology: Its queues, and those of its consumers, are counted.
        timeout: Seconds for connecting, and for each answer after that.
    """

    def __init__(self, app: App, topology: Topology, timeout: float) -> None:
        self._settings = app.oops
        self._queues = all_queues(topology, app.oops.queue)
        self._dead = final_dead_letter_queues(topology, app.oops.queue)
        self._timeout = timeout
        self._sender = Sender(app.connection_for_read, timeout, confirm=False)
        #: When each queue was last seen empty; at first, when the process started.
        self._empty = dict.fromkeys(self._queues, time.monotonic())
        #: The last known numbers of dead letters in the database.
        self._filed: dict[str, int] = {}
        self._lock = threading.Lock()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the metrics; without a broker, only that there is none."""
        with self._lock:
            found = self._ask()
            is_up = self._ask_database()
        yield GaugeMetricFamily(
            "oops_celery_broker_up",
            "Whether the broker answers",
            value=0 if found is None else 1,
        )
        if is_up is not None:
            yield GaugeMetricFamily(
                "oops_celery_repository_up",
                "Whether the database answers",
                value=float(is_up),
            )
        known = {each.queue: each for each in found or ()}
        if found is not None:
            exists = {queue: float(queue in known) for queue in self._queues}
            yield _family("queue_exists", "Whether the queue is there", exists)
        yield _family(
            "queue_messages",
            "Messages that wait, without those that a worker has been sent",
            {queue: each.messages for queue, each in known.items()},
        )
        yield _family(
            "queue_consumers",
            "Consumers that take from the queue",
            {queue: each.consumers for queue, each in known.items()},
        )
        yield _family(
            "queue_nonempty_seconds",
            "Seconds since the queue was last seen empty at a scrape, or else since"
            " this program began to look",
            {queue: self._nonempty(each) for queue, each in known.items()},
        )
        yield _family(
            "dead_letters",
            "Messages that nobody could take, in their queue or taken from it into the"
            " database",
            {
                each.queue: each.count
                for each in together(self._filed, self._dead, known.values())
            },
        )

    def _nonempty(self, depth: Depth) -> float:
        now = time.monotonic()
        if depth.messages == 0:
            self._empty[depth.queue] = now
        return now - self._empty[depth.queue]

    def _ask(self) -> list[Depth] | None:
        try:
            link = self._sender.open()
        except SendError as error:
            why = in_a_line(error, self._timeout)
            logger.warning("the broker cannot be asked: %s", why)
            return None
        try:
            open_channel = link.connection.channel
            return list(depths(open_channel, self._queues))
        except (OSError, AMQPConnectionError) as error:
            why = in_a_line(error, self._timeout)
            logger.warning("the broker does not answer: %s", why)
            return None
        finally:
            link.close()

    def _ask_database(self) -> bool | None:
        """Count the dead letters in the database, or keep the last known numbers.

        Returns:
            Whether it answers; None if there is none.
        """
        if not urls.is_url(self._settings.repository):
            return None
        try:
            self._filed = filed(self._settings)
        except RepositoryError as error:
            logger.warning("the database cannot be asked: %s", error)
            return False
        return True


def _family(name: str, text: str, values: dict[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"oops_celery_{name}", text, labels=["queue"])
    for queue, value in values.items():
        family.add_metric([queue], value)
    return family
