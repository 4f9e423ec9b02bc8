"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import click

from oops_celery.text import time_of

_F = TypeVar("_F", bound=Callable[..., Any])


def moment(_: Any, __: Any, text: str | None) -> datetime | None:
    """Parse the value of an option that is a time, for click."""
    if text is None:
        return None
    try:
        return time_of(text)
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
