"""Encode a report to BSON with its hash id, decode it, and read single fields of it.

A message body is the same as oops-amqp's: the report as one BSON document that
contains its own id.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from hashlib import md5
from typing import Any, NamedTuple

from oops_celery.errors import Undecodable
from oops_celery.wire.clean import as_text, clean_document, dumped, is_true
from oops_celery.wire.elements import TEXT, TIME, elements, text, time
from oops_celery.wire.library import HINT, dumps, loads
from oops_celery.wire.task import MAX_TASK_ID


class Encoded(NamedTuple):
    """A report ready to be sent."""

    #: The report's id, which its publisher returns.
    id: str
    #: The id of its Celery task: the report's id, if AMQP can carry it.
    task_id: str
    #: One BSON document.
    body: bytes


def encode(report: Mapping[str, Any], inherit_id: bool = False) -> Encoded:
    """Encode a report once and give it its id.

    The id is the MD5 of the report's BSON without its id, as in oops-amqp. With
    ``inherit_id``, an id that the report already has is kept. Values that BSON cannot
    hold become text, so that no value can prevent the report.

    Args:
        report: What `oops.Config.create` made. It is not changed.
        inherit_id: Whether to keep the report's own id.
    """
    own_id = report.get("id") if inherit_id else None
    if is_true(own_id):
        report_id = as_text(own_id)
        body = _to_bson({**report, "id": report_id})
        return Encoded(report_id, task_id(report_id, body), body)
    body = _to_bson({key: report[key] for key in report if key != "id"})
    report_id = _hash_id(body)
    return Encoded(report_id, report_id, _append_id(body, report_id))


def decode(body: bytes) -> dict[str, Any]:
    """Read a report from a message body.

    Raises:
        Undecodable: The body is not one whole BSON document.
    """
    _check_frame(body)
    try:
        return loads(body)
    except Exception as error:  # each library has its own exceptions
        raise Undecodable(f"not a BSON document: {as_text(error)}{HINT}") from error


def task_id(report_id: str | None, body: bytes) -> str:
    """Return the id of the task that carries a report.

    It is the report's own id. If the report has none, or AMQP cannot carry it, it is
    the hash of the body, which is the id that oops-amqp would have given it.
    """
    text = as_text(report_id or "")
    return text if 0 < len(text.encode()) <= MAX_TASK_ID else _hash_id(body)


def peek(body: bytes, names: tuple[str, ...]) -> dict[str, str]:
    """Read some top-level texts of a report, without decoding the rest.

    Args:
        body: The message body.
        names: The names of the elements; other types than text are left out.

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
    """Read a top-level time of a report, without decoding the rest.

    Args:
        body: The message body.
        name: The name of the element.

    Returns:
        The time in UTC; None if it is missing, not a time, or not in Python's calendar.

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
        raise Undecodable(f"not a BSON document: {as_text(error)}") from error


def _check_frame(body: bytes) -> None:
    """Check the frame: int32 length, elements, NUL (bsonspec.org).

    The pure Python bson package does not notice wrong lengths.
    """
    size = len(body)
    if size < 5 or struct.unpack_from("<i", body)[0] != size or body[-1] != 0:
        raise Undecodable(
            f"not a BSON document: {size} bytes that start with {body[:8].hex(' ')!r}"
        )


def _hash_id(body: bytes) -> str:
    return f"OOPS-{md5(body, usedforsecurity=False).hexdigest()}"


def _append_id(body: bytes, report_id: str) -> bytes:
    """Add the id to an encoded document as its last element."""
    value = report_id.encode()
    element = b"\x02id\x00" + struct.pack("<i", len(value) + 1) + value + b"\x00"
    length = struct.pack("<i", len(body) + len(element))
    return b"".join((length, body[4:-1], element, b"\x00"))


def _to_bson(report: Mapping[str, Any]) -> bytes:
    body = dumped(report)
    return dumps(clean_document(report)) if body is None else body
