"""A report as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from oops_celery.wire.clean import MAX_DEPTH


def as_json_value(value: Any, depth: int = 0) -> Any:
    """Return a value for JSON: times in ISO 8601, bytes and others as text."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (Mapping, list, tuple)):
        if depth > MAX_DEPTH:  # another program's report may be
            return f"<nested deeper than {MAX_DEPTH} levels>"
        if isinstance(value, Mapping):
            return {
                printable(key): as_json_value(value[key], depth + 1) for key in value
            }
        return [as_json_value(one, depth + 1) for one in value]
    return value.isoformat() if isinstance(value, datetime) else printable(value)


def printable(value: Any) -> str:
    """Return a value as text that UTF-8 can encode."""
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return str(value).encode("utf-8", "backslashreplace").decode()


def as_json(value: Any) -> str:
    """Return a value as JSON text."""
    return json.dumps(as_json_value(value), indent=2)


def shown(value: Any) -> str:
    """Return a value of a report as text for a person."""
    value = as_json_value(value)
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
