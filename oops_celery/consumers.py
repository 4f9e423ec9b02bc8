"""Running the dispatcher's ``Consumer`` classes, where the work is done.

A class has the methods ``consume(amqp, msg)`` and ``shutdown(exception=None)``, as in
amqp-dispatcher; both may be ``async def``.
"""

from __future__ import annotations

import asyncio
import enum
import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from celery.exceptions import Reject
from kombu.utils.compat import detect_environment

#: Seconds before a message goes back when its consumer cannot even be made.
GIVE_BACK_PAUSE = 1.0

logger = logging.getLogger("amqp-dispatcher")


class Answer(enum.Enum):
    """What a consumer says to the broker about a message."""

    ACK = "acknowledged"
    REQUEUE = "rejected; back to its queue"
    DROP = "rejected; to the dead letters of its queue, if it has any"


class AlreadyAnswered(Exception):
    """A message has one answer."""


class ConsumerFailed(Exception):
    """A consumer raised an exception after its answer, which stands."""


@dataclass(frozen=True)
class Message:
    """A message, as a consumer gets it.

    Attributes:
        body: The body as it came.
        delivery_info: ``exchange``, ``routing_key``, ``redelivered``, ``delivery_tag``
            and ``consumer_tag`` of AMQP's basic.deliver.
        properties: AMQP's properties under their names (``content_type``,
            ``correlation_id``...); the headers are ``application_headers``, as haigha
            has them, and ``headers``, as pika has them.
    """

    body: bytes
    delivery_info: Mapping[str, Any]
    properties: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The body as text, in its ``content_encoding`` or UTF-8.

        What is no text in it becomes U+FFFD.
        """
        encoding = self.properties.get("content_encoding") or "utf-8"
        try:
            return self.body.decode(encoding, "replace")
        except (LookupError, ValueError):  # "binary", say; "idna" cannot replace
            return self.body.decode("utf-8", "replace")

    def __len__(self) -> int:
        return len(self.body)

    def __bool__(self) -> bool:
        return True


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


class Instances:
    """The instances of a class in this process; each has one message at a time.

    Args:
        load: Returns the class.
        name: What the log calls it.
    """

    def __init__(self, load: Callable[[], type], name: str) -> None:
        self._load = load
        self._name = name
        self._idle: deque[_Instance] = deque()

    def consume(self, message: Message, publish: Callable[..., None]) -> None:
        """Give a message to an instance. That this returns means: acknowledge it.

        Raises:
            celery.exceptions.Reject: It is rejected.
            ConsumerFailed: Acknowledge it; the consumer failed after its answer.
        """
        proxy = Proxy(publish)
        failure = self._consumed(proxy, message)
        if failure is None:
            answer = proxy.answer or Answer.ACK
        else:
            answer = proxy.answer or Answer.REQUEUE
        if answer is not Answer.ACK:
            reason = answer.value if failure is None else _said(failure)
            raise Reject(reason, requeue=answer is Answer.REQUEUE)
        if failure is not None:
            raise ConsumerFailed(_said(failure)) from failure

    def close(self) -> None:
        """Shut all instances down."""
        while self._idle:
            self._shut_down(self._idle.popleft(), None)

    def _consumed(self, proxy: Proxy, message: Message) -> BaseException | None:
        """Return what was raised."""
        try:
            instance = self._take()
        except BaseException as error:  # whatever their code does
            logger.exception("%s cannot be made; the message goes back", self._name)
            time.sleep(GIVE_BACK_PAUSE)
            return error
        try:
            instance.call("consume", proxy, message)
        except BaseException as error:
            logger.exception("%s.consume failed", self._name)
            self._shut_down(instance, error)
            return error
        self._idle.append(instance)
        return None

    def _take(self) -> _Instance:
        try:
            return self._idle.pop()
        except IndexError:
            logger.debug("making an instance of %s", self._name)
            return _Instance(self._load()())

    def _shut_down(self, instance: _Instance, error: BaseException | None) -> None:
        try:
            instance.call("shutdown", error)
        except BaseException:
            logger.exception("%s.shutdown failed", self._name)
        instance.close()


def _said(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # str() runs code of whoever made the error
        return type(error).__name__


def _one_at_a_time() -> AbstractContextManager[Any]:
    # asyncio knows one running loop a thread, and greenlets share one.
    if detect_environment() == "default":
        return nullcontext()
    return threading.Lock()


_loops = _one_at_a_time()


class _Instance:
    """An instance, and the event loop of its coroutines, if it has any."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._loop: asyncio.AbstractEventLoop | None = None

    def call(self, method: str, *args: Any) -> None:
        result = getattr(self._consumer, method)(*args)
        if inspect.isawaitable(result):
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
            with _loops:
                self._loop.run_until_complete(_finish(result))

    def close(self) -> None:
        if self._loop is not None:
            self._loop.close()


async def _finish(result: Any) -> None:
    await result
