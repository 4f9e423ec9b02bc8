"""Replace values that BSON cannot hold by their text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import chain
from typing import Any

from oops_celery.wire.library import dumps

#: Levels of nesting that a report may have: MongoDB's limit for BSON. The pure Python
#: bson package still reads that deep within Python's default stack.
MAX_DEPTH = 100

#: Bytes above which a body contains every byte value, so counting bytes is useless.
LONG = 8000

#: The types of most values in a report. They contain no other values.
_FLAT = frozenset({str, int, float, bool, bytes, datetime, type(None)})
_SEQUENCES = frozenset({list, tuple})


def cleaned(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a report with its unsupported values as text; None if it has none."""
    return None if dumped(report) is not None else clean_document(report)


def dumped(report: Mapping[str, Any]) -> bytes | None:
    """Return a report as BSON; None if BSON or a BSON reader cannot hold it."""
    try:
        body = dumps(report)
    except Exception:  # a value's own code may raise anything
        return None
    # Each level has a marker byte, 3 or 4. A short body with few of them is not deep.
    few = len(body) < LONG and body.count(b"\x03") + body.count(b"\x04") < MAX_DEPTH
    return None if not few and _too_deep(report) else body


def _too_deep(report: Mapping[str, Any]) -> bool:
    """Return whether a report that BSON accepted (so a tree) has too many levels."""
    level: list[Any] = [dict(report)]
    for _ in range(MAX_DEPTH):
        kinds = set(map(type, level)) - _FLAT
        if not kinds:
            return False
        inner: Iterable[Any] = [value for value in level if type(value) in kinds]
        if not kinds <= _SEQUENCES:
            inner = map(_inside, inner)
        level = list(chain.from_iterable(inner))
    return True


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, (list, tuple)) else ()


def clean_document(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report with texts for the values that BSON cannot hold."""
    return _clean_document(report, 1, (id(report),))


def _clean(value: Any, depth: int, above: tuple[int, ...]) -> Any:
    """Return a value that BSON can hold: the value itself, else its text."""
    if is_instance(value, (Mapping, list, tuple)):
        if id(value) in above:
            return "<circular reference>"
        if depth >= MAX_DEPTH:
            return f"<nested deeper than {MAX_DEPTH} levels>"
        above = (*above, id(value))
        try:
            if is_instance(value, Mapping):
                return _clean_document(value, depth + 1, above)
            return [_clean(item, depth + 1, above) for item in value]
        except Exception:  # the container's iterator raises
            return as_text(value)
    try:
        dumps({"value": value})
    except Exception:  # each library raises its own kinds
        return as_text(value)
    return value


def _clean_document(
    document: Mapping[Any, Any], depth: int, above: tuple[int, ...]
) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, value in document.items():
        name = as_text(key).replace("\x00", "\\x00")
        while name in plain:  # 1 and "1": keep both
            name = f"{name} ({type(key).__name__})"
        plain[name] = _clean(value, depth, above)
    return plain


def as_text(value: Any) -> str:
    """Return a text for any value; UTF-8 can encode the text."""
    try:
        text = value if issubclass(type(value), str) else str(value)
    except (Exception, SystemExit):  # str() runs the value's own code
        text = f"<unprintable {type(value).__name__} object>"
    # str's own method: a subclass may override it with anything.
    return str.encode(text, "utf-8", "backslashreplace").decode()


def is_instance(value: Any, kinds: Any) -> bool:
    """`isinstance()` that returns False if the value's ``__class__`` raises."""
    try:
        return isinstance(value, kinds)
    except Exception:
        return False


def is_true(value: Any) -> bool:
    """`bool()` that returns False if the value raises."""
    try:
        return bool(value)
    except Exception:
        return False
