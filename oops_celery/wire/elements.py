"""Find the top-level elements of a BSON document without decoding it (bsonspec.org).

The functions expect a checked frame (see `wire.report`). A broken document raises
ValueError, IndexError, KeyError or `struct.error`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

TEXT = 0x02
TIME = 0x09

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

#: Bytes of fixed-size values, by element type.
_FIXED_SIZES = {
    **dict.fromkeys((0x06, 0x0A, 0x7F, 0xFF), 0),
    0x08: 1,
    0x10: 4,
    **dict.fromkeys((0x01, TIME, 0x11, 0x12), 8),
    0x07: 12,
    0x13: 16,
}
#: Bytes of the other values, beside the length that an int32 before them gives.
_PREFIXED_SIZES = {
    **dict.fromkeys((0x03, 0x04, 0x0F), 0),
    **dict.fromkeys((TEXT, 0x0D, 0x0E), 4),
    0x05: 5,
    0x0C: 16,
}


def elements(body: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield the name, the type and the position of the value of each element."""
    place, end = 4, len(body) - 1
    while place < end:
        kind = body[place]
        name_end = body.index(0, place + 1)
        name = body[place + 1 : name_end].decode()
        place = name_end + 1
        yield name, kind, place
        place += _size(body, kind, place)
    if place != end:
        raise ValueError("its last element is too long")


def text(body: bytes, place: int) -> str:
    """Return the text at a position."""
    return body[place + 4 : place + _size(body, TEXT, place) - 1].decode()


def time(body: bytes, place: int) -> datetime:
    """Return the time at a position.

    Raises:
        OverflowError: Python's calendar does not have it.
    """
    milliseconds: int = struct.unpack_from("<q", body, place)[0]
    return _EPOCH + timedelta(milliseconds=milliseconds)


def _size(body: bytes, kind: int, place: int) -> int:
    if kind in _FIXED_SIZES:
        return _FIXED_SIZES[kind]
    if kind == 0x0B:  # a regular expression: two texts, each ends with NUL
        return body.index(0, body.index(0, place) + 1) + 1 - place
    length: int = struct.unpack_from("<i", body, place)[0]
    if length < 0:
        raise ValueError(f"an element of {length} bytes")
    return length + _PREFIXED_SIZES[kind]
