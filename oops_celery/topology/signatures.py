"""The signatures of a startup handler and a consumer, as in amqp-dispatcher."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

#: A consumer's methods, and the number of arguments amqp-dispatcher calls them with.
METHODS = {
    "consume": (2, "def consume(self, amqp, msg)"),
    "shutdown": (1, "def shutdown(self, exception=None)"),
}


def wrong_with_handler(name: str, handler: Any) -> Iterator[str]:
    """Yield why a worker cannot call it at its start."""
    if not callable(handler):
        yield f"{name} is of type {type(handler).__name__}; it must be a function"
    elif not _takes(handler, 0):
        yield f"{name} is called without arguments; write def {name}()"


def wrong_with_consumer(name: str, consumer: Any) -> Iterator[str]:
    """Yield why a worker cannot give messages to it."""
    if not callable(consumer):
        yield f"{name} is of type {type(consumer).__name__}; it must be a class"
        return
    if not _takes(consumer, 0):
        yield f"{name} is made without arguments; its __init__ needs some"
    if not inspect.isclass(consumer):
        return  # a function that makes one: only calling it would tell
    for method, (count, form) in METHODS.items():
        if method == "shutdown" and getattr(consumer, method, None) is None:
            continue  # nothing to do at its end
        if not callable(getattr(consumer, method, None)):
            yield f"{name} has no method {method}; write {form}"
        elif not _takes(_bound(consumer, method), count):
            yield f"{name}.{method} is called with {count} arguments; write {form}"


def _bound(consumer: type, name: str) -> Any:
    """Return a method as an instance has it, without making an instance."""
    method = inspect.getattr_static(consumer, name)
    if inspect.isfunction(method) or isinstance(method, staticmethod | classmethod):
        return method.__get__(object(), consumer)
    return None  # another kind of callable: only calling it would tell


def _takes(function: Any, count: int) -> bool:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # for example written in C: unknown
        return True
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True
