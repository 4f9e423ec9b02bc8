"""The topology: the exchanges, queues and consumers of a YAML file.

A `Topology` is a value. It is loaded, compared and shown without a broker, and declared
at any number of brokers::

    topology = Topology.load("topology.yml")
    for refusal in topology.declare(connection.channel):
        print(refusal)

The schema is amqp-dispatcher's, extended: see `oops_celery.topology.schema`.
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
    """A consumer class of the file, as in amqp-dispatcher.

    Attributes:
        consumer: The class, as ``package.module:Class``.
        queue: The queue that it consumes; it need not be in the file.
        consumer_count: The number of instances.
        prefetch_count: Messages that the broker sends ahead; 0 means no limit.
    """

    consumer: str
    queue: str
    consumer_count: int = 1
    prefetch_count: int = 1
    prefork: bool = False


@dataclass(frozen=True)
class Topology:
    """The declarations of a topology file.

    Topologies that declare the same are equal, whatever their files.

    Attributes:
        exchanges: Declared first, in this order.
        queues: Declared next, each with its bindings.
        consumers: The consumer classes that a worker runs.
        startup_handler: ``package.module:function``, called once in a worker.
        filed: The queues with ``file_dead_letters: true``, for the worker's database.
        warnings: Declarations that RabbitMQ accepts, but that lose messages.
        source: The file.
    """

    exchanges: tuple[Exchange, ...] = ()
    queues: tuple[Queue, ...] = ()
    consumers: tuple[ConsumerEntry, ...] = ()
    startup_handler: str | None = None
    filed: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = field(default=(), compare=False, repr=False)
    source: str = field(default="<string>", compare=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None) -> Topology:
        """Read a topology file.

        Args:
            path: The file; None means the packaged one.

        Raises:
            TopologyError: It cannot be read or used; names every mistake.
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
            source: Its name, for messages.

        Raises:
            TopologyError: It cannot be used; names every mistake.
        """
        # YAML and pydantic: the packaged topology needs neither.
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
                filed=tuple(q.queue for q in file.queues if q.file_dead_letters),
                warnings=file.warnings,
                source=source,
            )

    @cached_property
    def _queues(self) -> dict[str, Queue]:
        return {queue.name: queue for queue in self.queues}

    def queue(self, name: str) -> Queue | None:
        """Return the queue of that name, or None if the file has none."""
        return self._queues.get(name)

    def dead_letter_target(self, queue_name: str) -> tuple[str, str] | None:
        """Return the exchange and the routing key of a queue's dead letters.

        The routing key is empty if the file sets none: RabbitMQ keeps the message's.
        None: the queue has no dead letter exchange.
        """
        queue = self.queue(queue_name)
        arguments = queue.queue_arguments if queue else {}
        if "x-dead-letter-exchange" not in arguments:
            return None
        key = arguments.get("x-dead-letter-routing-key", "")
        return arguments["x-dead-letter-exchange"], key

    def dead_letter_queues(self, queue_name: str) -> tuple[Queue, ...]:
        """Return the queues of the file that receive a queue's dead letters.

        There is one, unless several are bound to the exchange: each then gets a copy.
        """
        target = self.dead_letter_target(queue_name)
        return tuple(
            queue
            for queue in self.queues
            if queue.name != queue_name and self._leads_to(target, queue.name)
        )

    def retry_queues(self, queue_name: str) -> tuple[Queue, ...]:
        """Return the queues that delay messages for a queue, the shortest TTL first.

        They have an ``x-message-ttl``, and their dead letters reach `queue_name`:
        through the default exchange, or an exchange of the file that it is bound to
        (with the same routing key, unless it is a fanout).
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
        """Return the refused part, with the queues that it keeps from being bound."""
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

        A refusal does not stop the rest. kombu's virtual transports ignore the
        arguments of queues.

        Args:
            open_channel: Opens a channel: `kombu.Connection.channel`. Called again
                after each refusal, since AMQP closes the channel then, or even the
                connection: a `kombu.Connection` opens another one.

        Returns:
            What the broker refused; empty if everything is there.

        Raises:
            OSError, amqp.exceptions.ConnectionError: Whatever the connection raises.
        """
        for _ in range(2):
            with Declaring(open_channel, CLOSED) as declaring:
                self._declare(declaring)
            if not (declaring.reconnected and any(q.exclusive for q in self.queues)):
                break  # one may have ended with the closed connection
        return declaring.refusals

    def declare_at_once(self, channel: amqp.Channel) -> bool:
        """Declare everything, and wait for one answer instead of one for each thing.

        Args:
            channel: An open channel of py-amqp. A refusal closes it, and py-amqp opens
                it again; or it closes the connection.

        Returns:
            Whether the broker refused nothing. It does not say what it refused, and the
            rest is not declared: `declare` does that.

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
        # Last: exclusive queues end with their connection, which a refusal may close.
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
    """Half the time of a large file would be garbage collection."""
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
            # An entry that only binds to an exchange does not declare it.
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
