"""``RABBITMQ_URL``: the setting that says where the broker is, and holds a password."""

from __future__ import annotations

import os
import random
import re
import ssl
from typing import Any
from urllib.parse import parse_qsl, urlsplit


class SettingsError(ValueError):
    """A setting that cannot be used: which, where it stands, and what may stand."""


def whole_number(value: Any) -> int:
    """Return a whole number, 0 or more; a `ValueError` if it is none."""
    number = int(value)
    if number < 0 or isinstance(value, (bool, float)):
        raise ValueError
    return number


def heartbeat_of(text: str, name: str) -> int:
    """Return the seconds that a setting says."""
    try:
        return whole_number(text)
    except ValueError:
        raise SettingsError(
            f"{name}={text!r}: must be a whole number of seconds, 0 for none"
        ) from None


def hide_password(url: str) -> str:
    """Return a URL to be shown: without the user and the password.

    And without what may be meant for them where the URL is broken.
    """
    login, at, rest = url.rpartition("@")
    if at:
        return f"{_SCHEME.match(login)[0]}**@{rest}"  # type: ignore[index]
    return _NO_PORT.sub(":**", url)


_SCHEME = re.compile(r"(?:\w*:/+)?")
#: What stands in the place of a port and is none; an IPv6 address has colons too.
_NO_PORT = re.compile(r":(?!/|[0-9a-f:]*\]|\d{1,5}(?![^/,?#]))[^/,?#]*")

#: What to do about a URL that cannot be taken apart.
_ENCODE = (
    "where a user name or a password has / ? # @ [ ], write %2F %3F %23 %40 %5B %5D, "
    "and %40 for an @ behind the host"
)


def parse_rabbitmq_url(url: str) -> dict[str, Any]:
    """Return Celery's broker settings for a ``RABBITMQ_URL``.

    ``amqp://user:password@host1:5672,host2,[::1]:5673/vhost?heartbeat=30``: the hosts
    are tried in random order. ``amqps://`` verifies the broker's certificate and its
    host name; the query names are RabbitMQ's (URI query parameters): ``cacertfile``,
    ``certfile``, ``keyfile``, ``verify`` (``verify_peer`` or ``verify_none``),
    ``heartbeat`` (seconds).

    Raises:
        SettingsError: The URL cannot be used. Says why, without the password.
    """
    shown = f"RABBITMQ_URL={hide_password(url)!r}"
    try:
        parts = urlsplit(url)
    except ValueError:  # its text may hold the password
        raise SettingsError(f"{shown}: is no URL; {_ENCODE}") from None
    if parts.scheme not in ("amqp", "amqps"):
        raise SettingsError(f"{shown}: must start with amqp:// or amqps://")
    login, at, hosts = parts.netloc.rpartition("@")
    if "@" in parts.path + parts.query + parts.fragment:  # what is before it was meant
        raise SettingsError(f"{shown}: {_ENCODE}")  # for a password, perhaps
    urls = []
    for host in hosts.split(","):
        try:
            one = urlsplit(f"amqp://{host}")
            usable = bool(one.hostname) and one.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise SettingsError(
                f"{shown}: host {(host if at else hide_password(host))!r}: must be a "
                "host name or address, then optionally a colon and a port from 1 to "
                "65535"
            )
        urls.append(f"{parts.scheme}://{login}{at}{host}{parts.path or '/'}")
    random.shuffle(urls)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    broker: dict[str, Any] = {
        "broker_url": urls if len(urls) > 1 else urls[0],
        "broker_failover_strategy": "round-robin",  # they are shuffled already
    }
    if "heartbeat" in query:
        heartbeat = query.pop("heartbeat")
        broker["broker_heartbeat"] = heartbeat_of(heartbeat, f"{shown}: heartbeat")
    if parts.scheme == "amqps":
        broker["broker_use_ssl"] = _tls(query, shown)
    for name in query:
        raise SettingsError(
            f"{shown}: unknown parameter {name!r}; known are heartbeat, and with "
            "amqps:// cacertfile, certfile, keyfile, verify"
        )
    return broker


def _tls(query: dict[str, str], shown: str) -> dict[str, Any]:
    verify = query.pop("verify", "verify_peer")
    if verify not in ("verify_peer", "verify_none"):
        raise SettingsError(f"{shown}: verify={verify!r}: verify_peer or verify_none")
    verified = verify == "verify_peer"
    options: dict[str, Any] = {
        "cert_reqs": ssl.CERT_REQUIRED if verified else ssl.CERT_NONE
    }
    for ours, theirs in (
        ("cacertfile", "ca_certs"),
        ("certfile", "certfile"),
        ("keyfile", "keyfile"),
    ):
        path = query.pop(ours, None)
        if path is None:
            continue
        if not os.access(path, os.R_OK):
            raise SettingsError(f"{shown}: {ours}={path!r}: no file that can be read")
        options[theirs] = path
    return options
