"""Consume a queue beside that of the reports, on a channel of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import amqp
import kombu
from celery.worker import strategy
from kombu import Message
from kombu.common import ignore_errors

from oops_celery import wire
from oops_celery.topology.declare import is_refusal
from oops_celery.transport import messages, troubles
from oops_celery.transport.acknowledger import Acknowledger

#: Seconds before a missing or refused queue is tried again.
REFUSED_PAUSE = 5.0

#: The same if the refusal closed the connection, which all use.
CLOSED_PAUSE = 600.0


class Lane:
    """Consumes one queue on its own channel; its messages become tasks of one name.

    Args:
        consumer: Celery's consumer.
        queue: The queue.
        prefetch: Messages that the broker sends ahead; 0 means no limit.
        task: The name of the task.
    """

    #: Where it tells of a queue that is missing or refused.
    logger = logging.getLogger(__name__)

    def __init__(self, consumer: Any, queue: str, prefetch: int, task: str) -> None:
        self._celery = consumer
        self._queue = queue
        self._prefetch = prefetch
        self._task = task
        self._consumer: kombu.Consumer | None = None
        self._acknowledger: Acknowledger | None = None
        #: Celery's message handler.
        self._receive: Callable[..., Any] | None = None
        #: The last logged refusal, and until when no further one is risked.
        self._said: troubles.Trouble | None = None
        self._not_before = 0.0

    def open(self, connection: Any) -> None:
        """Begin to consume; try again while the queue is missing or refused.

        Args:
            connection: Celery's connection at the time of the call.
        """
        if self._celery.connection is not connection or not connection.connected:
            return  # the next connection opens it; kombu would make one without us
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
                text = f"the broker refuses queue {self._queue}, and closed it"
                raise amqp.RecoverableConnectionError(text) from None
            channel.close()
            self._open_after(REFUSED_PAUSE, connection)
        else:
            self._said = None

    def _consume(self, channel: Any) -> kombu.Consumer:
        self._receive = self._handler(self._celery.app.tasks[self._task])
        self._acknowledger = Acknowledger(channel)
        messages.as_they_come(channel, self._acknowledger)
        channel.basic_qos(0, self._prefetch, False)
        # It is declared with the topology, or by another program.
        queue = kombu.Queue(self._queue, no_declare=True)
        consumer = kombu.Consumer(
            channel,
            [queue],
            tag_prefix=self._tag(),
            on_message=self._on_message,
            accept=[wire.ADOPTED],
            auto_declare=False,
        )
        consumer.consume()
        return consumer

    def _handler(self, task: Any) -> Callable[..., Any]:
        """Return Celery's handler of the messages of a task."""
        return strategy.default(task, self._celery.app, self._celery)  # type: ignore[no-any-return]

    def _tag(self) -> str:
        """Return the consumer tag, which RabbitMQ shows."""
        return f"{self._celery.hostname}-[{self._task}]-"

    def _on_message(self, message: Message) -> None:
        """Handle a message of the queue."""
        raise NotImplementedError

    def _open_after(self, seconds: float, connection: Any) -> None:
        again = (self.open, connection)
        self._celery.timer.call_after(seconds, self._celery.call_soon, again)

    def _say(self, error: amqp.AMQPError) -> None:
        trouble = troubles.meaning(error)
        if trouble == self._said:
            return
        self._said = trouble
        if error.reply_code == amqp.NotFound.code:
            topology = self._celery.app.topology
            declared = topology.queue(self._queue)
            passive = declared is not None and declared.passive
            self.logger.error(
                "queue %s, for the consumer %s, is not at the broker: %s in %s, or make"
                " it at the broker; it is looked for every %g s",
                self._queue,
                self._task,
                "remove passive: true from it" if passive else "declare it",
                topology.source,
                REFUSED_PAUSE,
            )
        else:
            self.logger.error(
                "queue %s is refused to the consumer %s: %s; it is asked for again",
                self._queue,
                self._task,
                trouble,
            )

    def stop(self) -> None:
        """Take no more messages."""
        if self._consumer is not None:
            ignore_errors(self._celery.connection, self._consumer.cancel)

    def close(self) -> None:
        """Close the channel: unacknowledged messages go back to the queue."""
        self.stop()
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            ignore_errors(self._celery.connection, consumer.channel.close)

    def _has_come_over(self, message: Message) -> bool:
        """Return whether its channel is open; else the broker delivers it again."""
        channel = self._consumer and self._consumer.channel
        return channel is message.channel and channel.connection is not None
