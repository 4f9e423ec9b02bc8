"""The queues of ``consumers:``, each on a channel of its own, each with its limit."""

from __future__ import annotations

import logging
import time
from collections import deque
from threading import RLock
from typing import TYPE_CHECKING, Any

import amqp
import kombu
from celery import bootsteps
from kombu import Message
from kombu.common import ignore_errors

from oops_celery import adoption, incoming, troubles, wire
from oops_celery.declaring import is_refusal

if TYPE_CHECKING:
    from oops_celery.topology import ConsumerEntry

#: Seconds before a message that could not be begun goes back: it comes again at once.
GIVE_BACK_PAUSE = 1.0

#: Seconds before a queue that is not there, or is refused, is asked for again.
REFUSED_PAUSE = 5.0

#: Seconds before that if the refusal closed the connection: it is everybody's.
CLOSED_PAUSE = 600.0

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
    """Consumes one entry of ``consumers:`` on its own channel.

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
        #: What was last said of a refusal, and until when none is risked again.
        self._said: troubles.Trouble | None = None
        self._not_before = 0.0

    def open(self, connection: Any) -> None:
        """Begin to consume; while the queue is not there, or refused, try again.

        Args:
            connection: Celery's, when this was asked for.
        """
        if self._celery.connection is not connection or not connection.connected:
            return  # it is opened on the next one; kombu would make one without us
        if (left := self._not_before - time.monotonic()) > 0:
            self._open_after(left, connection)
            return
        channel = connection.channel()
        try:
            self._consumer = self._consume(channel)
        except amqp.AMQPError as error:
            if not is_refusal(error):
                raise
            self._say(error)
            if not connection.connected:
                self._not_before = time.monotonic() + CLOSED_PAUSE
                text = f"the broker refuses queue {self._entry.queue}, and closed it"
                raise amqp.RecoverableConnectionError(text) from None
            channel.close()
            self._open_after(REFUSED_PAUSE, connection)
        else:
            self._said = None

    def _consume(self, channel: Any) -> kombu.Consumer:
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
        consumer.consume()
        return consumer

    def _open_after(self, seconds: float, connection: Any) -> None:
        again = (self.open, connection)
        self._celery.timer.call_after(seconds, self._celery.call_soon, again)

    def _say(self, error: amqp.AMQPError) -> None:
        trouble = troubles.meaning(error)
        if trouble == self._said:
            return
        self._said = trouble
        queue, consumer = self._entry.queue, self._entry.consumer
        if error.reply_code == amqp.NotFound.code:
            logger.error(
                "queue %s, for the consumer %s, is not at the broker: declare it under "
                "queues: in %s, or make it at the broker; it is looked for every %g s",
                queue,
                consumer,
                self._celery.app.topology.source,
                REFUSED_PAUSE,
            )
        else:
            logger.error(
                "queue %s is refused to the consumer %s: %s; it is asked for again",
                queue,
                consumer,
                trouble,
            )

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
