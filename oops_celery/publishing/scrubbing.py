"""Hooks for reports: blank secrets by their keys; replace values BSON cannot hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote_plus

from oops_celery import wire
from oops_celery.wire.clean import MAX_DEPTH
from oops_celery.wire.summary import USERINFO

#: Stands in place of a secret.
SCRUBBED = "<scrubbed>"

#: A key that contains one of these words is secret: ``X-Api-Key``.
WORDS = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "authorization",
    "cookie",
    "session",
    "sessid",  # PHP's
    "api key",
    "private key",
    "credential",
)

#: ``key=`` in a query string (perhaps the whole text), or in a fragment.
_PARAMETER = re.compile(r"(?:^|[?&;#])([^=?&;#\s]+)=")
#: The value after it.
_VALUE = re.compile(r"[^&#\s]*")


class Scrubber:
    """A hook for `oops.Config` that blanks the values of secret keys.

    Add it after all other hooks, as it only blanks values that are there already::

        config.on_create.append(oops_celery.Scrubber("iban", "date of birth"))

    `oops_celery.scrub` is a `Scrubber` without more words. It also works as a filter
    (``config.filters``), which runs when the report is published: after the hooks, or
    in the worker.

    A key is the key of a dict at any depth, the first item of a pair (the old form of
    ``req_vars``), or the name of a URL parameter, wherever the URL stands. User names
    and passwords in URLs are blanked too. Other texts stay: an exception's message, an
    SQL statement.

    It never raises; a value that it cannot read is blanked. Only the report is changed,
    not the containers in it, which may be the application's.

    Args:
        extra: More words that make a key secret, besides `WORDS`, anywhere in the key.
            Case, ``-``, ``_`` and spaces do not matter.
    """

    def __init__(self, *extra: str) -> None:
        words = [_letters(word) for word in (*WORDS, *extra)]
        if not all(words):
            raise ValueError(f"a word must have letters or digits: {extra!r}")
        self._secret = re.compile("|".join(words))

    def __call__(self, report: MutableMapping[str, Any], _context: Any = None) -> None:
        """Blank the secrets of a report.

        Args:
            report: The report. It is changed.
            _context: What `oops.Config` gives to hooks; not used.
        """
        known: dict[int, tuple[Any, Any]] = {}
        for key, value in list(report.items()):
            report[key] = self._value(key, value, 1, known)

    def _value(
        self, key: Any, value: Any, depth: int, known: dict[int, tuple[Any, Any]]
    ) -> Any:
        """Return the value of a key, blanked if needed."""
        try:
            if self._is_secret(key):
                return SCRUBBED
            if isinstance(value, str):
                return self._scrubbed_text(value)
            if isinstance(value, bytes):
                return self._scrubbed_text(value.decode("latin-1")).encode("latin-1")
            if not isinstance(value, (Mapping, list, tuple)):
                return value
            if id(value) in known:
                return known[id(value)][1]
            if depth >= MAX_DEPTH:
                return f"<nested deeper than {MAX_DEPTH} levels>"
            # Keep the value alive too, so that its id() stays unique.
            known[id(value)] = value, "<circular reference>"
            copy = self._container(value, depth + 1, known)
            known[id(value)] = value, copy
        except Exception:  # a value's own code may raise anything
            return SCRUBBED
        return copy

    def _container(
        self, value: Any, depth: int, known: dict[int, tuple[Any, Any]]
    ) -> Any:
        if isinstance(value, Mapping):
            return {k: self._value(k, v, depth, known) for k, v in value.items()}
        first = value[0] if len(value) == 2 else None
        items = [self._value(None, item, depth, known) for item in value]
        if self._is_secret(first):
            items[1] = SCRUBBED
        return tuple(items) if isinstance(value, tuple) else items

    def _is_secret(self, key: Any) -> bool:
        if isinstance(key, bytes):
            key = key.decode("latin-1")
        return isinstance(key, str) and bool(self._secret.search(_letters(key)))

    def _scrubbed_text(self, text: str) -> str:
        """Blank the secrets of the URLs in a text."""
        pieces, end = [], 0
        for found in _PARAMETER.finditer(text):
            if found.start() < end or not self._is_secret(unquote_plus(found[1])):
                continue  # inside a secret
            pieces += [text[end : found.end()], SCRUBBED]
            end = _VALUE.match(text, found.end()).end()  # type: ignore[union-attr]
        return USERINFO.sub(SCRUBBED, "".join([*pieces, text[end:]]))


def _letters(key: str) -> str:
    return "".join(char for char in key.lower() if char.isalnum())


#: The ready-made hook.
scrub = Scrubber()


def plain(report: MutableMapping[str, Any], _context: Any = None) -> None:
    """Replace values that BSON cannot hold (Decimal, set, date) by their text.

    `oops_celery.Publisher` and `oops_celery.FolderPublisher` do this themselves. Other
    publishers, such as oops-datedir-repo's, raise, which loses the report::

        config.filters.append(oops_celery.plain)  # when the report is published
        config.on_create.append(oops_celery.plain)  # or when it is made

    It never raises. Only the report is changed, not the containers in it.

    Args:
        report: The report. It is changed.
        _context: What `oops.Config` gives to hooks; not used.
    """
    made = wire.cleaned(report)
    if made is not None:
        report.clear()
        report.update(made)
