"""Words that many messages need: counts, and text that is safe to show."""

from __future__ import annotations

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
