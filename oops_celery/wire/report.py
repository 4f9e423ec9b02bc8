"""What a report looks like on the wire: BSON, hash id, Celery's serializer.

Pure functions, no broker. A message body is exactly what oops-amqp sends: the report
as one BSON document that holds its own id.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from hashlib import md5
from itertools import chain
from typing import Any, NamedTuple

import bson
from kombu.serialization import register

from oops_celery.bson_elements import TEXT, TIME, elements, text, time

#: AMQP content type of a report. kombu picks the decoder by it.
CONTENT_TYPE = "application/bson"
CONTENT_ENCODING = "binary"
#: kombu's name for the serializer of the republish task.
SERIALIZER = "oops"

#: kombu's name for the serializer of any other message that the worker made a task.
#: The mark before its body is there because kombu decodes no empty body.
ADOPTED = "oops-adopted"
ADOPTED_CONTENT_TYPE = "application/x-oops-adopted"
ADOPTED_MARK = b"\x00"

#: Levels of nesting that a report may have. MongoDB sets the same limit for BSON, and
#: the pure Python bson package still reads that deep within Python's default stack.
MAX_DEPTH = 100

#: Bytes an AMQP 0-9-1 short string holds: the correlation id, which is the task id.
MAX_TASK_ID = 255

#: Characters of each part of a summary.
SUMMARY_WIDTH = 80


#: ``user:password`` in a URL, up to the last @ before its path.
USERINFO = re.compile(r'(?<=://)[^/?#\s"<>]+(?=@)')


#: Bytes of a body in which all bytes are to be expected.
LONG = 8000

#: Most values of a report are of these types, which hold no others.
_FLAT = frozenset({str, int, float, bool, bytes, datetime, type(None)})
_SEQUENCES = frozenset({list, tuple})


class Undecodable(ValueError):
    """The body is not one BSON document."""


class Encoded(NamedTuple):
    """A report ready to be sent."""

    #: The report's id, as its publisher returns it.
    id: str
    #: The id of the Celery task that carries it: the report's id, where AMQP can.
    task_id: str
    #: One BSON document.
    body: bytes


if hasattr(bson, "encode"):
    #: The distribution that the module ``bson`` came from.
    BSON_LIBRARY = "pymongo"
    from bson import codec_options

    _OPTIONS: Any = codec_options.CodecOptions(tz_aware=True)
    # A time that Python's datetime cannot hold must not make a report unreadable.
    if hasattr(codec_options, "DatetimeConversion"):  # PyMongo 4.3
        _OPTIONS = _OPTIONS.with_options(
            datetime_conversion=codec_options.DatetimeConversion.DATETIME_AUTO
        )

    def _dumps(report: Mapping[str, Any]) -> bytes:
        return bytes(bson.encode(report))

    def _loads(body: bytes) -> dict[str, Any]:
        return bson.decode(body, _OPTIONS)  # type: ignore[no-any-return]

else:
    BSON_LIBRARY = "bson"
    #: Said of a body that it cannot read.
    OTHER_LIBRARY = (
        " (for the pure Python package bson, which cannot read all that PyMongo's "
        "writes: pip install --force-reinstall --no-deps pymongo, restart the worker, "
        "oops-celery dead replay)"
    )

    def _dumps(report: Mapping[str, Any]) -> bytes:
        return bson.dumps(report)  # type: ignore[no-any-return]

    def _loads(body: bytes) -> dict[str, Any]:
        return bson.loads(body)  # type: ignore[no-any-return]


def encode(report: Mapping[str, Any], inherit_id: bool = False) -> Encoded:
    """Encode a report once, and give it its id.

    The id is the MD5 of the report's BSON without its id, as oops-amqp computes it;
    with ``inherit_id``, a true id that the report already has is kept. What BSON cannot
    hold is replaced by its text, so that no report is lost because of what is in it.

    Args:
        report: What `oops.Config.create` made. It is not changed.
        inherit_id: Whether to keep the report's own id.
    """
    own_id = report.get("id") if inherit_id else None
    if _is_true(own_id):
        report_id = _text(own_id)
        body = _encode_any({**report, "id": report_id})
        return Encoded(report_id, task_id(report_id, body), body)
    body = _encode_any({key: report[key] for key in report if key != "id"})
    report_id = _hash_id(body)
    return Encoded(report_id, report_id, _append_id(body, report_id))


def decode(body: bytes) -> dict[str, Any]:
    """Read a report from a message body.

    Raises:
        Undecodable: The body is not one whole BSON document.
    """
    _check_frame(body)
    try:
        return _loads(body)
    except Exception as error:  # each library raises its own kinds
        hint = "" if BSON_LIBRARY == "pymongo" else OTHER_LIBRARY
        raise Undecodable(f"not a BSON document: {_text(error)}{hint}") from error


def task_id(report_id: str | None, body: bytes) -> str:
    """Return the id of the task that carries a report.

    The report's own id; where it has none, or one that AMQP cannot carry, the hash of
    the body, which is the id that oops-amqp would have given it.
    """
    text = _text(report_id or "")
    return text if 0 < len(text.encode()) <= MAX_TASK_ID else _hash_id(body)


def peek(body: bytes, names: tuple[str, ...]) -> dict[str, str]:
    """Read texts at the top of a report, without decoding the rest.

    Args:
        body: The message body.
        names: The elements that are wanted; one that is no text is left out.

    Raises:
        Undecodable: The body is not one whole BSON document.
    """
    _check_frame(body)
    with _broken_is_undecodable():
        return {
            name: text(body, place)
            for name, kind, place in elements(body)
            if kind == TEXT and name in names
        }


def peek_time(body: bytes, name: str) -> datetime | None:
    """Read a time at the top of a report, without decoding the rest.

    Args:
        body: The message body.
        name: The element that is wanted.

    Returns:
        The time, in UTC; None where it is missing, no time, or none of our calendar.

    Raises:
        Undecodable: The body is not one whole BSON document.
    """
    _check_frame(body)
    with _broken_is_undecodable():
        for found, kind, place in elements(body):
            if kind == TIME and found == name:
                with suppress(OverflowError):
                    return time(body, place)
    return None


@contextmanager
def _broken_is_undecodable() -> Iterator[None]:
    try:
        yield
    except (ValueError, IndexError, struct.error, KeyError) as error:
        raise Undecodable(f"not a BSON document: {_text(error)}") from error


def _check_frame(body: bytes) -> None:
    """Check the frame: int32 length, elements, NUL (bsonspec.org).

    The pure Python bson package reads past broken lengths.
    """
    size = len(body)
    if size < 5 or struct.unpack_from("<i", body)[0] != size or body[-1] != 0:
        raise Undecodable(
            f"not a BSON document: {size} bytes that start with {body[:8].hex(' ')!r}"
        )


def summary(report: Mapping[str, Any]) -> str:
    """Say in a line what a report is about, for Flower, logs and events.

    Only the exception's type, the topic and the reporter: what users typed, cookies and
    passwords must not be seen there.
    """
    parts = [_short(report.get("type"))]
    for name in ("topic", "reporter"):
        # Some programs use the URL as the topic; its query is the user's.
        text = _short(report.get(name)).partition("?")[0]
        if text:
            parts.append(f"{name}={text}")
    return f"({', '.join(part for part in parts if part) or 'report'})"


def _hash_id(body: bytes) -> str:
    return f"OOPS-{md5(body, usedforsecurity=False).hexdigest()}"


def _append_id(body: bytes, report_id: str) -> bytes:
    """Add the id to an encoded document as its last element, as a dict would."""
    value = report_id.encode()
    element = b"\x02id\x00" + struct.pack("<i", len(value) + 1) + value + b"\x00"
    length = struct.pack("<i", len(body) + len(element))
    return b"".join((length, body[4:-1], element, b"\x00"))


def plain(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a report with texts for what BSON cannot hold; None if it can hold all."""
    return None if _dumped(report) is not None else _plain_document(report, 1, ())


