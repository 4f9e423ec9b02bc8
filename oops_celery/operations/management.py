"""RabbitMQ's management API, for what AMQP cannot tell.

See https://www.rabbitmq.com/docs/management#http-api.
"""

from __future__ import annotations

import base64
import json
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPMessage
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import ProxyHandler, Request, build_opener

from oops_celery.errors import ManagementError


class Management:
    """The management API of one broker.

    Args:
        url: ``http://[user:password@]host:15672``, or ``https://``.
        user: The user, if the URL names none.
        password: That user's password.
        virtual_host: The virtual host to ask about.
        timeout: Seconds for an answer.

    Raises:
        ManagementError: The URL cannot be used.
    """

    def __init__(
        self,
        url: str,
        user: str = "guest",
        password: str = "guest",
        virtual_host: str = "/",
        timeout: float = 3.0,
    ) -> None:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname)
            usable = usable and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ManagementError(
                "the URL of the management API must be http://host:15672 or https://,"
                " with user:password@ before the host where they are others"
            )
        login, _, host = parts.netloc.rpartition("@")
        name, _, secret = login.partition(":")
        if login:
            user, password = unquote(name), unquote(secret)
        path = parts.path.rstrip("/").removesuffix("/api")
        #: The URL, without user and password.
        self.url = urlunsplit((parts.scheme, host, path, "", ""))
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {token}"}
        self._virtual_host = virtual_host
        self._timeout = timeout
        # A broker is in one's own network: never through a proxy.
        self._open = build_opener(ProxyHandler({})).open

    def bindings_of(self, queue: str) -> list[tuple[str, str, dict[str, Any]]]:
        """Return a queue's bindings: exchange, routing key, arguments.

        Without the binding to the default exchange, which every queue has.

        Raises:
            ManagementError: There was no usable answer.
        """
        found, _ = self._get("queues", self._virtual_host, queue, "bindings")
        return [
            (each["source"], each["routing_key"], dict(each["arguments"] or {}))
            for each in found
            if each["source"]
        ]

    def clock(self) -> float:
        """Return the broker's time, in seconds since 1970, to a second.

        Raises:
            ManagementError: There was no usable answer.
        """
        _, headers = self._get("whoami")
        try:
            return parsedate_to_datetime(headers["Date"]).timestamp()
        except (TypeError, ValueError):
            raise ManagementError(f"{self.url} tells no time") from None

    def _get(self, *path: str) -> tuple[Any, HTTPMessage]:
        steps = "/".join(quote(step, safe="") for step in path)
        request = Request(f"{self.url}/api/{steps}", headers=self._headers)
        try:
            with self._open(request, timeout=self._timeout) as answer:
                return json.load(answer), answer.headers
        except HTTPError as error:
            why = {401: "wrong user or password, or no tag 'management'"}
            raise ManagementError(
                f"{self.url}: {why.get(error.code, f'HTTP {error.code}')}"
            ) from None
        except (OSError, ValueError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise ManagementError(f"{self.url}: {reason}") from None
