"""Declaring at a broker, and what is said of that which it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import amqp
from kombu.transport import virtual

from oops_celery.entities import Channel, Queue

#: What kombu's virtual transports raise for an exchange declared in two ways.
_NotEquivalent = virtual.base.NotEquivalentError


class Declaring:
    """Declares one thing after another, on a new channel after each refusal."""

    def __init__(self, open_channel: Callable[[], Channel]) -> None:
        self.refusals: list[Refusal] = []
        self._open_channel = open_channel
        self._channel: Channel = None
        #: Exchanges and queues that nothing can be bound to, or from.
        self._unusable: set[tuple[str, str]] = set()

    def __enter__(self) -> Declaring:
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
            return self._as_difference() or f"the broker says: {said}; change the file"
        if self.code == 404 and self.passive:
            return (
                "it is not there, and the file says passive: true, so it is not made;"
                " make it first, or remove passive from the file"
            )
        return f"the broker says: {said}; {self._way_out()}"

    def difference(self) -> tuple[str, str, str] | None:
        """Return what differs, as the file calls it, and the values: file, broker.

        The values are empty where RabbitMQ had no room for them; None means that
        nothing differs: it was refused for another reason.
        """
        found = _INEQUIVALENT.search(self.text)
        if not found:
            return None
        argument = found["argument"]
        if self.kind == "queue":
            argument = argument.replace("-", "_")  # as the file has it
        if not found["file"]:
            return argument, "", ""
        return argument, _value(found["file"]), _value(found["broker"])

    def _as_difference(self) -> str | None:
        difference = self.difference()
        if difference is None:
            return None
        argument, mine, theirs = difference
        differs = "is not the same in the file and at the broker"
        if mine:
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
