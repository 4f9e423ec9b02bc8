"""Words that many messages need: counts and suggestions."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1.

    >>> counted(0, "mistake"), counted(1, "mistake")
    ('no mistakes', '1 mistake')
    """
    return f"{f'{number:,}' if number else 'no'} {noun}{'' if number == 1 else 's'}"
