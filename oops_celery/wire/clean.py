"""Replace the values in a report that BSON cannot hold by their text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import chain
from typing import Any

from oops_celery.wire.library import dumps

#: Levels of nesting that a report may have. MongoDB sets the same limit for BSON, and
#: the pure Python bson package still reads that deep within Python's default stack.
MAX_DEPTH = 100

#: Bytes of a body in which all bytes are to be expected.
LONG = 8000

#: Most values of a report are of these types, which hold no others.
_FLAT = frozenset({str, int, float, bool, bytes, datetime, type(None)})
_SEQUENCES = frozenset({list, tuple})


def cleaned(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a report with texts for what BSON cannot hold; None if it can hold all."""
    return None if dumped(report) is not None else clean_document(report)


def dumped(report: Mapping[str, Any]) -> bytes | None:
    """Return a report as BSON; None if BSON, or a reader of it, cannot hold it."""
    try:
        body = dumps(report)
    except Exception:  # whatever a strange value makes of it
        return None
    # Each level has a marker, 3 or 4: few of those bytes, no need to look closer. In a
    # long body there are always enough of them.
    few = len(body) < LONG and body.count(b"\x03") + body.count(b"\x04") < MAX_DEPTH
    return None if not few and _too_deep(report) else body


def _too_deep(report: Mapping[str, Any]) -> bool:
    """Say whether a report that BSON has taken, so a tree, has too many levels."""
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
    """Turn a value into what BSON holds: itself where it can, else its text."""
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
        except Exception:  # a container that cannot even be looped over
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
    """Return a text for any value, one that UTF-8 can hold."""
    try:
        text = value if issubclass(type(value), str) else str(value)
    except (Exception, SystemExit):  # str() runs code of whoever made the value
        text = f"<unprintable {type(value).__name__} object>"
    # By str's own method: that of a subclass may do anything.
    return str.encode(text, "utf-8", "backslashreplace").decode()


def is_instance(value: Any, kinds: Any) -> bool:
    """`isinstance()` that returns False if the value's ``__class__`` raises.

    As a proxy's may.
    """
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
