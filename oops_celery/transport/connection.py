"""The app's connection: reads any message, and raises when it is lost."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import kombu

from oops_celery.transport import messages
from oops_celery.transport.read_ahead import TRANSPORTS


class Connection(kombu.Connection):
    """A connection that raises when it is lost, and verifies the host it connects to.

    kombu keeps the first host's name for the certificate when it goes on to the next
    host, and turns ``localhost`` into ``127.0.0.1`` before the check.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.transport_cls in ("amqp", "amqps", "pyamqp"):
            frames = {"frame_handler": messages.readable_frames}
            self.transport_options: Any = {**self.transport_options, **frames}
        self._name_host()

    #: Whether the worker's loop reads it.
    reads_ahead = False

    def get_transport_cls(self) -> Any:
        """Return the class of the transport."""
        transport = super().get_transport_cls()
        return TRANSPORTS.get(transport, transport) if self.reads_ahead else transport

    def info(self) -> dict[str, Any]:
        """Describe the connection as JSON, for ``celery inspect stats`` and Flower."""
        known = dict(super().info())
        options = dict(known["transport_options"] or {})
        options.pop("frame_handler", None)
        return {**known, "transport_options": options}

    def drop(self) -> None:
        """Close the socket without AMQP's close handshake: nobody may answer."""
        raw = self._connection
        with suppress(Exception):  # as it is broken
            raw.transport.sock.settimeout(0)  # no TLS goodbye either
            raw.collect()

    def limit_waits(self, seconds: float) -> None:
        """Limit every later wait for the broker."""
        with suppress(AttributeError, OSError):  # not AMQP, or lost
            self._connection.transport.sock.settimeout(seconds)

    def drain_events(self, **kwargs: Any) -> Any:
        """Wait for an event.

        If an acknowledgement in another thread or greenlet is the first to find the
        connection lost, kombu would wait on a new connection without consumers.

        Raises:
            ConnectionResetError: The connection was lost.
        """
        if self._connection is not None and not self.connected:
            raise ConnectionResetError("the connection to the broker was lost")
        return super().drain_events(**kwargs)

    def ensure(
        self,
        obj: Any,
        fun: Any,
        errback: Any = None,
        max_retries: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call a function; call it once more if the connection was lost.

        kombu would retry forever if a declaration holds a channel of the lost
        connection. Celery's heartbeat event does, in a worker that was frozen until the
        broker dropped its connection.
        """
        tries = 1 if max_retries is None else max_retries
        return super().ensure(obj, fun, errback, tries, **kwargs)

    @property
    def supports_heartbeats(self) -> bool:
        """Whether the connection has heartbeats: it may have been opened without."""
        return bool(self.heartbeat) and super().supports_heartbeats

    def switch(self, conn_str: str) -> None:
        """Continue with another host."""
        super().switch(conn_str)
        self._name_host()

    def _name_host(self) -> None:
        options: Any = self.ssl
        if isinstance(options, dict) and options.get("cert_reqs"):
            self.ssl: Any = {**options, "server_hostname": self.hostname}
