"""How long a message waits before it goes back to its queue, the more often it does."""

from __future__ import annotations

from typing import Any

from kombu import Message
from kombu.utils.functional import LRUCache

#: Seconds that a message waits at its second return, twice as long at each further one;
#: at most. RabbitMQ lets a message be held for half an hour (``consumer_timeout``).
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 60.0

#: Messages that are remembered, at most.
MEMORY = 10_000


class Backoff:
    """Counts how often each message goes back: AMQP 0-9-1 says only that it did.

    Messages with the same body and routing key count as one.
    """

    def __init__(self) -> None:
        self._returns: Any = LRUCache(limit=MEMORY)

    def pause(self, message: Message) -> float:
        """Return the seconds that a message waits before it goes back once more.

        The first time none: perhaps another consumer takes it.
        """
        key = _key(message)
        before = self._returns.get(key, 0)
        self._returns[key] = before + 1
        if not before:
            return 0.0
        return float(min(FIRST_PAUSE * 2 ** min(before - 1, 30), LONGEST_PAUSE))

    def forget(self, message: Message) -> None:
        """Forget a message that is done with, and others that look like it."""
        if self._returns:
            self._returns.pop(_key(message), None)


def _key(message: Message) -> int:
    return hash((message.delivery_info.get("routing_key"), message.body))
