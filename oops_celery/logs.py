"""Escape what is logged: a report may contain a terminal's control characters."""

from __future__ import annotations

import logging
from collections.abc import Iterator

#: Line breaks of a traceback are not escaped.
_LAYOUT = "\n\t"

_formatter = logging.Formatter()


def escape_all() -> None:
    """Make every handler escape what it writes; colours are added later."""
    for handler in _handlers():
        handler.addFilter(escape)  # a second time changes nothing


def escape(record: logging.LogRecord) -> bool:
    """Escape control characters in a record: in ids and in texts of exceptions."""
    try:
        text = record.getMessage()
        if _escaped(text) != text:
            record.msg, record.args = _escaped(text), None
        if record.exc_info and not record.exc_text:
            record.exc_text = _escaped(_formatter.formatException(record.exc_info))
    except Exception:  # str() runs the argument's own code
        record.msg, record.args = (
            f"a message that cannot be shown: {record.msg!r}",
            None,
        )
    return True


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable() or char in _LAYOUT
        else char.encode("unicode_escape").decode()
        for char in text
    )


def _handlers() -> Iterator[logging.Handler]:
    yield from logging.root.handlers
    for logger in logging.root.manager.loggerDict.values():
        yield from getattr(logger, "handlers", ())  # some names have no logger
