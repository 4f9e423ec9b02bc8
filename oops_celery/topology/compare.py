"""Compare a topology with a broker: what is missing there, what differs.

Nothing is made. AMQP cannot ask for a queue's arguments, but RabbitMQ refuses to
declare an existing queue with other arguments, and says what differs. So everything is
first declared passively, which makes nothing, and only existing things are declared
again, which changes nothing.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from oops_celery.topology.declare import Declaring, Refusal
from oops_celery.topology.entities import Channel, Queue, denied
from oops_celery.topology.model import Topology

#: A binding: exchange, routing key, arguments.
Binding = tuple[str, str, dict[str, Any]]


@dataclass(frozen=True)
class Difference:
    """A difference between the file and the broker.

    Attributes:
        kind: ``exchange``, ``queue`` or ``binding``.
        name: The exchange, the queue, or ``exchange -> queue (routing key)``.
        what: ``missing`` at the broker, ``different``, ``extra`` (only at the broker),
            or ``unknown``: the broker does not tell this user.
        argument: What differs, by its name in the file.
        file: The value in the file.
        broker: The value at the broker, or its message.
        note: A possible reason.
    """

    kind: str
    name: str
    what: str
    argument: str = ""
    file: str = ""
    broker: str = ""
    note: str = ""

    def __str__(self) -> str:
        more = {
            "missing": f": {self.note}" if self.note else "",
            "different": f": {self._values()}",
            "extra": ": at the broker alone, not in the file",
            "unknown": f": cannot be compared; the broker says: {self.broker}",
        }
        return f"{self.kind} {self.name}{more[self.what]}"

    def _values(self) -> str:
        if not self.file:  # RabbitMQ's message was too long for them
            return f"{self.argument} is not the same"
        return (
            f"{self.argument} is {self.file} in the file, but {self.broker} at the"
            " broker"
        )


def compare(
    topology: Topology,
    open_channel: Callable[[], Channel],
    bindings_of: Callable[[str], list[Binding]] | None = None,
) -> list[Difference]:
    """Return the differences between a topology and a RabbitMQ.

    Passive things of the file are only looked for.

    Args:
        topology: What should be there.
        open_channel: Opens a channel; called again after each refusal.
        bindings_of: Returns a queue's bindings, which AMQP cannot list; None: bindings
            are not compared.

    Raises:
        OSError, amqp.exceptions.ConnectionError: Whatever the connection raises.
    """
    with Declaring(open_channel) as declaring:
        found = []
        for exchange in topology.exchanges:
            found += _compare(declaring, "exchange", exchange, exchange.declare)
        for queue in topology.queues:
            found += _compare(declaring, "queue", queue, queue.queue_declare)
        found += _unknown_exchanges(topology, declaring)
    missing = {each.name for each in found if each.what == "missing"}
    if bindings_of is not None:
        for queue in topology.queues:
            if queue.name not in missing:
                found += _compare_bindings(queue, bindings_of(queue.name))
    return found


def _compare(
    declaring: Declaring, kind: str, thing: Any, declare: Callable[..., Any]
) -> list[Difference]:
    refusal = _ask(declaring, kind, thing, partial(declare, passive=True))
    if refusal is not None:
        what = "missing" if refusal.code == 404 else "unknown"
        said, note = _refusal_in_words(refusal, what), _note(thing)
        return [Difference(kind, thing.name, what, broker=said, note=note)]
    found: list[Difference] = []
    asked = copy.copy(thing)
    # RabbitMQ tells one difference at a time: use its value, and ask again.
    while not thing.passive:
        method = getattr(asked, declare.__name__)
        refusal = _ask(declaring, kind, asked, method)
        if refusal is None:
            break
        difference = refusal.difference()
        if difference is None:
            unknown = Difference(kind, thing.name, "unknown")
            found.append(replace(unknown, broker=_refusal_in_words(refusal, "unknown")))
            break
        argument, mine, theirs = difference
        if any(each.argument == argument for each in found):
            break  # its value could not be used
        found.append(Difference(kind, thing.name, "different", argument, mine, theirs))
        if not _take_over(asked, refusal):
            break
    return found


def _ask(
    declaring: Declaring, kind: str, thing: Any, declare: Callable[..., Any]
) -> Refusal | None:
    before = len(declaring.refusals)
    declaring.attempt(kind, thing, declare)
    return declaring.refusals[-1] if len(declaring.refusals) > before else None


def _note(thing: Any) -> str:
    """Return what a newer broker denies of a queue."""
    arguments = getattr(thing, "queue_arguments", None) or {}
    entry = {key.replace("-", "_"): value for key, value in arguments.items()}
    if isinstance(thing, Queue):
        entry.update(durable=thing.durable, exclusive=thing.exclusive)
    return "; ".join(f"{key}: {why}" for key, why in denied(entry))


def _refusal_in_words(refusal: Refusal, what: str) -> str:
    return "" if what == "missing" else refusal.text


#: The values at the end of RabbitMQ's message: ``received '7' but current is '5'``, or
#: ``... current is the value '5' of type 'signedint'``, or ``... current is none``.
_CURRENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)'.*: received .+ but current is"
    r" (?:(?P<none>none)|the value '(?P<typed>.*)' of type '(?P<type>\w+)'"
    r"|'(?P<bare>.*)')",
    re.DOTALL,
)

#: How to read a value of RabbitMQ's, by its AMQP 0-9-1 type.
_READ: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("signedint", "long", "short", "byte", "unsignedint"), int),
    **dict.fromkeys(("bool", "boolean"), "true".__eq__),
    "longstr": str,
    # The short form has no type: it is that of the value in the file.
    "int": int,
    "str": str,
}


def _take_over(thing: Any, refusal: Refusal) -> bool:
    """Use the broker's value for an exchange or a queue; return whether that worked."""
    said = _CURRENT.search(refusal.text)
    if said is None:
        return False
    argument = said["argument"]
    flag = argument.replace("-", "_")
    own = not argument.startswith("x-") and hasattr(thing, flag)
    place = "queue_arguments" if refusal.kind == "queue" else "arguments"
    arguments = dict(getattr(thing, place) or {})
    old = getattr(thing, flag) if own else arguments.get(argument)
    read = _READ.get(said["type"] or type(old).__name__)
    if own and read and said["bare"] is not None:
        setattr(thing, flag, read(said["bare"]))
        return True
    if said["none"]:
        arguments.pop(argument, None)
    elif read is not None:
        arguments[argument] = read(said["typed"] or said["bare"] or "")
    else:
        return False
    setattr(thing, place, arguments)
    return True


