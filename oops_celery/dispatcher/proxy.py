"""The channel that a ``Consumer`` gets: it answers a message, and publishes."""

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
    """What a consumer says to the broker about a message."""

    ACK = "acknowledged"
    REQUEUE = "rejected; back to its queue"
    DROP = "rejected; to the dead letters of its queue, if it has any"


class _Call(Coroutine[Any, Any, None]):
    """The result of a call: an ``async def`` may wait for it, or make it a task.

    Args:
        publishing: What goes on by itself, and ends in the last of them; empty for a
            call that is over. Whoever waits for that one takes it out.
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
        """Go on, as a coroutine does."""
        if self._waiting is None:
            self._waiting = self.__await__()
        return self._waiting.send(value)

    def throw(self, *error: Any) -> Any:
        """Raise what ends a task that waits for it."""
        if self._waiting is None:
            self._waiting = self.__await__()
        return self._waiting.throw(*error)

    def close(self) -> None:
        """Be waited for no longer; it comes to its end."""


class Proxy:
    """What a consumer may tell the broker. Each call may be awaited.

    The answer (ack, nack, reject) takes effect when ``consume`` has ended.

    Args:
        publish: Sends a message; takes the seconds that a broker may need.
        message: The message that is being consumed.
        in_loop: Whether that is done in an event loop, which must not wait: then a
            message is published by a thread, and ``consume`` ends after that.
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
        """Take the message.

        Raises:
            AlreadyAnswered: It has its answer.
        """
        return self._answer(Answer.ACK)

    def nack(self) -> _Call:
        """Give the message back to its queue.

        Raises:
            AlreadyAnswered: It has its answer.
        """
        return self._answer(Answer.REQUEUE)

    def reject(self, requeue: bool = True) -> _Call:
        """Refuse the message.

        Args:
            requeue: Whether it goes back to its queue. Otherwise it goes to the dead
                letter exchange of its queue; without one it is gone.

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

        As in amqp-dispatcher, it is gone where no queue is bound to the exchange, and
        has no content type unless it is given one.

        Args:
            exchange: The exchange, which must be there.
            routing_key: Its routing key.
            headers: Its headers.
            body: Its body; text is sent as UTF-8.
            exchange_name: The exchange, as amqp-dispatcher 1.x calls it.
            properties: Of AMQP: ``content_type``, ``correlation_id``, ``priority``...

        Raises:
            SendError: The broker did not take it.
            TypeError: An argument is of another type, or unknown.
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
        """Wait for what is still being published.

        Raises:
            SendError: The broker did not take it, and nobody has waited for that.
        """
        while self._publishing:
            await self._publishing.pop()

    def _answer(self, answer: Answer) -> _Call:
        if self.answer is not None:
            raise AlreadyAnswered("Already responded to message!")
        self.answer = answer
        return _Call()
