"""A report as a row of the database: the fields of the index, and its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from hashlib import md5
from typing import Any

import zstandard

from oops_celery.repository.fingerprint import Fingerprint, fingerprint, text_of
from oops_celery.repository.folder import MAX_NAME, file_name
from oops_celery.repository.groups import HOUR, VALUE_READ

#: Years of a report's own time that can be right. Any other would hide the report.
_YEARS = range(2000, 2200)

#: Of zstd: measured in docs/performance.md.
_LEVEL = 3


@dataclass(frozen=True)
class Row:
    """A report, as it goes into the database.

    Attributes:
        id: Its id; `file_name` if the database cannot hold it.
        time: Its own time, else that of its arrival.
        has_time: Whether it is its own.
        digest: MD5 of the message's body.
        size: Bytes of the report.
        body: The report as BSON, compressed if that is smaller.
    """

    id: str
    time: datetime
    has_time: bool
    type: str
    topic: str
    reporter: str
    value: str
    digest: bytes
    size: int
    compressed: bool
    body: bytes
    group: Fingerprint

    @classmethod
    def of(cls, fields: Mapping[str, Any], came: bytes, body: bytes) -> Row:
        """Return the row of a report.

        Args:
            fields: The report.
            came: The message's body.
            body: What is kept: the same, unless the operator's config changed it.
        """
        own = fields.get("time")
        time = _in_utc(own) if isinstance(own, datetime) else None
        group = fingerprint(fields)
        compressed, kept = packed(body)
        return cls(
            id=_usable(str(fields["id"])),
            time=time or datetime.now(timezone.utc),
            has_time=time is not None,
            type=group.type,
            topic=group.topic,
            reporter=text_of(fields.get("reporter"))[:VALUE_READ],
            value=text_of(fields.get("value"))[:VALUE_READ],
            digest=md5(came, usedforsecurity=False).digest(),
            size=len(body),
            compressed=compressed,
            body=kept,
            group=group,
        )

    @property
    def hour(self) -> int:
        """The hour of its time, since 1970-01-01 00:00 UTC."""
        return int(self.time.timestamp()) // HOUR


def _in_utc(time: datetime) -> datetime | None:
    if time.tzinfo is None:  # as BSON has it
        time = time.replace(tzinfo=timezone.utc)
    return time.astimezone(timezone.utc) if time.year in _YEARS else None


def _usable(report_id: str) -> str:
    """Return an id that every database can hold, and have in an index."""
    if report_id != text_of(report_id) or len(report_id.encode()) > MAX_NAME:
        return file_name(report_id)
    return report_id


def packed(body: bytes) -> tuple[bool, bytes]:
    """Return bytes as they are kept, and before that whether they are compressed."""
    smaller = zstandard.ZstdCompressor(_LEVEL).compress(body)
    return (True, smaller) if len(smaller) < len(body) else (False, body)


def unpacked(body: bytes, compressed: bool) -> bytes:
    """Return a stored report as BSON."""
    return zstandard.ZstdDecompressor().decompress(body) if compressed else bytes(body)
