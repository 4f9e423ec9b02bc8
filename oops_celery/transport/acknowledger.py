"""Acknowledge many messages of a channel with one frame, if their order allows it.

A frame for each message is a system call for each: a sixth of the main process's work
for a report.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any


class Acknowledger:
    """Acknowledges the messages of one channel.

    ``basic.ack`` with ``multiple`` acknowledges a message and all before it (AMQP
    0-9-1), so it is used if all of them are done.

    Args:
        channel: The channel; its delivery tags grow.
    """

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        #: Delivery tags of the messages still at work, in order.
        self._at_work: dict[int, None] = {}
        #: Delivery tags to acknowledge together.
        self._held: list[int] = []
        self._holding = False

    def came(self, tag: int) -> None:
        """Record a delivery."""
        self._at_work[tag] = None

    def rejected(self, tag: int) -> None:
        """Forget a delivery that was rejected."""
        self._at_work.pop(tag, None)

    def acknowledge(self, tag: int) -> None:
        """Acknowledge a message: at once, or at the end of `together`."""
        self._at_work.pop(tag, None)
        self._held.append(tag)
        if not self._holding:
            self._flush()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Collect the block's acknowledgements, and send as few frames as possible."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
            self._flush()

    def _flush(self) -> None:
        held, self._held = sorted(self._held), []
        first = next(iter(self._at_work), inf)
        before = bisect(held, first)
        if before:
            self._channel.basic_ack(held[before - 1], multiple=True)
        for tag in held[before:]:
            self._channel.basic_ack(tag)
