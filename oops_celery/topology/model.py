"""The topology: the exchanges, queues and consumers of a YAML file.

A `Topology` is a value. It is loaded, compared and shown without a broker, and declared
on as many as one likes::

    topology = Topology.load("topology.yml")
    for refusal in topology.declare(connection.channel):
        print(refusal)

The schema is amqp-dispatcher's, and more: see `oops_celery.topology.schema`.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import amqp
import kombu

from oops_celery.errors import TopologyError
from oops_celery.topology.declare import (
    CLOSED,
    Declaring,
    Refusal,
    binding_name,
    is_refusal,
)
from oops_celery.topology.entities import Channel, Exchange, Queue
from oops_celery.topology.problems import Problem, read_file

if TYPE_CHECKING:
    from oops_celery.topology.schema import ExchangeEntry, QueueEntry

__all__ = [
    "ConsumerEntry",
    "Exchange",
    "Problem",
    "Queue",
    "Refusal",
    "Topology",
    "TopologyError",
]


@dataclass(frozen=True)
class ConsumerEntry:
    """A consumer class of the file, as amqp-dispatcher has them.

    Attributes:
        consumer: The class, as ``package.module:Class``.
        queue: The queue it takes messages from; it need not be in the file.
        consumer_count: How many instances there are.
        prefetch_count: How many messages the broker sends ahead; 0 means no limit.
    """

    consumer: str
    queue: str
    consumer_count: int = 1
    prefetch_count: int = 1
    prefork: bool = False


@dataclass(frozen=True)
class Topology:
    """What a topology file declares.

    Two are equal when they declare the same, wherever they were read.

    Attributes:
        exchanges: Declared first, in this order.
        queues: Declared next, each with its bindings.
        consumers: The consumer classes that a worker runs.
        startup_handler: ``package.module:function``, called once a worker.
        warnings: What RabbitMQ would accept, and lose messages by.
        source: The file.
    """

    exchanges: tuple[Exchange, ...] = ()
    queues: tuple[Queue, ...] = ()
    consumers: tuple[ConsumerEntry, ...] = ()
    startup_handler: str | None = None
    warnings: tuple[Problem, ...] = field(default=(), compare=False, repr=False)
    source: str = field(default="<string>", compare=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None) -> Topology:
        """Read a topology file.

        Args:
            path: The file; none means the one that comes with oops-celery.

        Raises:
            TopologyError: It cannot be read or used; every mistake is named.
        """
        if path is None:
            from oops_celery.topology.default import DEFAULT

            return DEFAULT
        source = os.fspath(path)
        try:
            text = read_file(path)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            why = getattr(error, "strerror", None) or error
            problem = Problem("", None, f"cannot be read: {why}")
            raise TopologyError(source, (problem,)) from None
        return cls.parse(text, source)

    @classmethod
    def parse(cls, text: str | bytes, source: str = "<string>") -> Topology:
        """Read a topology from text.

        Args:
            text: YAML.
            source: What messages call it.

        Raises:
            TopologyError: It cannot be used; every mistake is named.
        """
        # YAML and pydantic: the file that comes with oops-celery needs neither.
        from oops_celery.topology.checks import read_topology

        with _no_garbage_collection():
            file = read_topology(text, source)
            return cls(
                exchanges=tuple(map(_exchange, file.exchanges)),
                queues=tuple(map(_queue, file.queues)),
                consumers=tuple(
                    ConsumerEntry(**entry.model_dump()) for entry in file.consumers
                ),
                startup_handler=file.startup_handler,
                warnings=file.warnings,
                source=source,
            )

    @cached_property
    def _queues(self) -> dict[str, Queue]:
        return {queue.name: queue for queue in self.queues}

    def queue(self, name: str) -> Queue | None:
        """Return the queue of that name, or None where the file has none."""
        return self._queues.get(name)

    def dead_letter_target(self, queue_name: str) -> tuple[str, str] | None:
        """Return the exchange and the routing key of a queue's dead letters.

        The routing key is empty where the file sets none: RabbitMQ then keeps that of
        the message. None means that the queue has no dead letter exchange.
        """
        queue = self.queue(queue_name)
        arguments = queue.queue_arguments if queue else {}
        if "x-dead-letter-exchange" not in arguments:
            return None
        key = arguments.get("x-dead-letter-routing-key", "")
        return arguments["x-dead-letter-exchange"], key

    def dead_letter_queues(self, queue_name: str) -> tuple[Queue, ...]:
        """Return the queues of the file that a queue's dead letters end in.

        There is one, unless several are bound to the exchange: each then has a copy.
        """
        target = self.dead_letter_target(queue_name)
        return tuple(
            queue
            for queue in self.queues
            if queue.name != queue_name and self._leads_to(target, queue.name)
        )

    def retry_queues(self, queue_name: str) -> tuple[Queue, ...]:
        """Return the queues that hold a message for a while, then give it to another.

        Those are the queues with an ``x-message-ttl`` whose dead letters reach
        `queue_name`: through the default exchange, or one of the file that it is bound
        to (with the same routing key, unless it is a fanout). Shortest TTL first.
        """
        waiting = [
            queue
            for queue in self.queues
            if "x-message-ttl" in queue.queue_arguments
            and queue.name != queue_name
            and self._leads_to(self.dead_letter_target(queue.name), queue_name)
        ]
        waiting.sort(key=lambda queue: int(queue.queue_arguments["x-message-ttl"]))
        return tuple(waiting)

    def _leads_to(self, target: tuple[str, str] | None, queue_name: str) -> bool:
        if target is None:
            return False
        exchange, key = target
        if exchange == "":
            return key == queue_name
        types = {known.name: known.type for known in self.exchanges}
        queue = self.queue(queue_name)
        return exchange in types and any(
            binding.exchange.name == exchange
            and (types[exchange] == "fanout" or binding.routing_key == key)
            for binding in (queue.bindings if queue else ())
        )

    def part(self, refusals: Iterable[Refusal]) -> Topology:
        """Return what was refused, with the queues that it keeps from being bound."""
        refused = {(each.kind, each.name) for each in refusals}
        return replace(
            self,
            exchanges=tuple(
                each for each in self.exchanges if ("exchange", each.name) in refused
            ),
            queues=tuple(
                queue
                for queue in self.queues
                if ("queue", queue.name) in refused
                or any(
                    ("binding", binding_name(queue, each)) in refused
                    or ("exchange", each.exchange.name) in refused
                    for each in queue.bindings
                )
            ),
        )

    def declare(self, open_channel: Callable[[], Channel]) -> list[Refusal]:
        """Declare the exchanges, then the queues, then the bindings.

        What the broker refuses does not keep the rest from being declared. kombu's
        virtual transports ignore the arguments of queues.

        Args:
            open_channel: Opens a channel: `kombu.Connection.channel`. Called again
                after each refusal, since AMQP closes the channel then, or even the
                connection: a `kombu.Connection` opens another one.

        Returns:
            What the broker refused; empty when everything is there.

        Raises:
            OSError, amqp.exceptions.ConnectionError: Whatever the connection raises.
        """
        for _ in range(2):
            with Declaring(open_channel, CLOSED) as declaring:
                self._declare(declaring)
            if not (declaring.reconnected and any(q.exclusive for q in self.queues)):
                break  # else one may have ended with the connection that was closed
        return declaring.refusals

    def declare_at_once(self, channel: amqp.Channel) -> bool:
        """Declare everything, and wait for one answer instead of one for each thing.

        Args:
            channel: An open channel of py-amqp. A refusal closes it, and py-amqp opens
                it again; or it closes the connection.

        Returns:
            Whether the broker has refused nothing. It does not say which it refused,
            and what came after is not declared: `declare` does that.

        Raises:
            OSError, amqp.exceptions.ConnectionError: Whatever the connection raises.
        """
        steps: list[Callable[..., Any]] = [
            *(exchange.declare for exchange in self.exchanges),
            *(queue.queue_declare for queue in self.queues),
            *(
                partial(binding.bind, queue)
                for queue in self.queues
                for binding in queue.bindings
            ),
        ]
        if CLOSED:  # something here might close this connection too
            return False
        try:
            for number, step in enumerate(steps, 1):
                step(channel=channel, nowait=number < len(steps))
        except amqp.AMQPError as error:
            if not is_refusal(error):
                raise
            return False
        return True

    def _declare(self, declaring: Declaring) -> None:
        for exchange in self.exchanges:
            declaring.attempt("exchange", exchange, exchange.declare)
        # Exclusive queues end with their connection: once no refusal closes it.
        for queue in sorted(self.queues, key=lambda queue: queue.exclusive):
            declaring.attempt("queue", queue, queue.queue_declare)
        for queue in self.queues:
            for binding in queue.bindings:
                declaring.bind(queue, binding)

    def __repr__(self) -> str:
        names = [
            f"{kind}: {_some(entries)}"
            for kind, entries in (
                ("exchanges", [exchange.name for exchange in self.exchanges]),
                ("queues", [queue.name for queue in self.queues]),
                ("consumers", [entry.consumer for entry in self.consumers]),
                ("startup_handler", [self.startup_handler or ""]),
            )
            if any(entries)
        ]
        return f"<Topology {self.source}; {'; '.join(names)}>"


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Half the time of a large file would go into looking for garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _some(names: list[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return f"{shown}... ({len(names)})" if len(names) > most else shown


def _exchange(entry: ExchangeEntry) -> Exchange:
    values = entry.model_dump()
    return Exchange(values.pop("exchange"), **values)


def _queue(entry: QueueEntry) -> Queue:
    bindings = [
        kombu.binding(
            # Whoever only binds to an exchange does not know how it is declared.
            Exchange(binding.exchange, no_declare=True),
            binding.routing_key,
            binding.arguments,
        )
        for binding in entry.bindings
    ]
    return Queue(
        entry.queue,
        bindings=bindings,
        durable=entry.durable,
        auto_delete=entry.auto_delete,
        exclusive=entry.exclusive,
        passive=entry.passive,
        queue_arguments=entry.arguments(),
    )
