"""Where a report may be that is not stored yet."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from oops_celery.errors import Unavailable
from oops_celery.operations.depths import Depth, all_queues, ask
from oops_celery.repository.reader import Stored, find_reports

if TYPE_CHECKING:
    from oops_celery.celery import App

#: Seconds for connecting to the broker, and for each answer.
TIMEOUT = 1.0

#: Seconds for which an answer is good.
FRESH = 2.0


@dataclass(frozen=True)
class Place:
    """A place where a report may be.

    Attributes:
        kind: ``queue``, ``retry`` or ``dead``.
        queue: The queue's name.
        messages: How many wait there; the report may be one of them.
        consumers: How many consumers take from it.
        until: When the last of them goes on, at the latest.
    """

    kind: str
    queue: str
    messages: int
    consumers: int
    until: datetime | None = None


class Broker:
    """Asks the broker how many messages wait in each queue, at most every two seconds.

    No message is looked at: RabbitMQ counts that as a delivery.

    Args:
        app: Has the topology, and the broker's URL.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self._lock = threading.Lock()
        self._asked = -FRESH
        self._depths: list[Depth] = []
        self._trouble = ""

    def depths(self) -> tuple[list[Depth], str]:
        """Return the queues, and why the broker does not tell; empty if it does."""
        with self._lock:
            if time.monotonic() - self._asked >= FRESH:
                try:
                    self._depths, self._trouble = self._ask(), ""
                except Unavailable as error:
                    self._depths, self._trouble = [], str(error)
                self._asked = time.monotonic()
            return self._depths, self._trouble

    def places(self) -> tuple[list[Place], str]:
        """Return where reports wait, and why the broker does not tell."""
        found, trouble = self.depths()
        topology, main = self.app.topology, self.app.oops.queue
        known = {depth.queue: depth for depth in found}
        places = []
        if main in known:
            places.append(_place("queue", known[main]))
        for queue in topology.retry_queues(main):
            if queue.name in known:
                ttl = (queue.queue_arguments or {}).get("x-message-ttl", 0)
                until = datetime.now(timezone.utc) + timedelta(milliseconds=ttl)
                places.append(_place("retry", known[queue.name], until))
        for queue in topology.dead_letter_queues(main):
            if queue.name in known:
                places.append(_place("dead", known[queue.name]))
        return places, trouble

    def _ask(self) -> list[Depth]:
        queues = all_queues(self.app.topology, self.app.oops.queue)
        return ask(self.app, queues, TIMEOUT)


def spooled(folder: str | None, part: str) -> Stored | None:
    """Return a report that its program could not send yet, in the spool."""
    if folder is None:
        return None
    return next(iter(find_reports(folder, part)), None)


def _place(kind: str, depth: Depth, until: datetime | None = None) -> Place:
    return Place(kind, depth.queue, depth.messages, depth.consumers, until)
