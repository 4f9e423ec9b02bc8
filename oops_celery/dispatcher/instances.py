"""Instances of the dispatcher's ``Consumer`` classes, and the outcome of a message.

A class has a method ``consume(amqp, msg)`` and perhaps ``shutdown(exception=None)``, as
in amqp-dispatcher; both may be ``async def``. A function that returns such an object
works too.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from celery.exceptions import Reject

from oops_celery.dispatcher.message import Message
from oops_celery.dispatcher.proxy import Answer, Proxy
from oops_celery.errors import ConsumerFailed
from oops_celery.receiving.event_loop import LOOP

#: Seconds for which further failures of the same type are only counted.
SILENCE = 60.0

logger = logging.getLogger("amqp-dispatcher")

_T = TypeVar("_T")


@dataclass(frozen=True)
class Outcome:
    """The outcome of a message.

    Attributes:
        answer: The answer for the broker.
        error: The consumer's exception.
        seconds: How long it took.
    """

    answer: Answer
    error: BaseException | None
    seconds: float

    @property
    def reason(self) -> str:
        """The consumer's exception, or else its answer, in words."""
        return self.answer.value if self.error is None else _described(self.error)


class Kind:
    """A consumer's class, with the failures of its instances in this process.

    Args:
        load: Returns the class.
        name: Its name in the log.
    """

    def __init__(self, load: Callable[[], Callable[[], Any]], name: str) -> None:
        self.load = load
        self.name = name
        #: When a failure of each type was last logged, and the number since.
        self._described: dict[type, tuple[float, int]] = {}

    @property
    def is_async(self) -> bool:
        """Whether it consumes in coroutines, and is made in the event loop."""
        return inspect.iscoroutinefunction(getattr(self.load(), "consume", None))

    def failed(self, what: str, error: BaseException) -> None:
        """Log a failure of an instance; the same type only once a minute."""
        now = time.monotonic()
        said_at, more = self._described.get(type(error), (-SILENCE, 0))
        if now - said_at < SILENCE:
            self._described[type(error)] = said_at, more + 1
            return
        self._described[type(error)] = now, 0
        so_often = f" ({more} times more since it was said last)" if more else ""
        logger.error("%s%s failed%s", self.name, what, so_often, exc_info=error)


class Place:
    """A place for one instance at a time: a new one replaces one that failed.

    Args:
        kind: Its class.
        in_loop: Whether code in the event loop awaits its coroutines; else the caller
            waits for them.
    """

    def __init__(self, kind: Kind, in_loop: bool = False) -> None:
        self._kind = kind
        self._in_loop = in_loop
        self._instance: Any = None

    @property
    def has_instance(self) -> bool:
        """Whether there is an instance to shut down."""
        return self._instance is not None

    async def consume(self, message: Message, publish: Callable[..., None]) -> Outcome:
        """Give a message to the instance."""
        started = time.monotonic()
        proxy = Proxy(publish, message, self._in_loop)
        error = await self._consumed(proxy, message)
        otherwise = Answer.ACK if error is None else Answer.REQUEUE
        return Outcome(proxy.answer or otherwise, error, time.monotonic() - started)

    async def _consumed(self, proxy: Proxy, message: Message) -> BaseException | None:
        """Consume a message; return the exception."""
        try:
            if self._instance is None:
                logger.debug("making an instance of %s", self._kind.name)
                self._instance = self._kind.load()()
        except BaseException as error:  # a consumer's code may raise anything
            self._kind.failed("()", error)
            return error
        try:
            await self._finish(self._instance.consume(proxy, message))
            await proxy.finish()
        except BaseException as error:
            self._kind.failed(".consume", error)
            await self.close(error)
            return error
        return None

    async def close(self, error: BaseException | None = None) -> None:
        """Shut the instance down."""
        instance, self._instance = self._instance, None
        shutdown = getattr(instance, "shutdown", None)
        if shutdown is None:
            return
        try:
            await self._finish(shutdown(error))
        except BaseException as failure:
            self._kind.failed(".shutdown", failure)

    async def _finish(self, result: Any) -> None:
        if inspect.isawaitable(result):
            await (result if self._in_loop else _waited_for(result))


class Instances:
    """The instances of a class in a process of Celery's pool.

    Args:
        kind: The class.
    """

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._idle: deque[Place] = deque()

    def consume(self, message: Message, publish: Callable[..., None]) -> None:
        """Give a message to an instance. Returning means: acknowledge the message.

        Raises:
            celery.exceptions.Reject: Reject it.
            ConsumerFailed: Acknowledge it; the consumer failed after its answer.
        """
        place = self._idle.pop() if self._idle else Place(self._kind)
        outcome = now(place.consume(message, publish))
        self._idle.append(place)
        if outcome.answer is not Answer.ACK:
            raise Reject(outcome.reason, requeue=outcome.answer is Answer.REQUEUE)
        if outcome.error is not None:
            raise ConsumerFailed(outcome.reason) from outcome.error

    def close(self) -> None:
        """Shut all instances down."""
        while self._idle:
            now(self._idle.popleft().close())


def now(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that never waits, outside of any event loop."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    work.close()
    raise RuntimeError("it waits for something")


async def _waited_for(awaitable: Awaitable[Any]) -> Any:
    return LOOP.run(awaitable)


def _described(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # str() runs the exception's own code
        return type(error).__name__
