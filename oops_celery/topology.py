"""The topology: the exchanges, queues and consumers of a YAML file.

A `Topology` is a value. It is loaded, compared and shown without a broker, and declared
on as many as one likes::

    topology = Topology.load("topology.yml")
    for refusal in topology.declare(connection.channel):
        print(refusal)

The schema is amqp-dispatcher's, and more: see `oops_celery.topology_schema`.
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.resources import files
from types import TracebackType
from typing import Any

import amqp
import kombu
from amqp import spec
from kombu.transport import virtual

from oops_celery import topology_schema as schema
from oops_celery.topology_schema import Problem, TopologyError

__all__ = [
    "ConsumerEntry",
    "Exchange",
    "Problem",
    "Queue",
    "Refusal",
    "Topology",
    "TopologyError",
]

#: A kombu channel, of whatever transport.
Channel = Any

#: What kombu's virtual transports raise for an exchange declared in two ways.
_NotEquivalent = virtual.base.NotEquivalentError


class Exchange(kombu.Exchange):
    """An exchange of the file: kombu's, with `internal` (only exchanges feed it)."""

    internal = False

    attrs = (*kombu.Exchange.attrs, ("internal", bool))

    def declare(
        self, nowait: bool = False, passive: bool | None = None, channel: Channel = None
    ) -> Any:
        """Declare the exchange; where it is passive, check that it is there."""
        channel = channel or self.channel
        if not (self.internal and isinstance(channel, amqp.Channel)):
            return super().declare(nowait=nowait, passive=passive, channel=channel)
        passive = self.passive if passive is None else passive
        flags = (passive, self.durable, self.auto_delete, self.internal, nowait)
        # py-amqp's exchange_declare has no way to set the internal flag.
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

    Unlike kombu's it may be `passive`; it may be `exclusive` without `auto_delete`; and
    it is bound by its `bindings` alone, to exchanges that must be there. Without
    bindings it has no exchange at all. Its numbers are in `queue_arguments`, as they
    were written: kombu's own `message_ttl` and `expires` are seconds.
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
        # kombu sets it for each exclusive queue.
        self.auto_delete = bool(auto_delete)
        if bindings:
            # kombu keeps a set: its order changes from one run to the next.
            self.bindings = list(bindings)
        if exchange is None:
            self.exchange = None

    def declare(self, nowait: bool = False, channel: Channel = None) -> str:
        """Declare the queue, then its bindings.

        Not its `exchange`: Celery gives its default one to each queue that has none.
        """
        if not self.no_declare:
            self.queue_declare(nowait=nowait, channel=channel)
            for binding in self.bindings:
                binding.bind(self, nowait=nowait, channel=channel)
        return str(self.name)

    def queue_declare(
        self, nowait: bool = False, passive: bool = False, channel: Channel = None
    ) -> Any:
        """Declare the queue alone; where it is passive, check that it is there."""
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
        source = "oops_celery/topology.yml" if path is None else os.fspath(path)
        try:
            if path is None:
                text = files("oops_celery").joinpath("topology.yml").read_bytes()
            else:
                with open(path, "rb") as file:
                    text = file.read()
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
        with _no_garbage_collection():
            file = schema.read(text, source)
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

    def declare(self, open_channel: Callable[[], Channel]) -> list[Refusal]:
        """Declare the exchanges, then the queues, then the bindings.

        What the broker refuses does not keep the rest from being declared. kombu's
        virtual transports ignore the arguments of queues.

        Args:
            open_channel: Opens a channel: `kombu.Connection.channel`. Called again
                after each refusal, since AMQP closes the channel then.

        Returns:
            What the broker refused; empty when everything is there.

        Raises:
            OSError, amqp.exceptions.ConnectionError: Whatever the connection raises.
        """
        with _Declaring(open_channel) as declaring:
            for exchange in self.exchanges:
                declaring.attempt("exchange", exchange, exchange.declare)
            for queue in self.queues:
                declaring.attempt("queue", queue, queue.queue_declare)
            for queue in self.queues:
                for binding in queue.bindings:
                    declaring.bind(queue, binding)
        return declaring.refusals

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


def _exchange(entry: schema.ExchangeEntry) -> Exchange:
    values = entry.model_dump()
    return Exchange(values.pop("exchange"), **values)


def _queue(entry: schema.QueueEntry) -> Queue:
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


