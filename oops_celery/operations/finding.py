"""What `doctor` found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: Its name.
        state: ``ok``, ``wrong``, or ``unknown``.
        text: What it found.
        fix: What to do about it.
    """

    check: str
    state: str
    text: str
    fix: str = ""
