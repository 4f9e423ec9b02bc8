"""The queues of ``consumers:``, each on a channel of its own, each with its limit."""

from __future__ import annotations

import logging
from collections import deque
from threading import RLock
from typing import TYPE_CHECKING, Any

import kombu
from amqp.exceptions import NotFound
from celery import bootsteps
from kombu import Message
from kombu.common import ignore_errors

from oops_celery import adoption, incoming, wire

if TYPE_CHECKING:
    from oops_celery.topology import ConsumerEntry

#: Seconds before a message that could not be begun goes back: it comes again at once.
GIVE_BACK_PAUSE = 1.0

#: Seconds before a queue that is not there is looked for again.
MISSING_QUEUE_PAUSE = 5.0

logger = logging.getLogger("amqp-dispatcher")


class Dispatching(bootsteps.StartStopStep):
    """A step of Celery's consumer: takes the messages for the dispatcher's consumers.

    Args:
        consumer: Celery's consumer.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **_: Any) -> None:
        entries = consumer.app.topology.consumers
        self._lanes = [Lane(consumer, entry) for entry in entries]

    def start(self, consumer: Any) -> None:
        """Consume; called again after each loss of the connection.

        That is done once the loop runs: before, the pool takes no messages, and there
        may be some already.
        """
        for lane in self._lanes:
            consumer.call_soon(lane.open, consumer.connection)

    def stop(self, _: Any) -> None:
        """Begin nothing more."""
        for lane in self._lanes:
            lane.stop()

    def shutdown(self, _: Any) -> None:
        """Give the messages that were not begun back to the broker."""
        for lane in self._lanes:
            lane.close()


class Lane:
    """The way of the messages of one entry of ``consumers:``.

    The broker sends ``prefetch_count`` messages ahead; of those, ``consumer_count`` are
    at work at once, also while those of a lost connection come to their end.

    Args:
        consumer: Celery's consumer.
        entry: The entry.
    """

    def __init__(self, consumer: Any, entry: ConsumerEntry) -> None:
        self._celery = consumer
        self._entry = entry
        self._consumer: kombu.Consumer | None = None
        self._waiting: deque[Message] = deque()
        self._at_work: set[object] = set()
        self._beginning = False
        self._lock = RLock()

    def open(self, connection: Any) -> None:
        """Begin to consume; while the queue is not there, try again.

        Args:
            connection: Celery's, when this was asked for.
        """
        if self._celery.connection is not connection:
            return  # it is opened on the next one
        channel = connection.channel()
        incoming.as_they_come(channel)
        channel.basic_qos(0, self._entry.prefetch_count, False)
        # It is declared with the topology, or somebody else's.
        queue = kombu.Queue(self._entry.queue, no_declare=True)
        consumer = kombu.Consumer(
            channel,
            [queue],
            tag_prefix="oops-celery.",
            on_message=self._on_message,
            accept=[wire.ADOPTED],
            auto_declare=False,
        )
        try:
            consumer.consume()
        except NotFound:
            logger.error(
                "queue %s, for the consumer %s, is not at the broker: declare it under "
                "queues: in %s, or make it at the broker; it is looked for every %g s",
                self._entry.queue,
                self._entry.consumer,
                self._celery.app.topology.source,
                MISSING_QUEUE_PAUSE,
            )
            again = (self.open, connection)
            self._celery.timer.call_after(
                MISSING_QUEUE_PAUSE, self._celery.call_soon, again
            )
        else:
            self._consumer = consumer

    def stop(self) -> None:
        """Begin nothing more; what is at work comes to its end."""
        with self._lock:
            self._waiting.clear()
        if self._consumer is not None:
            ignore_errors(self._celery.connection, self._consumer.cancel)

    def close(self) -> None:
        """Close the channel: what is not acknowledged goes back to the queue."""
        self.stop()
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            ignore_errors(self._celery.connection, consumer.channel.close)

    def _on_message(self, message: Message) -> None:
        with self._lock:
            self._waiting.append(message)
        self._advance()

    def _advance(self) -> None:
        with self._lock:
            if self._beginning:  # the solo pool runs a task in place
                return
            self._beginning = True
            try:
                while self._waiting and len(self._at_work) < self._entry.consumer_count:
                    self._begin(self._waiting.popleft())
            finally:
                self._beginning = False

    def _begin(self, message: Message) -> None:
        celery = self._celery
        work = object()

        def acknowledge(*args: Any) -> None:
            celery.call_soon_ack(message.ack_log_error, *args)
            self._finished(work)

        def reject(*args: Any) -> None:
            celery.call_soon_ack(message.reject_log_error, *args)
            self._finished(work)

        self._at_work.add(work)
        try:
            adoption.adopt_message(celery.app, message, self._entry.consumer)
            start = celery.strategies[self._entry.consumer]
            start(message, None, acknowledge, reject, celery.on_task_message)
        except Exception:  # anything would end Celery's consumer
            logger.exception("a message of queue %s goes back", self._entry.queue)
            self._at_work.discard(work)
            args = (logger, celery.connection_errors, True)
            celery.timer.call_after(GIVE_BACK_PAUSE, message.reject_log_error, args)

    def _finished(self, work: object) -> None:
        with self._lock:
            self._at_work.discard(work)
        self._advance()
