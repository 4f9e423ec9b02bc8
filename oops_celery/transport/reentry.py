"""Keep a publish from starting another publish, by a logging handler that publishes.

A log line written during a publish, by any logger, may reach a handler that publishes
it. There, and in every thread of that publish, a publisher answers ``[]``. A context
variable marks this: each greenlet has its own, however the program was patched.
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

#: Where this code runs: in no publish, in the call of one, or in a thread of one.
_NONE, _CALL, _THREAD = range(3)
_part: ContextVar[int] = ContextVar("oops_celery_part", default=_NONE)


def inside() -> bool:
    """Return whether this code runs in a publish."""
    return _part.get() != _NONE


@contextmanager
def publishing() -> Iterator[None]:
    """Mark the block as part of a publish."""
    token = _part.set(_part.get() or _CALL)
    try:
        yield
    finally:
        _part.reset(token)


def each_inside(items: Iterator[Item]) -> Iterator[Item]:
    """Yield an iterator's items; the iterator's own code is part of a publish."""
    while True:
        with publishing():
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


def each_outside(items: Iterable[Item]) -> Iterator[Item]:
    """Yield a caller's items; the caller's code is not part of the publish."""
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
    """Return a daemon thread that is part of the publish that makes it."""
    context = Context()  # an empty context keeps nothing of a request alive
    context.run(_part.set, _THREAD if inside() else _NONE)
    return threading.Thread(target=context.run, args=(target,), name=name, daemon=True)


def spare_handlers() -> None:
    """Keep log lines of a publish's threads from the handlers that started the publish.

    Such a handler holds its lock until the publish is done; a thread of the publish
    would wait for that lock. The handler would drop the line anyway.
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
