"""Declare exchanges, queues and bindings, and explain what the broker refuses."""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import amqp
from amqp.exceptions import ConnectionForced, FrameSyntaxError
from kombu.transport import virtual

from oops_celery.topology.entities import Channel, Queue

#: kombu's virtual transports raise these for an exchange declared in two ways.
_NotEquivalent = virtual.base.NotEquivalentError


#: Seconds before a declaration that closed the connection is tried again: at first, and
#: at most. Each try costs a connection.
FIRST_PAUSE = 30.0
LONGEST_PAUSE = 3600.0


@dataclass
class _Closed:
    """A declaration that made the broker close the connection."""

    code: int
    text: str
    pause: float
    again_at: float


#: Such declarations of this process, by broker: repeated on each new connection, they
#: would close them all.
CLOSED: dict[Hashable, _Closed] = {}


class Declaring:
    """Declares one thing after another, on a new channel after each refusal.

    A refusal may also close the connection (503 for an unknown exchange type, 541 for a
    feature that RabbitMQ 4 denies). Then the rest is declared on a new connection, and
    this process leaves that thing out for a while.

    Attributes:
        refusals: What the broker refused.
        reconnected: Whether a refusal closed the connection.
    """

    def __init__(
        self,
        open_channel: Callable[[], Channel],
        closed: dict[Hashable, _Closed] | None = None,
    ) -> None:
        self.refusals: list[Refusal] = []
        self.reconnected = False
        self._open_channel = open_channel
        self._closed = {} if closed is None else closed
        self._channel: Channel = None
        #: Refused exchanges and queues, with the reply code.
        self._refused: dict[tuple[str, str], int] = {}

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
        refused = self._try(
            (kind, thing, thing.passive), lambda channel: declare(channel=channel)
        )
        if refused is None:
            return
        code, text = refused
        self.refusals.append(Refusal(kind, thing.name, code, text, thing.passive))
        self._refused[kind, thing.name] = code

    def bind(self, queue: Queue, binding: Any) -> None:
        """Declare a binding."""
        ends = {"queue": queue.name, "exchange": binding.exchange.name}
        said = {end: self._refused.get((end, name)) for end, name in ends.items()}
        # Missing, or another connection's own: its bindings would be refused too.
        if {404, 405} & set(said.values()):
            return
        name = binding_name(queue, binding)
        what = ("binding", name, repr(binding.arguments))
        refused = self._try(what, partial(_bind, queue, binding))
        if refused is None:
            return
        code, text = refused
        if code == 404 and any(said[end] and f"no {end} " in text for end in ends):
            return  # the missing end was refused itself
        self.refusals.append(Refusal("binding", name, code, text))

    def _try(
        self, what: Hashable, declare: Callable[[Channel], Any]
    ) -> tuple[int, str] | None:
        """Return the code and the text of the refusal; None if it was declared."""
        if self._channel is None:
            self._channel = self._open_channel()
        raw = getattr(self._channel, "connection", None)
        what = getattr(raw, "host", None), getattr(raw, "virtual_host", None), what
        known = self._closed.get(what)
        if known is not None and time.monotonic() < known.again_at:
            return known.code, known.text
        try:
            declare(self._channel)
        except _NotEquivalent as error:
            return 406, str(error)
        except amqp.AMQPError as error:
            if not is_refusal(error):
                raise
            text = " ".join(str(error.reply_text).split())  # RabbitMQ 4: several lines
            refused = int(error.reply_code), text
            if getattr(raw, "connected", True):
                self._close()  # the broker has closed its side
            else:
                self._channel, self.reconnected = None, True
                pause = min(2 * known.pause, LONGEST_PAUSE) if known else FIRST_PAUSE
                again_at = time.monotonic() + pause
                self._closed[what] = _Closed(*refused, pause, again_at)
            return refused
        except (struct.error, UnicodeError) as error:  # py-amqp has sent nothing
            return FrameSyntaxError.code, f"it does not fit into a message: {error}"
        self._closed.pop(what, None)
        return None

    def _close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()


def binding_name(queue: Queue, binding: Any) -> str:
    """Return a binding's name in a refusal: ``exchange -> queue (routing key)``."""
    key = f" ({binding.routing_key})" if binding.routing_key else ""
    return f"{binding.exchange.name} -> {queue.name}{key}"


def is_refusal(error: BaseException) -> bool:
    """Return whether an error is the broker's answer to a request.

    It may have closed the channel or the connection. Errors without a code are
    py-amqp's own: the connection was lost. With code 320 a broker says that it is
    stopping.
    """
    code = getattr(error, "reply_code", None)
    return bool(code) and code != ConnectionForced.code


def _bind(queue: Queue, binding: Any, channel: Channel) -> None:
    if isinstance(channel, virtual.Channel):
        # In these, a missing exchange is a KeyError, and the binding half made.
        channel.exchange_declare(binding.exchange.name, passive=True)
    binding.bind(queue, channel=channel)


#: RabbitMQ's message about a different argument. It ends after 255 bytes: a long name
#: leaves no room for the values.
_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)'"
    r"(?:.*: received (?P<file>.+) but current is (?P<broker>.+))?",
    re.DOTALL,
)
#: A value in it: ``'10'``, or ``the value '10' of type 'signedint'``, or ``none``.
_VALUE = re.compile(r"the value '(.*)' of type '\w+'|'(.*)'", re.DOTALL)


@dataclass(frozen=True)
class Refusal:
    """Something that the broker did not declare; as text, a line with the way out.

    Attributes:
        kind: ``exchange``, ``queue`` or ``binding``.
        name: The exchange, the queue, or ``exchange -> queue (routing key)``.
        code: The reply code of AMQP 0-9-1: 403, 404, 405, 406, 503, 541...
        text: The broker's message.
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
        said = self.text.partition(" - ")[2] or f"{self.text} ({self.code})"
        if self.code == 406:
            return self._as_difference() or f"the broker says: {said}; change the file"
        if self.code == 404 and self.passive:
            return (
                "it is not there, and the file says passive: true, so it is not made;"
                " make it first, or remove passive from the file"
            )
        return f"the broker says: {said}; {self._way_out()}"

    def difference(self) -> tuple[str, str, str] | None:
        """What differs, by its name in the file, and the values: file, broker.

        The values are empty if RabbitMQ's message was too long for them. None: it was
        refused for another reason.
        """
        found = _INEQUIVALENT.search(self.text)
        if not found:
            return None
        argument = found["argument"]
        if self.kind == "queue":
            argument = argument.replace("-", "_")  # by its name in the file
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
        if self.code == 404:
            return "declare it in the file, or make it at the broker first"
        return (
            "this broker cannot have it so, or must not: change it in the file, or see"
            " the broker's log"
        )


def _value(text: str) -> str:
    found = _VALUE.fullmatch(text)
    if found:
        return found[1] or found[2] or '""'
    return "not set" if text == "none" else text
