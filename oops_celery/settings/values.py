"""Read the value of each setting of ours."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from oops_celery.broker_url import whole_number
from oops_celery.settings import repository_url

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

IPNetwork: TypeAlias = "IPv4Network | IPv6Network"

#: Characters of a secret that nobody guesses.
LEAST_SECRET = 16


def _seconds(value: Any) -> float:
    number = float(value)
    if not 0 < number < 3600 or isinstance(value, bool):
        raise ValueError
    return number


def _truth(value: Any) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    if isinstance(value, bool):
        return value
    return known[str(value).strip().lower()]


def _name(value: Any) -> str:
    if not isinstance(value, str) or len(value.encode()) > 255:
        raise ValueError
    return value


def _path(value: Any) -> str:
    text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError
    return text


def _repository(value: Any) -> str:
    text = _path(value)
    return repository_url.check(text) if repository_url.is_url(text) else text


def _reference(value: Any) -> str:
    module, _, attribute = value.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise ValueError
    return str(value)


def _web_url(value: Any) -> str:
    parts = urlsplit(value)
    _ = parts.port  # raises ValueError
    wrong = parts.query or parts.fragment or parts.username is not None
    if parts.scheme not in ("http", "https") or not parts.hostname or wrong:
        raise ValueError
    if not value.isprintable() or re.search(r"[\s<>\"]", value):
        raise ValueError
    return str(value).rstrip("/")


def _header(value: Any) -> str:
    # RFC 9110, 5.1.
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", value):
        raise ValueError
    return str(value)


def networks(value: Any) -> tuple[IPNetwork, ...]:
    """Return the networks of a text with commas.

    Raises:
        ValueError: One of them is none.
    """
    from ipaddress import ip_network

    parts = [part.strip() for part in value.split(",")]
    return tuple(ip_network(part) for part in parts)


def _secret(value: Any) -> str:
    if len(value) < LEAST_SECRET:
        raise ValueError
    return str(value)


#: The reader of each setting of ours, and what its value must be.
OWN: dict[str, tuple[Callable[[Any], Any], str]] = {
    "topology": (_path, "the path of a YAML file"),
    "repository": (
        _repository,
        f"the URL of a database, {repository_url.FORMS}, or the path of a folder",
    ),
    "keep_days": (whole_number, "a whole number of days, 0 for no limit"),
    "keep_bytes": (whole_number, "a whole number of bytes, 0 for no limit"),
    "keep_per_group": (whole_number, "a whole number of reports, 0 for no limit"),
    "file_dead_letters": (_truth, "true or false"),
    "config": (_reference, "package.module:attribute, the place of an oops.Config"),
    "exchange": (_name, "a name of at most 255 bytes"),
    "routing_key": (_name, "a name of at most 255 bytes"),
    "queue": (_name, "a name of at most 255 bytes"),
    "max_retries": (whole_number, "a whole number of times, 0 or more"),
    "publish_timeout": (_seconds, "a number of seconds over 0"),
    "shutdown_timeout": (_seconds, "a number of seconds over 0"),
    "max_size": (whole_number, "a whole number of bytes"),
    "web_url": (_web_url, "a URL: https://oops.example or https://example/oops"),
    "web_htpasswd": (_path, "the path of a file made by htpasswd -B"),
    "web_trust_header": (_header, "the name of a header, as X-Forwarded-User"),
    "web_trusted_proxy": (networks, "addresses or networks, as 10.0.0.0/8,::1"),
    "web_public": (_truth, "true or false"),
    "web_secret": (_secret, f"at least {LEAST_SECRET} characters, chosen at random"),
    "spool": (_path, "the path of a folder"),
}
