"""Group reports of the same failure. Pure functions, no files.

Reports are in one group if their exception types and topics are equal, and their values
differ only in numbers, ids, addresses and quoted texts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache

#: Characters of a value that are read, and of its normalised form that are kept.
VALUE_READ = 400
VALUE_KEPT = 200

#: Normalised values to remember: many reports of a day have the same.
REMEMBERED = 1000

HOUR = 3600

#: Variable parts of a value, by their placeholder; the first match counts.
_PLACEHOLDERS = {
    # Quotes that are not apostrophes.
    "string": r"""(?<!\w)[bru]?(?:"(?:[^"\\]|\\.)*"(?!\w)"""
    r"""|'(?:[^'\\]|\\.|(?<=\w)'(?=\w))*'(?!\w))""",
    "url": r"\b[a-zA-Z][a-zA-Z0-9+.-]{1,20}://[^\s<>\"')\]]+",
    "email": r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}",
    "uuid": r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b",
    "time": r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?"
    r"(?:Z|[+-]\d\d:?\d\d)?",
    "ip": r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]\d)(?::\d+)?"
    r"|(?<![\w:])(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}(?![\w:])"
    r"|(?<![\w:])(?:[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{1,4}){0,6})?::"
    r"[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{1,4}){0,6}(?![\w:])",
    # The second form needs a digit: "defaced" and "effaced" are words.
    "hex": r"\b0[xX][0-9a-fA-F]+\b"
    r"|(?<![a-zA-Z0-9])(?=[a-fA-F]*\d)(?=\d*[a-fA-F])[0-9a-fA-F]{8,}(?![a-zA-Z0-9])",
    # Not in a name: utf8, python3.
    "number": r"(?<![a-zA-Z0-9])[+-]?\d+(?:[.,:/-]\d+)*(?:[eE][+-]?\d+)?",
}
_DIFFERS = re.compile(
    "|".join(f"(?P<{name}>{regex})" for name, regex in _PLACEHOLDERS.items())
)
#: A quotation whose end was cut off.
_UNCLOSED = re.compile(r"""(?<!\w)["'][^"']*\Z""")


@lru_cache(REMEMBERED)
def normalised(value: str) -> str:
    """Return an exception's value with placeholders for its variable parts.

    >>> normalised("user 'ann' (id 17) is not at 10.0.0.1:80")
    'user <string> (id <number>) is not at <ip>'
    """
    text = " ".join(value[:VALUE_READ].split())
    text = _DIFFERS.sub(lambda found: f"<{found.lastgroup}>", text)
    if len(value) > VALUE_READ:
        text = _UNCLOSED.sub("<string>", text)
    return text if len(text) <= VALUE_KEPT else f"{text[:VALUE_KEPT]}…"


@dataclass(frozen=True)
class Seen:
    """The fields of one report that groups need."""

    texts: Mapping[str, str]
    #: Time of the failure, in UTC.
    time: datetime
    #: Where the report is.
    file: str


@dataclass
class Group:
    """Reports of the same failure."""

    #: The exception's type.
    type: str
    topic: str
    #: The exception's value, with placeholders.
    value: str
    first: datetime
    last: datetime
    #: The id of the latest report, and its file.
    example: str = ""
    file: str = ""
    #: Reports by hour: hours since 1970-01-01 00:00 UTC.
    hours: Counter[int] = field(default_factory=Counter)
    #: What only a database knows: the group's number, the beginning of a real value,
    #: file:function of the innermost frame, what people say of the group, and whether
    #: it was first seen in the period.
    id: int | None = None
    example_value: str = ""
    place: str = ""
    state: str = ""
    new: bool = False

    @property
    def count(self) -> int:
        """The number of reports."""
        return self.hours.total()

    def add(self, seen: Seen) -> None:
        """Count a report."""
        self.hours[int(seen.time.timestamp()) // HOUR] += 1
        self.first = min(self.first, seen.time)
        if seen.time >= self.last:
            self.last = seen.time
            self.example = seen.texts.get("id") or seen.file.rpartition("/")[2]
            self.file = seen.file


class Groups:
    """Sorts reports into groups."""

    #: The texts of a report that it needs.
    TEXTS = ("id", "type", "topic", "value")

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str, str], Group] = {}

    def add(self, seen: Seen) -> None:
        """Count a report."""
        texts = seen.texts
        key = (
            texts.get("type", "")[:VALUE_KEPT],
            # Some programs use the URL as topic; its query is user input.
            texts.get("topic", "").partition("?")[0][:VALUE_KEPT],
            normalised(texts.get("value", "")),
        )
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(*key, seen.time, seen.time)
        group.add(seen)

    def sorted(self) -> list[Group]:
        """Return the groups, the largest first, then the latest."""
        return sorted(
            self._groups.values(),
            key=lambda group: (group.count, group.last),
            reverse=True,
        )


def hour_start(hour: int) -> datetime:
    """Return the beginning of an hour since 1970, in UTC."""
    return datetime.fromtimestamp(hour * HOUR, timezone.utc)
