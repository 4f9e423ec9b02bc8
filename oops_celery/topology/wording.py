"""Show values, keys and pydantic's errors in words.

The result is one short line, whatever the file contains.
"""

from __future__ import annotations

import datetime
import re
import reprlib
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pydantic_core import ErrorDetails

_short = reprlib.Repr()
# Short, whatever anchors and aliases have multiplied.
_short.maxlevel, _short.maxlist, _short.maxdict, _short.maxset = 2, 3, 3, 3
_short.maxstring = _short.maxlong = _short.maxother = 60


def show(value: Any) -> str:
    """Return a value as YAML, on one short line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    try:
        return _short.repr(value)
    except ValueError:  # Python prints no number of more than 4300 digits
        return "a huge number"


def show_key(key: Any) -> str:
    """Return a key as it was written, if it can be shown."""
    fit = isinstance(key, str) and key.isprintable() and 0 < len(key) <= 60
    return str(key) if fit else show(key)


def show_path(path: tuple[Any, ...]) -> str:
    """Return a place in the file: ``queues[1].x_message_ttl``."""
    steps = (f"[{x}]" if isinstance(x, int) else f".{show_key(x)}" for x in path)
    return "".join(steps).removeprefix(".")


_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "a truth value"),
    (int, "a number"),
    (float, "a decimal number"),
    (str, "text"),
    (list, "a list"),
    (dict, "a mapping"),
    (datetime.date, "a date"),
    (bytes, "binary data"),
    (type(None), "nothing"),
)


def kind(value: Any) -> str:
    """Return what a value is: ``a number``."""
    return next((name for of, name in _KINDS if isinstance(value, of)), "no value")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message that suggests the most similar known word, if any."""
    close = get_close_matches(word, known, 1)
    return f"; did you mean {close[0]}?" if close else ""


#: What each error type of pydantic asks for.
_WANTED = {
    "int_type": "a whole number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
}


def explained(detail: ErrorDetails) -> str:
    """Return pydantic's objection to a value, and the way out."""
    value, context = detail["input"], detail.get("ctx", {})
    match detail["type"]:
        case "value_error":
            return str(context["error"])
        case "literal_error":
            allowed = re.findall(r"'([^']*)'", context["expected"])
            guess = did_you_mean(value, allowed) if isinstance(value, str) else ""
            return f"{show(value)} is not one of {', '.join(allowed)}{guess}"
        case "greater_than_equal":
            return f"{show(value)} is too small; the least is {context['ge']}"
        case "less_than_equal":
            return f"{show(value)} is too large; the most is {context['le']}"
        case complaint if complaint in _WANTED:
            wanted = f"{show(value)} is {kind(value)}, not {_WANTED[complaint]}"
            return wanted + _way_out(complaint, value)
    return f"{show(value)}: {detail['msg']}"


def _way_out(complaint: str, value: Any) -> str:
    if complaint == "string_type" and not isinstance(value, list | dict):
        return "; put it in quotes"
    if complaint == "int_type" and isinstance(value, str) and value.strip().isdigit():
        return "; write it as a plain number, without quotes or leading zeros"
    if complaint == "list_type":
        return '; begin each entry with "- "'
    return ""
