"""Escape what is logged: a report may contain a terminal's control characters."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from oops_celery.text import LAYOUT, printable

_formatter = logging.Formatter()


def escape_all() -> None:
    """Make every handler escape what it writes; colours are added later."""
    for handler in _handlers():
        handler.addFilter(escape)  # a second time changes nothing


def escape(record: logging.LogRecord) -> bool:
    """Escape control characters in a record: in ids and in texts of exceptions."""
    try:
        text = record.getMessage()
        if (safe := printable(text, LAYOUT)) != text:
            record.msg, record.args = safe, None
        if record.exc_info and not record.exc_text:
            record.exc_text = printable(
                _formatter.formatException(record.exc_info), LAYOUT
            )
    except Exception:  # str() runs the argument's own code
        record.msg, record.args = (
            f"a message that cannot be shown: {record.msg!r}",
            None,
        )
    return True


def _handlers() -> Iterator[logging.Handler]:
    yield from logging.root.handlers
    for logger in logging.root.manager.loggerDict.values():
        yield from getattr(logger, "handlers", ())  # some names have no logger