class _Declaring:
    """Declares one thing after another, on a new channel after each refusal."""

    def __init__(self, open_channel: Callable[[], Channel]) -> None:
        self.refusals: list[Refusal] = []
        self._open_channel = open_channel
        self._channel: Channel = None
        #: Exchanges and queues that nothing can be bound to, or from.
        self._unusable: set[tuple[str, str]] = set()

    def __enter__(self) -> _Declaring:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # After an exception the connection is broken, or its owner in a hurry.
        if error is None:
            self._close()

    def attempt(self, kind: str, thing: Any, declare: Callable[..., Any]) -> None:
        """Declare an exchange or a queue."""
        refused = self._try(lambda channel: declare(channel=channel))
        if refused is None:
            return
        code, text = refused
        self.refusals.append(Refusal(kind, thing.name, code, text, thing.passive))
        # Missing, or another connection's own: its bindings would only be refused too.
        if code in (404, 405):
            self._unusable.add((kind, thing.name))

    def bind(self, queue: Queue, binding: Any) -> None:
        """Declare a binding."""
        source = binding.exchange.name
        if {("queue", queue.name), ("exchange", source)} & self._unusable:
            return
        refused = self._try(partial(_bind, queue, binding))
        if refused is not None:
            key = f" ({binding.routing_key})" if binding.routing_key else ""
            name = f"{source} -> {queue.name}{key}"
            self.refusals.append(Refusal("binding", name, *refused))

    def _try(self, declare: Callable[[Channel], Any]) -> tuple[int, str] | None:
        if self._channel is None:
            self._channel = self._open_channel()
        try:
            declare(self._channel)
        except _NotEquivalent as error:
            return 406, str(error)
        except amqp.ChannelError as error:
            self._close()  # the broker has closed its side
            return int(error.reply_code), str(error.reply_text)
        return None

    def _close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()


def _bind(queue: Queue, binding: Any, channel: Channel) -> None:
    if isinstance(channel, virtual.Channel):
        # There a missing exchange is a KeyError, and the binding half made.
        channel.exchange_declare(binding.exchange.name, passive=True)
    binding.bind(queue, channel=channel)


#: What RabbitMQ says of an argument that differs. The text ends after 255 bytes: a long
#: name leaves no room for the values.
_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)'"
    r"(?:.*: received (?P<file>.+) but current is (?P<broker>.+))?",
    re.DOTALL,
)
#: A value there: ``'10'``, or ``the value '10' of type 'signedint'``, or ``none``.
_VALUE = re.compile(r"the value '(.*)' of type '\w+'|'(.*)'", re.DOTALL)


@dataclass(frozen=True)
class Refusal:
    """Something that the broker did not declare; as text, a line that says what to do.

    Attributes:
        kind: ``exchange``, ``queue`` or ``binding``.
        name: The exchange, the queue, or ``exchange -> queue (routing key)``.
        code: The reply code of AMQP 0-9-1: 403, 404, 405 or 406.
        text: What the broker said.
        passive: Whether the file says passive, so that nothing was to be made.
    """

    kind: str
    name: str
    code: int
    text: str
    passive: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self._reason()}"

    def _reason(self) -> str:
        said = self.text.partition(" - ")[2] or self.text
        if self.code == 406:
            return self._difference() or f"the broker says: {said}; change the file"
        if self.code == 404 and self.passive:
            return (
                "it is not there, and the file says passive: true, so it is not made;"
                " make it first, or remove passive from the file"
            )
        return f"the broker says: {said}; {self._way_out()}"

    def _difference(self) -> str | None:
        found = _INEQUIVALENT.search(self.text)
        if not found:
            return None
        argument = found["argument"]
        if self.kind == "queue":
            argument = argument.replace("-", "_")  # as the file has it
        differs = "is not the same in the file and at the broker"
        if found["file"]:
            mine, theirs = _value(found["file"]), _value(found["broker"])
            differs = f"is {mine} in the file, but {theirs} at the broker"
        when = "once it is empty" if self.kind == "queue" else "with its bindings"
        return (
            f"{argument} {differs}; change the file, or delete the {self.kind} at the"
            f" broker {when}"
        )

    def _way_out(self) -> str:
        if self.code == 403 and self.kind == "binding":
            return "the user needs to write to the queue and to read from the exchange"
        if self.code == 403:
            return "give the user the right to configure it, or say passive: true"
        if self.code == 405:
            return "end the connection that has it, or change exclusive in the file"
        return "declare it in the file, or make it at the broker first"


def _value(text: str) -> str:
    found = _VALUE.fullmatch(text)
    if found:
        return found[1] or found[2] or '""'
    return "not set" if text == "none" else text
