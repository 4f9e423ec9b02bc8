"""The channel object that a ``Consumer`` gets: it answers a message, and publishes."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Coroutine, Generator, Mapping
from typing import Any

import amqp

from oops_celery.errors import AlreadyAnswered

#: Properties of a message that `Proxy.publish` takes beside its headers.
PROPERTIES = tuple(
    name for name, _ in amqp.Message.PROPERTIES if name != "application_headers"
)


class Answer(enum.Enum):
    """A consumer's answer to the broker about a message."""

    ACK = "acknowledged"
    REQUEUE = "rejected; back to its queue"
    DROP = "rejected; to the dead letters of its queue, if it has any"


class _Call(Coroutine[Any, Any, None]):
    """The result of a call: an ``async def`` may await it, or make a task of it.

    Args:
        publishing: The running publish, at its end; empty if the call is over. The
            first that awaits it takes it out.
    """

    def __init__(self, publishing: list[asyncio.Future[None]] | None = None) -> None:
        self._all = publishing or []
        self._future = publishing[-1] if publishing else None
        self._waiting: Generator[Any, Any, None] | None = None

    def __await__(self) -> Generator[Any, Any, None]:
        if self._future is not None:
            if self._future in self._all:
                self._all.remove(self._future)
            yield from self._future.__await__()

    def send(self, value: Any) -> Any:
        """Continue, as a coroutine does."""
        if self._waiting is None:
            self._waiting = self.__await__()
        return self._waiting.send(value)

    def throw(self, *error: Any) -> Any:
        """Raise an exception in the task that awaits it."""
        if self._waiting is None:
            self._waiting = self.__await__()
        return self._waiting.throw(*error)

    def close(self) -> None:
        """Stop waiting; the publish goes on."""


class Proxy:
    """Answers and publishes for a consumer. Each call may be awaited.

    The answer (ack, nack, reject) takes effect when ``consume`` has ended.

    Args:
        publish: Sends a message; takes the seconds that it may need.
        message: The message being consumed.
        in_loop: Whether the caller runs in an event loop, which must not wait: then a
            thread publishes, and ``consume`` ends after that.
    """

    def __init__(
        self, publish: Callable[..., None], message: Any = None, in_loop: bool = False
    ) -> None:
        self._publish = publish
        self._message = message
        self._in_loop = in_loop
        self._publishing: list[asyncio.Future[None]] = []
        self.answer: Answer | None = None

    @property
    def tag(self) -> Any:
        """The delivery tag of the message."""
        return self._message.delivery_info.get("delivery_tag")

    @property
    def has_responded_to_message(self) -> bool:
        """Whether the message has its answer."""
        return self.answer is not None

    def ack(self) -> _Call:
        """Acknowledge the message.

        Raises:
            AlreadyAnswered: It has its answer.
        """
        return self._answer(Answer.ACK)

    def nack(self) -> _Call:
        """Requeue the message.

        Raises:
            AlreadyAnswered: It has its answer.
        """
        return self._answer(Answer.REQUEUE)

    def reject(self, requeue: bool = True) -> _Call:
        """Reject the message.

        Args:
            requeue: Whether it goes back to its queue. Otherwise it goes to the dead
                letter exchange of its queue; without one it is dropped.

        Raises:
            AlreadyAnswered: It has its answer.
        """
        return self._answer(Answer.REQUEUE if requeue else Answer.DROP)

    def publish(
        self,
        exchange: str | None = None,
        routing_key: str = "",
        headers: Mapping[str, Any] | None = None,
        body: bytes | str = b"",
        *,
        exchange_name: str | None = None,
        **properties: Any,
    ) -> _Call:
        """Publish a message; the broker has it when this returns, or has been awaited.

        As in amqp-dispatcher, the message is dropped if no queue is bound to the
        exchange, and has no content type unless it is given one.

        Args:
            exchange: The exchange, which must exist.
            routing_key: Its routing key.
            headers: Its headers.
            body: Its body; text is sent as UTF-8.
            exchange_name: The exchange, by amqp-dispatcher 1.x's name.
            properties: AMQP's: ``content_type``, ``correlation_id``, ``priority``...

        Raises:
            SendError: The broker did not take it.
            TypeError: An argument has another type, or is unknown.
        """
        if (exchange is None) == (exchange_name is None):
            raise TypeError("publish() needs one of exchange and exchange_name")
        if headers is not None and not isinstance(headers, Mapping):
            raise TypeError(f"headers must be a dict, not {type(headers).__name__}")
        if unknown := sorted(set(properties) - set(PROPERTIES)):
            raise TypeError(
                f"publish() knows no property {unknown[0]}; there are "
                f"{', '.join(PROPERTIES)}"
            )
        if isinstance(body, str):
            body = body.encode()
        elif not isinstance(body, bytes | bytearray | memoryview):
            raise TypeError(f"body must be bytes or text, not {type(body).__name__}")
        arguments = {
            "exchange": exchange_name if exchange is None else exchange,
            "routing_key": routing_key,
            "mandatory": False,
            "plain": {
                "delivery_mode": 2,  # persistent
                "application_headers": dict(headers or {}),
                **properties,
            },
        }
        if not self._in_loop:
            self._publish(bytes(body), **arguments)
            return _Call()
        sending = asyncio.to_thread(self._publish, bytes(body), **arguments)
        self._publishing.append(asyncio.ensure_future(sending))
        return _Call(self._publishing)

    async def finish(self) -> None:
        """Wait for running publishes.

        Raises:
            SendError: The broker did not take a message, and nobody awaited that.
        """
        while self._publishing:
            await self._publishing.pop()

    def _answer(self, answer: Answer) -> _Call:
        if self.answer is not None:
            raise AlreadyAnswered("Already responded to message!")
        self.answer = answer
        return _Call()
