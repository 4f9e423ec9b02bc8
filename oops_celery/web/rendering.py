"""Turn templates into pages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from oops_celery import __version__
from oops_celery.text import LAYOUT, counted, printable
from oops_celery.web.charts import bars, span

HERE = Path(__file__).parent


@cache
def environment() -> Environment:
    """Return Jinja's environment; every text is escaped."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        cache_size=50,
    )
    made.filters.update(
        safe_text=lambda text: printable(str(text), LAYOUT),
        time=shown_time,
        number=lambda number: f"{number:,}",
        ms=milliseconds,
        size=size,
        path=lambda text: quote(text, safe=""),
        query=query,
    )
    made.globals.update(
        counted=counted, version=__version__, bars=bars, span=span, age=age
    )
    return made


def render(template: str, values: Mapping[str, Any]) -> str:
    """Return a page."""
    return str(environment().get_template(template).render(values))


def shown_time(time: datetime | None) -> str:
    """Return a time in UTC, to the second."""
    return f"{time:%Y-%m-%d %H:%M:%S}" if time else ""


def age(time: datetime | None) -> str:
    """Return how long ago something was, in one unit."""
    if time is None:
        return ""
    seconds = max(int((datetime.now(timezone.utc) - time).total_seconds()), 0)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def milliseconds(number: float) -> str:
    """Return a duration for a person."""
    return f"{number / 1000:,.2f} s" if number >= 1000 else f"{number:g} ms"


def size(number: int) -> str:
    """Return a number of bytes for a person."""
    for unit, length in (("MB", 1_000_000), ("KB", 1_000)):
        if number >= length:
            return f"{number / length:.1f} {unit}"
    return f"{number} bytes"


def query(values: Mapping[str, Any], **changes: Any) -> str:
    """Return the query of a URL, with some values changed and empty ones left out."""
    together = {**values, **changes}
    return urlencode({name: one for name, one in together.items() if one})
