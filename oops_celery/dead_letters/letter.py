"""Read a dead letter: its id, its reason and its report, whatever it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from hashlib import blake2b
from typing import Any

from oops_celery import wire
from oops_celery.dead_letters import park
from oops_celery.wire.task import FIRST_FAILED_AT, TASK_NAME, UNREADABLE

#: Characters of an id that is made for a message without one.
SHORT_HASH = 12

#: Bytes of a letter's key.
KEY_BYTES = 16

#: Properties and headers that may name a message without a report.
_ID_PROPERTIES = ("message_id", "correlation_id")
_ID_HEADERS = ("id", "message_id", "correlation_id")

#: The headers that arriving and parking add.
OUR_HEADERS = (
    park.REASON,
    park.ATTEMPTS,
    park.TRACEBACK,
    park.QUEUE,
    FIRST_FAILED_AT,
    park.PARKED_AT,
    park.PARKED_BY,
    UNREADABLE,
)


@dataclass(frozen=True)
class Letter:
    """A dead letter, without its body.

    Attributes:
        queue: The queue of dead letters that it was in.
        id: The report's id; else the message's; else a hash of its body, so that each
            message has a name.
        key: Tells this message from all others, even with the same id.
        is_report: Whether the body is one BSON document.
        type: The exception's type, or the type that the message claims.
        time: The report's own time, in UTC, or None.
        reason: Why it is dead; empty if unknown.
        attempts: How often it was tried; None if unknown.
        came_from: The queue that it was in before; None if unknown.
        first_failed_at: Time of its first failure, in UTC, or None.
        parked_at: When it was parked, in UTC; if that is unknown, when it was read.
        parked_by: The host and the process that parked it.
        traceback: The traceback of the last failure, not the report's.
        size: Bytes of the body.
        number: Its number in the database; 0 before it is there.
    """

    queue: str
    id: str
    key: bytes
    is_report: bool
    type: str
    time: datetime | None
    reason: str
    attempts: int | None
    came_from: str | None
    first_failed_at: datetime | None
    parked_at: datetime
    parked_by: str
    traceback: str
    size: int
    number: int = 0


@dataclass(frozen=True)
class Content:
    """What a dead letter contains, as it came."""

    body: bytes
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]


def read_letter(content: Content, queue: str) -> Letter:
    """Read a message of a queue of dead letters; never raises, whatever it contains."""
    headers, body = content.headers, content.body
    try:
        known, time = wire.peek(body, ("id", "type")), wire.peek_time(body, "time")
        is_report = True
    except wire.Undecodable:
        known, time, is_report = {}, None, False
    death = _last_death(headers)
    died = _text(death.get("reason"))
    parked_at = _time(headers.get(park.PARKED_AT)) or _time(death.get("time"))
    return Letter(
        queue=queue,
        id=known.get("id") or _message_id(content) or _hash_id(body),
        key=_key(content),
        is_report=is_report,
        type=known.get("type") or ("" if is_report else _text(headers.get("task"))),
        time=time,
        reason=_text(headers.get(park.REASON))
        or (died and f"dead-lettered by RabbitMQ: {died}"),
        attempts=_number(headers.get(park.ATTEMPTS)),
        came_from=_text(headers.get(park.QUEUE)) or _other(death, queue),
        first_failed_at=_time(headers.get(FIRST_FAILED_AT)),
        parked_at=parked_at or datetime.now(timezone.utc),
        parked_by=_text(headers.get(park.PARKED_BY)),
        traceback=_text(headers.get(park.TRACEBACK)),
        size=len(body),
    )


def replay_options(content: Content) -> dict[str, Any]:
    """Return the headers and properties for replaying a dead letter.

    They are its own, without those of parking; a report has all its retries again.
    """
    options = park.resend_options(content.headers, content.properties)
    headers = {
        name: value
        for name, value in options["headers"].items()
        if name not in OUR_HEADERS
    }
    if headers.get("task") == TASK_NAME and "retries" in headers:
        headers["retries"] = 0
    return {**options, "headers": headers}


def _message_id(content: Content) -> str:
    found = [_text(content.headers.get(name)) for name in _ID_HEADERS]
    found += [_text(content.properties.get(name)) for name in _ID_PROPERTIES]
    return next(filter(None, found), "")


def _hash_id(body: bytes) -> str:
    return f"body-{blake2b(body).hexdigest()[:SHORT_HASH]}"


def _key(content: Content) -> bytes:
    """Return what tells a message from others.

    Two messages that nothing tells apart are two, even if one of them came twice.
    """
    headers, properties = content.headers, content.properties
    names = [headers.get(name) for name in (park.PARKED_AT, *_ID_HEADERS)]
    names += [properties.get(name) for name in _ID_PROPERTIES]
    if not any(names):
        return os.urandom(KEY_BYTES)
    parked = [headers.get(name) for name in (*OUR_HEADERS, "x-death")]
    digest = blake2b(content.body, digest_size=KEY_BYTES)
    about = (names, parked, properties.get("timestamp"))
    digest.update(repr(about).encode("utf-8", "backslashreplace"))
    return digest.digest()


def _last_death(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the newest entry of RabbitMQ's header ``x-death``."""
    deaths = headers.get("x-death")
    if isinstance(deaths, list) and deaths and isinstance(deaths[0], Mapping):
        return deaths[0]
    return {}


def _other(death: Mapping[str, Any], queue: str) -> str | None:
    name = _text(death.get("queue"))
    return name if name and name != queue else None


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return value if isinstance(value, str) else ""


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _time(value: Any) -> datetime | None:
    if isinstance(value, str):
        with suppress(ValueError):
            value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        return None
    if value.tzinfo is None:  # py-amqp's times are UTC
        return value.replace(tzinfo=timezone.utc)
    with suppress(OverflowError):
        return value.astimezone(timezone.utc)
    return None