def _unknown_exchanges(topology: Topology, declaring: Declaring) -> list[Difference]:
    """Look for the exchanges that the file only binds to."""
    declared = {exchange.name for exchange in topology.exchanges}
    found = []
    for queue in topology.queues:
        for binding in queue.bindings:
            name = binding.exchange.name
            if name in declared:
                continue
            declared.add(name)
            # kombu does not declare it, which includes a passive check.
            looked_for = copy.copy(binding.exchange)
            looked_for.no_declare = False
            declare = partial(looked_for.declare, passive=True)
            refusal = _ask(declaring, "exchange", looked_for, declare)
            if refusal is not None:
                what = "missing" if refusal.code == 404 else "unknown"
                said = _refusal_in_words(refusal, what)
                found.append(Difference("exchange", name, what, broker=said))
    return found


def _compare_bindings(queue: Any, at_broker: list[Binding]) -> list[Difference]:
    in_file: list[Binding] = [
        (binding.exchange.name, binding.routing_key or "", binding.arguments or {})
        for binding in queue.bindings
    ]
    missing = [each for each in in_file if each not in at_broker]
    extra = [each for each in at_broker if each not in in_file]
    return [
        Difference("binding", _binding_name(queue.name, each), what)
        for what, bindings in (("missing", missing), ("extra", extra))
        for each in bindings
    ]


def _binding_name(queue_name: str, binding: Binding) -> str:
    exchange, key, arguments = binding
    more = ", ".join(filter(None, (key, str(arguments) if arguments else "")))
    return f"{exchange} -> {queue_name}" + (f" ({more})" if more else "")
