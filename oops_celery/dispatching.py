"""The queues of ``consumers:``, each on a channel of its own, each with its limit."""

from __future__ import annotations

import logging
from collections import deque
from threading import RLock
from typing import TYPE_CHECKING, Any

import kombu
from amqp.exceptions import NotFound
from celery import bootsteps
from celery.exceptions import WorkerShutdown
from kombu import Message
from kombu.common import ignore_errors

from oops_celery import adoption, wire

if TYPE_CHECKING:
    from oops_celery.topology import ConsumerEntry

#: Seconds before a message that could not be begun goes back: it comes again at once.
GIVE_BACK_PAUSE = 1.0

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

    def start(self, _: Any) -> None:
        """Consume; called again after each loss of the connection."""
        for lane in self._lanes:
            lane.open()

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
        self._at_work = 0
        self._beginning = False
        self._lock = RLock()

    def open(self) -> None:
        """Begin to consume.

        Raises:
            WorkerShutdown: The queue is not there.
        """
        channel = self._celery.connection.channel()
        # A body that says utf-8 is still taken as the bytes that came.
        channel.auto_decode = False
        channel.basic_qos(0, self._entry.prefetch_count, False)
        # It is declared with the topology, or somebody else's.
        queue = kombu.Queue(self._entry.queue, no_declare=True)
        self._consumer = kombu.Consumer(
            channel,
            [queue],
            on_message=self._on_message,
            accept=[wire.ADOPTED],
            auto_declare=False,
        )
        try:
            self._consumer.consume()
        except NotFound:
            logger.critical(
                "queue %s, for the consumer %s, is not at the broker: declare it under "
                "queues: in %s, or make it at the broker first",
                self._entry.queue,
                self._entry.consumer,
                self._celery.app.topology.source,
            )
            raise WorkerShutdown(1) from None

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
                while self._waiting and self._at_work < self._entry.consumer_count:
                    self._at_work += 1
                    self._begin(self._waiting.popleft())
            finally:
                self._beginning = False

    def _begin(self, message: Message) -> None:
        celery = self._celery

        def acknowledge(*args: Any) -> None:
            celery.call_soon_ack(message.ack_log_error, *args)
            self._finished()

        def reject(*args: Any) -> None:
            celery.call_soon_ack(message.reject_log_error, *args)
            self._finished()

        try:
            adoption.adopt_message(celery.app, message, self._entry.consumer)
            start = celery.strategies[self._entry.consumer]
            start(message, None, acknowledge, reject, celery.on_task_message)
        except Exception:  # anything would end Celery's consumer
            logger.exception("a message of queue %s goes back", self._entry.queue)
            args = (logger, celery.connection_errors, True)
            celery.timer.call_after(GIVE_BACK_PAUSE, reject, args)

    def _finished(self) -> None:
        with self._lock:
            self._at_work -= 1
        self._advance()
