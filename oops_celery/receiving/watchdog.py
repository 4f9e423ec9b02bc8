"""The last resort for a stuck worker: log it, and take a new connection.

No cause for this is known; the fault suite fails if it ever happens.
"""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from typing import Any

from celery import bootsteps
from celery.worker import state

#: Seconds between two checks, and the number of equal checks that count as stuck.
LOOK_INTERVAL = 5.0
LOOKS = 6

#: The text in the log.
STUCK = "stuck: it has messages, and has begun none"

logger = logging.getLogger(__name__)


class Watchdog(bootsteps.StartStopStep):
    """A step of Celery's consumer that checks whether messages are begun.

    Args:
        consumer: Celery's consumer.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, _: Any, **__: Any) -> None:
        self._timer: Any = None
        #: Checks in a row that found waiting messages and none at work; and the number
        #: of messages begun, ever, at the first of them.
        self._looks = 0
        self._begun = 0

    def start(self, consumer: Any) -> None:
        """Start checking."""
        self._looks = 0
        self._timer = consumer.timer.call_repeatedly(
            LOOK_INTERVAL, self._look, (consumer,)
        )

    def stop(self, _: Any) -> None:
        """Stop checking."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _look(self, consumer: Any) -> None:
        begun = state.all_total_count[0]
        batches = consumer.batches
        if batches:
            batches.begin()  # the pool may have grown, which no event tells
        busy = state.active_requests or (batches and batches.is_at_work)
        if busy or not state.reserved_requests or begun != self._begun:
            self._looks, self._begun = 0, begun
            return
        self._looks += 1  # not seconds: the whole worker may have been frozen
        if self._looks >= LOOKS:
            self._looks = 0
            self._bark(consumer)

    def _bark(self, consumer: Any) -> None:
        logger.critical(
            "%s for %g s: %d messages; %s; processes: %s; it takes a new connection",
            STUCK,
            LOOK_INTERVAL * LOOKS,
            len(state.reserved_requests),
            consumer.batches or "no batches",
            consumer.pool.info.get("processes", consumer.pool.num_processes),
        )
        if consumer.batches:
            consumer.batches.forget()
        with suppress(AttributeError, OSError):  # not AMQP, or lost already
            raw = consumer.connection.connection
            raw.transport.sock.shutdown(socket.SHUT_RDWR)
