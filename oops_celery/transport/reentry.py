"""A publish never comes back into itself, as through a logging handler that publishes.

What is logged while a report is published, by any logger, may reach a handler that
publishes it: there, and in each thread of that publish, a publisher answers ``[]``.
A context variable says so, as greenlets have one each whatever was patched when.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from typing import Any, TypeVar

Item = TypeVar("Item")

#: What this code is a part of: no publish, the call of one, or a thread of one.
_NONE, _CALL, _THREAD = range(3)
_part: ContextVar[int] = ContextVar("oops_celery_part", default=_NONE)


def inside() -> bool:
    """Return whether this is a part of a publish."""
    return _part.get() != _NONE


@contextmanager
def publishing() -> Iterator[None]:
    """Make what is done within a part of a publish."""
    token = _part.set(_part.get() or _CALL)
    try:
        yield
    finally:
        _part.reset(token)


def each_inside(items: Iterator[Item]) -> Iterator[Item]:
    """Yield what an iterator yields; just what it does itself is part of a publish."""
    while True:
        with publishing():
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


def each_outside(items: Iterable[Item]) -> Iterator[Item]:
    """Yield what somebody else's iterable yields, which is no part of the publish."""
    iterator = iter(items)
    while True:
        token = _part.set(_NONE)
        try:
            item = next(iterator)
        except StopIteration:
            return
        finally:
            _part.reset(token)
        yield item


def thread(target: Callable[[], None], name: str) -> threading.Thread:
    """Return a daemon thread, a part of the publish in which it is made."""
    context = Context()  # an empty one: nothing of a request is held for long
    context.run(_part.set, _THREAD if inside() else _NONE)
    return threading.Thread(target=context.run, args=(target,), name=name, daemon=True)


def spare_handlers() -> None:
    """Keep the lines of a publish's threads from the handlers that called it.

    Such a handler holds its lock until the publish is done, and a thread of the publish
    would wait for that lock. The handler could do nothing with the line.
    """
    if not inside():
        return
    frame = sys._getframe(1).f_back
    while frame is not None:
        handler: Any = frame.f_locals.get("self")
        if isinstance(handler, logging.Handler) and _by_no_thread not in (
            handler.filters
        ):
            handler.addFilter(_by_no_thread)
        frame = frame.f_back


def _by_no_thread(_record: logging.LogRecord) -> bool:
    return _part.get() != _THREAD
