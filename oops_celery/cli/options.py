"""Options that several commands have."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])

_AGO = re.compile(r"(\d+)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def since(text: str) -> datetime:
    """Return the time that ``2h``, ``3d`` or an ISO time means; UTC by default.

    Raises:
        ValueError, OverflowError: It is not a time.
    """
    if ago := _AGO.fullmatch(text):
        length = timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        return datetime.now(timezone.utc) - length
    # Python 3.10 does not parse the Z.
    time = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text))
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)


def moment(_: Any, __: Any, text: str | None) -> datetime | None:
    """Parse the value of an option that is a time, for click."""
    if text is None:
        return None
    try:
        return since(text)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text!r} is neither like 30m, 2h, 3d nor like 2024-05-31"
        ) from None


def repository_option(command: _F) -> _F:
    """Add the option ``--repository`` to a command."""
    return click.option(
        "--repository",
        metavar="URL",
        help="The database; by default OOPS_REPOSITORY.",
    )(command)
