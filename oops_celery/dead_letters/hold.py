"""Holding all messages of a queue for a moment, and putting them back in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

import amqp

from oops_celery.errors import LookedAtTooOften

if TYPE_CHECKING:
    from oops_celery.dead_letters.queues import Broker

#: Seconds without a message after which the broker is asked whether it has more.
QUIET = 0.5

#: Seconds without a message after which somebody else is taken to have the rest.
PATIENCE = 5.0

#: Messages that a consumer is sent ahead, at most.
MOST_AHEAD = 2000

#: Bytes that are sent ahead, about: messages are as large as the largest one so far.
BYTES_AHEAD = 64 * 1024 * 1024

#: Deliveries before the limit at which a message is no longer put back as it is.
SPARE = 2

#: The header in which a quorum queue counts the deliveries that were not acknowledged.
DELIVERY_COUNT = "x-delivery-count"


class Hold:
    """The messages of a queue, held one after another, and put back in their places.

    When the channel is closed, however that happens, RabbitMQ puts back in its order
    what one consumer held, and the consumers in the order of their names; but some
    versions put it in front of the rest, and others behind. So all there is is taken.
    (Each `basic.get` is a consumer of its own: above 32 RabbitMQ 3.10 forgets their
    order, and 4.0 puts the message to the end.)

    Args:
        broker: The connection.
        channel: A channel of it, for this alone.
        queue: The queue.
        limit: The deliveries after which RabbitMQ takes a message out; None for none.
        most: The deliveries after which the queue is left alone.
    """

    def __init__(
        self,
        broker: Broker,
        channel: amqp.Channel,
        queue: str,
        limit: int | None,
        most: int | None,
    ) -> None:
        self._broker = broker
        self._channel = channel
        self._queue = queue
        self._limit = limit
        self._most = most
        self._come: deque[amqp.Message] = deque()
        self._consumers: list[str] = []
        #: The delivery tags of the messages that are not acknowledged.
        self._held: set[int] = set()
        #: Messages that the newest consumer may still be sent ahead.
        self._room = 0
        self._largest = 0
        self._begun = False
        self._left = ready(channel, queue)

    @property
    def number(self) -> int:
        """The number of messages that are held."""
        return len(self._held)

    def __iter__(self) -> Iterator[amqp.Message]:
        while self._left > 0 and self._wait():
            self._left -= 1
            message = self._come.popleft()
            self._spare(message)
            yield message
            self._renew(message)

    def ack(self, message: amqp.Message) -> None:
        """Take a message out of the queue."""
        self._held.remove(message.delivery_tag)
        self._channel.basic_ack(message.delivery_tag)

    def end(self) -> None:
        """Take the rest, and no more: closing the channel then puts it all back."""
        for _ in self:
            pass
        self._stop()

    def _stop(self) -> None:
        for consumer in self._consumers:  # or more would come while it closes
            self._channel.basic_cancel(consumer)
        self._consumers.clear()

    def _wait(self) -> bool:
        """Wait for a message; tell whether there is one."""
        deadline = time.monotonic() + PATIENCE
        while not self._come:
            if self._room <= 0:
                self._consume()
            try:
                self._broker.drain(QUIET)
            except TimeoutError:
                # None are ready too while they are on their way to us.
                if ready(self._channel, self._queue):
                    self._room = 0  # it has not heard of our acknowledgements
                if time.monotonic() > deadline and not self._come:
                    self._broker.tell(
                        f"queue {self._queue!r}: {self._left} of its messages went to "
                        "somebody else"
                    )
                    return False
        return True

    def _consume(self) -> None:
        size = self._largest or BYTES_AHEAD  # of the first one nothing is known
        self._room = min(max(BYTES_AHEAD // size, 1), MOST_AHEAD)
        name = f"oops-celery.look.{len(self._consumers):06}"
        self._consumers.append(name)
        self._channel.basic_qos(0, self._room, False)
        self._channel.basic_consume(
            self._queue, consumer_tag=name, callback=self._on_message
        )

    def _on_message(self, message: amqp.Message) -> None:
        self._held.add(message.delivery_tag)
        self._largest = max(self._largest, len(message.body), 1)
        self._room -= 1
        self._come.append(message)

    def _spare(self, message: amqp.Message) -> None:
        """Raise `LookedAtTooOften` for the first message, before looking does harm."""
        begun, self._begun = self._begun, True
        count = _deliveries(message)
        if begun or self._most is None or count < self._most:
            return
        self._stop()  # or the next one would come in its place
        self._renew(message)
        raise LookedAtTooOften(
            f"queue {self._queue!r} is left alone: a message in it has been delivered "
            f"{count} times, and RabbitMQ takes it out after {self._limit}"
        )

    def _renew(self, message: amqp.Message) -> None:
        """Put a copy in the place of a message that must not be delivered once more.

        It goes to the end of the queue.
        """
        if (
            self._limit is None
            or message.delivery_tag not in self._held
            or _deliveries(message) < self._limit - SPARE
        ):
            return
        self._broker.send_copy(self._queue, message)
        self.ack(message)


def _deliveries(message: amqp.Message) -> int:
    count = (message.headers or {}).get(DELIVERY_COUNT)
    return count if isinstance(count, int) else 0


def ready(channel: amqp.Channel, queue: str) -> int:
    """Return the number of messages that a queue could hand out."""
    return int(channel.queue_declare(queue, passive=True).message_count)
