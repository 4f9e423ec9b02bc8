"""Words that people type and read: times, counts, and text that is safe to show."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

_AGO = re.compile(r"(\d+)([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

#: Characters of control that are the layout of a text of several lines.
LAYOUT = "\n\t"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1.

    >>> counted(0, "mistake"), counted(1, "mistake")
    ('no mistakes', '1 mistake')
    """
    return f"{f'{number:,}' if number else 'no'} {noun}{'' if number == 1 else 's'}"


def printable(text: str, layout: str = "") -> str:
    r"""Return a text with escapes in place of control and invisible characters.

    Among them are those that change the direction of what follows.

    Args:
        text: The text.
        layout: Characters that stay as they are.

    >>> print(printable("one\ntwo"))
    one\ntwo
    """
    if text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable() or char in layout
        else char.encode("unicode_escape").decode()
        for char in text
    )


def time_of(text: str) -> datetime:
    """Return the time in UTC that ``2h``, ``3d`` or an ISO time means.

    Raises:
        ValueError, OverflowError: It is not a time.
    """
    if ago := _AGO.fullmatch(text):
        length = timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        return datetime.now(timezone.utc) - length
    # Python 3.10 does not parse the Z.
    time = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text))
    if time.tzinfo is None:
        return time.replace(tzinfo=timezone.utc)
    return time.astimezone(timezone.utc)
