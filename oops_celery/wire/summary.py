"""Sum up a report in one line, without anything that users typed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from oops_celery.wire.clean import as_text, is_instance

#: Characters of each part of a summary.
SUMMARY_WIDTH = 80


#: ``user:password`` in a URL, up to the last @ before the path.
USERINFO = re.compile(r'(?<=://)[^/?#\s"<>]+(?=@)')


def summary(report: Mapping[str, Any]) -> str:
    """Return a one-line summary of a report, for Flower, logs and events.

    It has the exception's type, the topic and the reporter only: no user input, cookie
    or password may appear there.
    """
    parts = [_short(report.get("type"))]
    for name in ("topic", "reporter"):
        # Some programs use the URL as topic; its query is user input.
        text = _short(report.get(name)).partition("?")[0]
        if text:
            parts.append(f"{name}={text}")
    return f"({', '.join(part for part in parts if part) or 'report'})"


def _short(value: Any) -> str:
    if not is_instance(value, str):
        return ""
    text = USERINFO.sub("**", as_text(value))[:SUMMARY_WIDTH]
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "?" for char in text)
