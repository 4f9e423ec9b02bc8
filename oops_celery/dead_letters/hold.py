"""Hold all messages of a queue for a moment, and put them back in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

import amqp

from oops_celery.errors import LookedAtTooOften

if TYPE_CHECKING:
    from oops_celery.dead_letters.queues import Broker

#: Seconds without a message before the broker is asked whether it has more.
QUIET = 0.5

#: Seconds without a message after which somebody else must have the rest.
PATIENCE = 5.0

#: Most messages that a consumer prefetches.
MOST_AHEAD = 2000

#: Bytes to prefetch, about: messages are taken to be as large as the largest so far.
BYTES_AHEAD = 64 * 1024 * 1024

#: Deliveries before the limit at which a message is no longer put back unchanged.
SPARE = 2

#: The header with a quorum queue's count of unacknowledged deliveries.
DELIVERY_COUNT = "x-delivery-count"


class Hold:
    """The messages of a queue, held one after another, and put back in their places.

    When the channel closes, for any reason, RabbitMQ puts back the messages of one
    consumer in order, and the consumers in the order of their names; but some versions
    put them before the rest of the queue, others behind. So all messages are taken.
    (Each `basic.get` counts as a consumer: above 32, RabbitMQ 3.10 forgets their order,
    and 4.0 puts the message at the end.)

    Args:
        broker: The connection.
        channel: A channel of it, for this alone.
        queue: The queue.
        limit: Deliveries after which RabbitMQ removes a message; None for no limit.
        most: Deliveries after which the queue is left alone.
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
        #: The delivery tags of unacknowledged messages.
        self._held: set[int] = set()
        #: Messages that the newest consumer may still prefetch.
        self._room = 0
        self._largest = 0
        self._begun = False
        self._left = ready(channel, queue)

    @property
    def number(self) -> int:
        """The number of held messages."""
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
        """Take the rest, and then no more: closing the channel puts all back."""
        for _ in self:
            pass
        self._stop()

    def _stop(self) -> None:
        for consumer in self._consumers:  # otherwise more would come during the close
            self._channel.basic_cancel(consumer)
        self._consumers.clear()

    def _wait(self) -> bool:
        """Wait for a message; return whether there is one."""
        deadline = time.monotonic() + PATIENCE
        while not self._come:
            if self._room <= 0:
                self._consume()
            try:
                self._broker.drain(QUIET)
            except TimeoutError:
                # Messages on their way to us are not ready either.
                if ready(self._channel, self._queue):
                    self._room = 0  # it has not received our acknowledgements
                if time.monotonic() > deadline and not self._come:
                    self._broker.tell(
                        f"queue {self._queue!r}: {self._left} of its messages went to "
                        "somebody else"
                    )
                    return False
        return True

    def _consume(self) -> None:
        size = self._largest or BYTES_AHEAD  # nothing is known before the first message
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
        """Raise `LookedAtTooOften` if another look would endanger the first message."""
        begun, self._begun = self._begun, True
        count = _deliveries(message)
        if begun or self._most is None or count < self._most:
            return
        self._stop()  # otherwise the next one would take its place
        self._renew(message)
        raise LookedAtTooOften(
            f"queue {self._queue!r} is left alone: a message in it has been delivered "
            f"{count} times, and RabbitMQ takes it out after {self._limit}"
        )

    def _renew(self, message: amqp.Message) -> None:
        """Replace a message that must not be delivered again by a copy.

        The copy goes to the end of the queue.
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
    """Return the number of messages that are ready in a queue."""
    return int(channel.queue_declare(queue, passive=True).message_count)
