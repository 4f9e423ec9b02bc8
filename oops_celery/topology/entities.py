"""Exchanges and queues of a topology: kombu's classes, with what kombu leaves out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import amqp
import kombu
from amqp import spec

#: A kombu channel of any transport.
Channel = Any


class Exchange(kombu.Exchange):
    """An exchange of the file: kombu's, with `internal` (only exchanges feed it)."""

    internal = False

    attrs = (*kombu.Exchange.attrs, ("internal", bool))

    def declare(
        self, nowait: bool = False, passive: bool | None = None, channel: Channel = None
    ) -> Any:
        """Declare the exchange; if it is passive, check that it exists."""
        channel = channel or self.channel
        if not (self.internal and isinstance(channel, amqp.Channel)):
            return super().declare(nowait=nowait, passive=passive, channel=channel)
        passive = self.passive if passive is None else passive
        flags = (passive, self.durable, self.auto_delete, self.internal, nowait)
        # py-amqp's exchange_declare cannot set the internal flag.
        return channel.send_method(
            spec.Exchange.Declare,
            "BssbbbbbF",
            (0, self.name, self.type, *flags, self.arguments),
            wait=None if nowait else spec.Exchange.DeclareOk,
        )

    def _declared(self) -> tuple[Any, ...]:
        flags = (self.durable, self.auto_delete, self.internal, self.passive)
        return self.name, self.type, *flags, self.arguments or {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Exchange) and self._declared() == other._declared()

    __hash__ = kombu.Exchange.__hash__


class Queue(kombu.Queue):
    """A queue of the file.

    Unlike kombu's it may be `passive`, and `exclusive` without `auto_delete`. Only its
    `bindings` bind it, to exchanges that must exist; without bindings it has no
    exchange. Its numbers are in `queue_arguments`, as written: kombu's `message_ttl`
    and `expires` are seconds.
    """

    passive = False

    attrs = (*kombu.Queue.attrs, ("passive", bool))

    def __init__(
        self,
        name: str = "",
        exchange: Any = None,
        *,
        bindings: Iterable[Any] | None = None,
        auto_delete: bool | None = False,
        **more: Any,
    ) -> None:
        super().__init__(name, exchange, bindings=bindings, **more)
        # kombu sets it for every exclusive queue.
        self.auto_delete = bool(auto_delete)
        if bindings:
            # kombu keeps a set: its order changes from run to run.
            self.bindings = list(bindings)
        if exchange is None:
            self.exchange = None

    def declare(self, nowait: bool = False, channel: Channel = None) -> str:
        """Declare the queue, then its bindings.

        Not its `exchange`: Celery gives its default exchange to every queue without
        one.
        """
        if not self.no_declare:
            self.queue_declare(nowait=nowait, channel=channel)
            for binding in self.bindings:
                binding.bind(self, nowait=nowait, channel=channel)
        return str(self.name)

    def queue_declare(
        self, nowait: bool = False, passive: bool = False, channel: Channel = None
    ) -> Any:
        """Declare the queue alone; if it is passive, check that it exists."""
        passive = passive or self.passive
        return super().queue_declare(nowait=nowait, passive=passive, channel=channel)

    def _declared(self) -> tuple[Any, ...]:
        flags = (self.durable, self.auto_delete, self.exclusive, self.passive)
        bindings = [
            (binding.exchange.name, binding.routing_key, binding.arguments or {})
            for binding in self.bindings
        ]
        return self.name, *flags, self.queue_arguments or {}, bindings

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Queue) and self._declared() == other._declared()

    __hash__ = kombu.Queue.__hash__

    def __repr__(self) -> str:
        bindings = ", ".join(map(str, self.bindings))
        more = f" <- {bindings}" if bindings else ""
        return f"<Queue {self.name}{more} {self.queue_arguments or {}}>"


def denied(queue: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    """Yield what newer brokers deny of a queue: the key of the file, and the reason.

    See https://www.rabbitmq.com/docs/deprecated-features. RabbitMQ closes the
    connection that declares such a queue (541).

    Args:
        queue: An entry of ``queues:``, with the keys and values of the file.
    """
    if queue.get("passive") is True:
        return
    if queue.get("x_queue_master_locator") is not None:
        yield (
            "x_queue_master_locator",
            "RabbitMQ 4.3 denies it (queue_master_locator); remove it",
        )
    if queue.get("durable") is False and queue.get("exclusive") is not True:
        yield (
            "durable",
            "false: RabbitMQ 4 may deny a queue that is neither durable nor exclusive"
            " (transient_nonexcl_queues); remove it",
        )
    if queue.get("x_queue_version") == 1:
        yield "x_queue_version", "1: RabbitMQ 4.3 refuses it; remove it"
