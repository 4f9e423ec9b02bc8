"""Metrics of the queues for Prometheus, which Flower lacks, as it sees tasks only.

No message is taken from a queue. So the exact age of the oldest report is unknown:
looking at a message is a delivery, and quorum queues limit deliveries.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from amqp.exceptions import ConnectionError as AMQPConnectionError
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from oops_celery.errors import Hidden, SendError
from oops_celery.operations.depths import (
    Depth,
    all_queues,
    depths,
    final_dead_letter_queues,
    whole_depth,
)
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
        patience: Seconds to wait for somebody who looks at dead letters and hides them;
            after that, the last known number is reported, or none.
    """

    def __init__(
        self, app: App, topology: Topology, timeout: float, patience: float
    ) -> None:
        self._queues = all_queues(topology, app.oops.queue)
        self._dead = final_dead_letter_queues(topology, app.oops.queue)
        self._timeout = timeout
        self._sender = Sender(app.connection_for_read, timeout, confirm=False)
        #: When each queue was last seen empty; at first, when the process started.
        self._empty = dict.fromkeys(self._queues, time.monotonic())
        self._patience = patience
        #: The last counts of dead letter queues, while they did not fall.
        self._known: dict[str, Depth] = {}
        #: The queues of which somebody hid messages at the last scrape.
        self._hidden: set[str] = set()
        self._lock = threading.Lock()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the metrics; without a broker, only that there is none."""
        with self._lock:
            found = self._ask()
        yield GaugeMetricFamily(
            "oops_celery_broker_up",
            "Whether the broker answers",
            value=0 if found is None else 1,
        )
        known = {each.queue: each for each in found or ()}
        if found is not None:
            there = known.keys() | self._hidden
            exists = {queue: float(queue in there) for queue in self._queues}
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
            "Messages that nobody could take, and that wait for a person",
            {queue: known[queue].messages for queue in self._dead if queue in known},
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
            self._hidden.clear()
            found = list(depths(open_channel, self._queues))
            return [each for one in found if (each := self._whole(open_channel, one))]
        except (OSError, AMQPConnectionError) as error:
            why = in_a_line(error, self._timeout)
            logger.warning("the broker does not answer: %s", why)
            return None
        finally:
            link.close()

    def _whole(self, open_channel: Any, depth: Depth) -> Depth | None:
        """Count dead letters once more if somebody may hide some of them."""
        queue = depth.queue
        if queue not in self._dead:
            return depth
        if queue not in self._known or depth.messages < self._known[queue].messages:
            try:
                found = whole_depth(open_channel, queue, self._patience)
            except Hidden:
                self._hidden.add(queue)
                return self._known.get(queue)
            if found is None:
                return None
            depth = found
        self._known[queue] = depth
        return depth


def _family(name: str, text: str, values: dict[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"oops_celery_{name}", text, labels=["queue"])
    for queue, value in values.items():
        family.add_metric([queue], value)
    return family