def _encode_any(report: Mapping[str, Any]) -> bytes:
    body = _dumped(report)
    return _dumps(_plain_document(report, 1, ())) if body is None else body


def _dumped(report: Mapping[str, Any]) -> bytes | None:
    """Return a report as BSON; None if BSON, or a reader of it, cannot hold it."""
    try:
        body = _dumps(report)
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


def _plain(value: Any, depth: int, above: tuple[int, ...]) -> Any:
    """Turn a value into what BSON holds: itself where it can, else its text."""
    if _is(value, (Mapping, list, tuple)):
        if id(value) in above:
            return "<circular reference>"
        if depth >= MAX_DEPTH:
            return f"<nested deeper than {MAX_DEPTH} levels>"
        above = (*above, id(value))
        try:
            if _is(value, Mapping):
                return _plain_document(value, depth + 1, above)
            return [_plain(item, depth + 1, above) for item in value]
        except Exception:  # a container that cannot even be looped over
            return _text(value)
    try:
        _dumps({"value": value})
    except Exception:  # each library raises its own kinds
        return _text(value)
    return value


def _plain_document(
    document: Mapping[Any, Any], depth: int, above: tuple[int, ...]
) -> dict[str, Any]:
    above = above or (id(document),)
    plain: dict[str, Any] = {}
    for key, value in document.items():
        name = _text(key).replace("\x00", "\\x00")
        while name in plain:  # 1 and "1": keep both
            name = f"{name} ({type(key).__name__})"
        plain[name] = _plain(value, depth, above)
    return plain


def _text(value: Any) -> str:
    """Return a text for any value, one that UTF-8 can hold."""
    try:
        text = value if issubclass(type(value), str) else str(value)
    except (Exception, SystemExit):  # str() runs code of whoever made the value
        text = f"<unprintable {type(value).__name__} object>"
    # By str's own method: that of a subclass may do anything.
    return str.encode(text, "utf-8", "backslashreplace").decode()


def _is(value: Any, kinds: Any) -> bool:
    """`isinstance()` that returns False if the value's ``__class__`` raises.

    As a proxy's may.
    """
    try:
        return isinstance(value, kinds)
    except Exception:
        return False


def _is_true(value: Any) -> bool:
    try:
        return bool(value)
    except Exception:
        return False


def _short(value: Any) -> str:
    if not _is(value, str):
        return ""
    text = USERINFO.sub("**", _text(value))[:SUMMARY_WIDTH]
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "?" for char in text)


def _body_of(task_body: tuple[Any, ...]) -> bytes:
    """Take the report out of Celery's ``(args, kwargs, embed)``."""
    (body,), _, _ = task_body
    return body  # type: ignore[no-any-return]


def _task_body(body: bytes | str) -> tuple[Any, ...]:
    """Make Celery's ``(args, kwargs, embed)`` of a report, without parsing it.

    Celery decodes in the main process too: parsing there would cost twice, and a bad
    body would be lost.
    """
    return (body,), {}, {}


def _adopted_body(marked: bytes) -> tuple[Any, ...]:
    return (marked[len(ADOPTED_MARK) :],), {}, {}


register(SERIALIZER, _body_of, _task_body, CONTENT_TYPE, CONTENT_ENCODING)
register(ADOPTED, None, _adopted_body, ADOPTED_CONTENT_TYPE, CONTENT_ENCODING)
