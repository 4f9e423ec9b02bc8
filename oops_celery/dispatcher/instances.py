"""Running the dispatcher's ``Consumer`` classes, where the work is done.

A class has the methods ``consume(amqp, msg)`` and ``shutdown(exception=None)``, as in
amqp-dispatcher; both may be ``async def``.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from celery.exceptions import Reject
from kombu.utils.compat import detect_environment

from oops_celery.dispatcher.message import Message
from oops_celery.dispatcher.proxy import Answer, Proxy

#: Seconds before a message goes back when its consumer cannot even be made.
GIVE_BACK_PAUSE = 1.0

logger = logging.getLogger("amqp-dispatcher")


class ConsumerFailed(Exception):
    """A consumer raised an exception after its answer, which stands."""


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
