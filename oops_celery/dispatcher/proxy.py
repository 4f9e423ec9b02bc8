"""The channel that a ``Consumer`` gets: it answers a message, and publishes."""

from __future__ import annotations

import enum
from collections.abc import Callable, Coroutine, Generator, Mapping
from typing import Any


class Answer(enum.Enum):
    """What a consumer says to the broker about a message."""

    ACK = "acknowledged"
    REQUEUE = "rejected; back to its queue"
    DROP = "rejected; to the dead letters of its queue, if it has any"


class AlreadyAnswered(Exception):
    """A message has one answer."""


class _Done(Coroutine[None, None, None]):
    """The result of a call that is over: an ``async def`` may wait for it.

    A coroutine, as what amqp-dispatcher's calls return: for `asyncio.create_task`.
    """

    def __await__(self) -> Generator[None, None, None]:
        yield from ()

    def send(self, _: None) -> None:
        """Be over at once."""
        raise StopIteration

    def throw(self, *error: Any) -> None:
        """Raise what ends a task that waits for it."""
        raise error[0]

    def close(self) -> None:
        """Be over."""


class Proxy:
    """What a consumer may tell the broker. Each call may be awaited.

    The answer (ack, nack, reject) takes effect when ``consume`` has ended.

    Args:
        publish: Sends a message: body, exchange, routing key, headers.
    """

    def __init__(self, publish: Callable[..., None]) -> None:
        self._publish = publish
        self.answer: Answer | None = None

    @property
    def has_responded_to_message(self) -> bool:
        """Whether the message has its answer."""
        return self.answer is not None

    def ack(self) -> _Done:
        """Take the message.

        Raises:
            AlreadyAnswered: It has its answer.
        """
        return self._answer(Answer.ACK)

    def nack(self) -> _Done:
        """Give the message back to its queue.

        Raises:
            AlreadyAnswered: It has its answer.
        """
        return self._answer(Answer.REQUEUE)

    def reject(self, requeue: bool = True) -> _Done:
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
        exchange: str,
        routing_key: str,
        headers: Mapping[str, Any] | None,
        body: bytes | str,
    ) -> _Done:
        """Publish a message; the broker has it when this returns.

        As in amqp-dispatcher, it is gone where no queue is bound to the exchange.

        Args:
            exchange: The exchange, which must be there.
            routing_key: Its routing key.
            headers: Its headers.
            body: Its body; text is sent as UTF-8.

        Raises:
            SendError: The broker did not take it.
            TypeError: The body or the headers are of another type.
        """
        if headers is not None and not isinstance(headers, Mapping):
            raise TypeError(f"headers must be a dict, not {type(headers).__name__}")
        about = {"content_type": "application/octet-stream"}
        if isinstance(body, str):
            about = {"content_type": "text/plain", "content_encoding": "utf-8"}
            body = body.encode()
        elif not isinstance(body, bytes | bytearray | memoryview):
            raise TypeError(f"body must be bytes or text, not {type(body).__name__}")
        self._publish(
            bytes(body),
            exchange=exchange,
            routing_key=routing_key,
            headers=dict(headers or {}),
            delivery_mode=2,  # persistent
            mandatory=False,
            **about,
        )
        return _Done()

    def _answer(self, answer: Answer) -> _Done:
        if self.answer is not None:
            raise AlreadyAnswered("Already responded to message!")
        self.answer = answer
        return _Done()
