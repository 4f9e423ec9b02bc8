"""Hooks on a report: one blanks secrets by their keys, one makes all values plain."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote_plus

from oops_celery import wire
from oops_celery.wire.clean import MAX_DEPTH
from oops_celery.wire.summary import USERINFO

#: What stands in the place of a secret.
SCRUBBED = "<scrubbed>"

#: A key that contains one of these is secret: ``X-Api-Key``, ``csrfmiddlewaretoken``.
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

#: ``key=`` in a query string, which may be all of a text, or in a fragment.
_PARAMETER = re.compile(r"(?:^|[?&;#])([^=?&;#\s]+)=")
#: The value behind it.
_VALUE = re.compile(r"[^&#\s]*")


class Scrubber:
    """A hook for `oops.Config` that blanks the values of secret keys.

    Put it behind all other hooks, as it can only blank what is there already::

        config.on_create.append(oops_celery.Scrubber("iban", "date of birth"))

    `oops_celery.scrub` is one without further words. It does as well as a filter
    (``config.filters``), which runs when the report is published: after the hooks, or
    in the worker.

    A key is that of a dict at any depth, the first of a pair (as in the old form of
    ``req_vars``), or the name of a parameter of a URL, wherever the URL stands. Blanked
    are user names and passwords in URLs, too. Other texts stay as they are: an
    exception's message, an SQL statement.

    It never raises; what cannot be looked at is blanked. The report alone is changed,
    not the containers in it, which may be the application's.

    Args:
        extra: Words that make a key secret, besides `WORDS`, wherever they stand in it.
            Neither case nor ``-``, ``_`` and blanks count.
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
            _context: What `oops.Config` gives to hooks; of no interest here.
        """
        known: dict[int, tuple[Any, Any]] = {}
        for key, value in list(report.items()):
            report[key] = self._value(key, value, 1, known)

    def _value(
        self, key: Any, value: Any, depth: int, known: dict[int, tuple[Any, Any]]
    ) -> Any:
        """Return what may stand behind a key."""
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
            # The value as well: so that nothing else gets its place in memory.
            known[id(value)] = value, "<circular reference>"
            copy = self._container(value, depth + 1, known)
            known[id(value)] = value, copy
        except Exception:  # whatever a strange value makes of it
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
                continue  # within a secret, or none
            pieces += [text[end : found.end()], SCRUBBED]
            end = _VALUE.match(text, found.end()).end()  # type: ignore[union-attr]
        return USERINFO.sub(SCRUBBED, "".join([*pieces, text[end:]]))


def _letters(key: str) -> str:
    return "".join(char for char in key.lower() if char.isalnum())


#: The ready-made one.
scrub = Scrubber()


def plain(report: MutableMapping[str, Any], _context: Any = None) -> None:
    """Put texts in the place of values that BSON cannot hold: Decimal, set, date.

    `oops_celery.Publisher` and `oops_celery.FolderPublisher` do so themselves. Others,
    as that of oops-datedir-repo, raise an exception, which loses the report::

        config.filters.append(oops_celery.plain)  # when the report is published
        config.on_create.append(oops_celery.plain)  # or when it is made

    It never raises. The report alone is changed, not the containers in it.

    Args:
        report: The report. It is changed.
        _context: What `oops.Config` gives to hooks; of no interest here.
    """
    made = wire.cleaned(report)
    if made is not None:
        report.clear()
        report.update(made)
