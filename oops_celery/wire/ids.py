"""Read report ids as people paste them: in part, in a sentence, in a URL."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote

from oops_celery.errors import NoMatch

#: The hash of an id. A different report with the same id has one more, after a dot.
_HASH = r"[0-9a-f]{32}(?:\.[0-9a-f]{32})?"

#: A whole id anywhere in a text; with its prefix, and without it.
_WHOLE_IDS = (
    re.compile(rf"OOPS-{_HASH}(?![0-9a-z])", re.IGNORECASE),
    re.compile(rf"(?<![0-9a-z]){_HASH}(?![0-9a-z])", re.IGNORECASE),
)

_WHOLE = re.compile(rf"(?:oops-)?{_HASH}")


def clean_id(text: str) -> str:
    """Return the id, or the part of an id, in pasted text, in lower case.

    The text may be a sentence or a URL with a whole id in it, or a part of an id with
    spaces, quotes, brackets or a full stop around it, or at the end of a URL's path.
    Empty if there is no id.
    """
    for whole in _WHOLE_IDS:
        if found := whole.findall(text):
            return str(found[-1]).lower()
    text = _bare(text)
    if "/" in text:
        path = re.split("[?#]", text)[0].rstrip("/")
        text = _bare(unquote(path.rpartition("/")[2]))
    return text.lower()


def is_whole(text: str) -> bool:
    """Return whether a cleaned text is a whole id, as `oops_celery.Publisher` makes."""
    return bool(_WHOLE.fullmatch(text))


def _bare(text: str) -> str:
    return re.sub(r"^\W+|\W+$", "", text)


def has_id(one: str, part: str) -> bool:
    """Return whether an id contains a part, as it was typed or cleaned."""
    found = clean_id(part)
    return (bool(part) and part in one) or (bool(found) and found in one.lower())


def resolve(part: str, ids: Iterable[str]) -> str:
    """Return the one id that a part belongs to; see `clean_id`.

    Raises:
        NoMatch: No id has that part, or several have.
    """
    matching = {one for one in ids if has_id(one, part)}
    if part in matching:
        return part
    found = clean_id(part)
    whole = {one for one in matching if one.lower() == found}
    if not whole and is_whole(found):
        whole = {one for one in matching if one.lower() == f"oops-{found}"}
    for meant in (whole, matching):
        if len(meant) == 1:
            return meant.pop()
    raise NoMatch(part, matching)
