"""How long a message waits before it is requeued: longer each time."""

from __future__ import annotations

import time
from typing import Any

from kombu import Message
from kombu.utils.functional import LRUCache

#: Seconds that a message waits when it is requeued again: at least, and at most.
#: RabbitMQ lets a consumer hold a message for half an hour (``consumer_timeout``).
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 60.0

#: Most messages to remember.
MEMORY = 10_000


class Backoff:
    """Remembers since when a message is requeued: AMQP 0-9-1 only tells that it was.

    Messages with the same body and routing key count as one.
    """

    def __init__(self) -> None:
        #: Times of the first requeue, by the monotonic clock.
        self._since: Any = LRUCache(limit=MEMORY)

    def pause(self, message: Message) -> float:
        """Return the seconds that a message waits before it is requeued.

        None the first time: another consumer may take it. Then as long as it has been
        requeued already, so twice as long each time.
        """
        now = time.monotonic()
        since = self._since.get(_key(message))
        if since is None:
            self._since[_key(message)] = now
            return 0.0
        return float(min(max(FIRST_PAUSE, now - since), LONGEST_PAUSE))

    def forget(self, message: Message) -> None:
        """Forget a finished message, and others that look like it."""
        if self._since:
            self._since.pop(_key(message), None)


def _key(message: Message) -> int:
    return hash((message.delivery_info.get("routing_key"), message.body))
