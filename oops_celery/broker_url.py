"""Parse ``RABBITMQ_URL``: where the broker is, and the password."""

from __future__ import annotations

import logging
import os
import random
import re
import ssl
from difflib import get_close_matches
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from oops_celery.errors import SettingsError

logger = logging.getLogger(__name__)


def whole_number(value: Any) -> int:
    """Return a whole number, 0 or more; raise `ValueError` for anything else."""
    number = int(value)
    if number < 0 or isinstance(value, (bool, float)):
        raise ValueError
    return number


def heartbeat_of(text: str, name: str) -> int:
    """Return the seconds of a heartbeat setting."""
    try:
        return whole_number(text)
    except ValueError:
        raise SettingsError(
            f"{name}={text!r}: must be a whole number of seconds, 0 for none"
        ) from None


def hide_password(url: str) -> str:
    """Return a URL to show: its scheme, hosts and virtual host only.

    A part of a broken URL is left out if it may be the user, the password or the query.
    """
    scheme = _SCHEME.match(url)
    start = scheme[0] if scheme else ""
    _, at, rest = url[len(start) :].rpartition("@")
    place = re.split(r"[?#]", rest)[0]
    if at:
        return f"{start}**@{place}"
    hosts = place.partition("/")[0].split(",")
    if start.lower() in ("amqp://", "amqps://") and all(map(_is_host, hosts)):
        return start + place
    return f"{start}**" if rest else start  # perhaps "user:password"


_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_HOST = re.compile(r"(?:([\w.-]+)|\[([^\[\]]+)\])(?::([0-9]{1,5}))?")

_PARAMETERS = ("heartbeat", "cacertfile", "certfile", "keyfile", "verify")

#: Bytes of a virtual host's name: an AMQP short string.
_LONGEST_VHOST = 255

#: The way out for a URL that cannot be parsed.
_ENCODE = (
    "where a user name or a password has / ? # @, write %2F %3F %23 %40, and the same "
    "for a # or an @ behind the host"
)


def parse_rabbitmq_url(url: str, name: str = "RABBITMQ_URL") -> dict[str, Any]:
    """Return Celery's broker settings for a ``RABBITMQ_URL``.

    ``amqp://user:password@host1:5672,host2,[::1]:5673/vhost?heartbeat=30``: the hosts
    are tried in random order. If only the last host has a port, all have it, as in
    amqp-dispatcher. ``amqps://`` verifies the broker's certificate and host name. The
    query has RabbitMQ's names (URI query parameters): ``cacertfile``, ``certfile``,
    ``keyfile``, ``verify`` (``verify_peer`` or ``verify_none``), ``heartbeat``
    (seconds).

    kombu gets the user, the password and the virtual host percent-encoded, because it
    splits URLs at ``;``.

    Args:
        url: The URL.
        name: The setting that it comes from.

    Raises:
        SettingsError: The URL cannot be used. Gives the reason without the password.
    """
    url = url.strip()  # the file of a secret often ends with a newline
    shown = f"{name}={hide_password(url)!r}"
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if scheme not in ("amqp", "amqps") or "://" not in url:
        raise SettingsError(
            f"{shown}: must start with amqp:// or amqps:// (amqp-dispatcher took any "
            "scheme for amqp)"
        )
    place, _, query_text = rest.partition("?")
    authority, _, vhost = place.partition("/")
    login, at, hosts = authority.rpartition("@")
    if "#" in rest or "@" in rest[len(authority) :]:
        raise SettingsError(f"{shown}: {_ENCODE}")  # perhaps a part of a password
    user, colon, password = login.partition(":")
    login = _encoded(user, f"{shown}: the user") + colon
    login += _encoded(password, f"{shown}: the password") + at
    path = _encoded(vhost, f"{shown}: the virtual host", _LONGEST_VHOST)
    urls = []
    names = hosts.split(",")
    ports = [match and match[3] for match in map(_HOST.fullmatch, names)]
    # kombu would give a host without a port the port of the host before it.
    usual = "5671" if scheme == "amqps" else "5672"
    if not any(ports[:-1]):
        usual = ports[-1] or usual
    for host, port in zip(names, ports, strict=True):
        if not _is_host(host):
            said = repr(host) if at or not host else "'**'"
            raise SettingsError(
                f"{shown}: host {said}: must be a host name or address (IPv6 in "
                "brackets), then optionally a colon and a port from 1 to 65535"
            )
        place = host if port or len(names) == 1 else f"{host}:{usual}"
        urls.append(f"{scheme}://{login}{place}/{path}")
    random.shuffle(urls)
    query = _parameters(query_text, shown)
    broker: dict[str, Any] = {
        "broker_url": urls if len(urls) > 1 else urls[0],
        "broker_failover_strategy": "round-robin",  # already shuffled
    }
    if (heartbeat := query.pop("heartbeat", "none")).lower() != "none":
        broker["broker_heartbeat"] = heartbeat_of(heartbeat, f"{shown}: heartbeat")
    if scheme == "amqps":
        broker["broker_use_ssl"] = _tls(query, shown)
    for name in query:
        close = get_close_matches(name, _PARAMETERS)
        said = name if at or close else "**"  # not a part of a password
        unknown = (
            f"{shown}: unknown parameter {said!r}; known are heartbeat, and with "
            "amqps:// cacertfile, certfile, keyfile, verify"
        )
        # Meant for TLS, or a part of a password.
        if close or not (at or "/" in rest.partition("?")[0]):
            raise SettingsError(unknown)
        logger.warning("%s; it is left out, as amqp-dispatcher did", unknown)
    return broker


def check_other_url(url: str, name: str) -> None:
    """Check a URL of another transport, which kombu reads.

    Raises:
        SettingsError: kombu would read a part of the password as the port, and show it.
    """
    try:
        _ = urlsplit(url).port
    except ValueError:
        shown = f"{name}={hide_password(url)!r}"
        raise SettingsError(f"{shown}: its port is no number; {_ENCODE}") from None


def _is_host(text: str) -> bool:
    """Return whether a text is a host, with or without a port."""
    found = _HOST.fullmatch(text)
    if found is None:
        return False
    name, ipv6, port = found.groups()
    try:
        return 0 < int(port or 1) < 65536 and bool(
            name.encode("idna") if name else IPv6Address(ipv6)
        )
    except ValueError:
        return False


def _encoded(text: str, what: str, longest: int | None = None) -> str:
    """Return a part of a URL with all special characters percent-encoded."""
    try:
        plain = unquote(text, errors="strict")
        size = len(plain.encode())
    except UnicodeError:
        raise SettingsError(f"{what} is not UTF-8; encode it as UTF-8") from None
    if "\0" in plain:
        raise SettingsError(f"{what} has a NUL character, which AMQP has no place for")
    if longest is not None and size > longest:
        raise SettingsError(f"{what} has {size} bytes; AMQP has place for {longest}")
    return quote(plain, safe="")


def _parameters(text: str, shown: str) -> dict[str, str]:
    try:
        plus = text.replace(
            "+", "%2B"
        )  # in a file's name; + means a space in forms only
        return dict(parse_qsl(plus, keep_blank_values=True, errors="strict"))
    except ValueError:
        raise SettingsError(f"{shown}: what follows ? cannot be read") from None


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
