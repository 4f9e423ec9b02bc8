"""The connection of the app: any message is readable, a lost connection is noticed."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import kombu

from oops_celery.transport import messages
from oops_celery.transport.read_ahead import TRANSPORTS


class Connection(kombu.Connection):
    """A connection that says when it is lost, and whom it talks to.

    It reads messages of any kind. It checks the broker's certificate for the host it
    connects to: kombu keeps the first host's name when it goes on to the next one, and
    turns ``localhost`` into ``127.0.0.1`` before it is checked.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.transport_cls in ("amqp", "amqps", "pyamqp"):
            frames = {"frame_handler": messages.readable_frames}
            self.transport_options: Any = {**self.transport_options, **frames}
        self._name_host()

    #: Whether it is read in the worker's loop.
    reads_ahead = False

    def get_transport_cls(self) -> Any:
        """Return the class of the transport."""
        transport = super().get_transport_cls()
        return TRANSPORTS.get(transport, transport) if self.reads_ahead else transport

    def info(self) -> dict[str, Any]:
        """Tell about itself, as JSON can, for ``celery inspect stats`` and Flower."""
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
        """Have no wait for the broker take longer from now on."""
        with suppress(AttributeError, OSError):  # not AMQP, or lost
            self._connection.transport.sock.settimeout(seconds)

    def drain_events(self, **kwargs: Any) -> Any:
        """Wait for an event.

        When an acknowledgement in another thread or greenlet was the first to find the
        connection lost, kombu would wait on a new one, which has no consumers.

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
        """Do something once more after the connection was lost.

        kombu would go on for ever where a declaration has a channel of the lost
        connection: so does Celery's heartbeat event, in the main process of a worker
        that was frozen until the broker had dropped it.
        """
        tries = 1 if max_retries is None else max_retries
        return super().ensure(obj, fun, errback, tries, **kwargs)

    @property
    def supports_heartbeats(self) -> bool:
        """Whether it has heartbeats: it may have been opened without."""
        return bool(self.heartbeat) and super().supports_heartbeats

    def switch(self, conn_str: str) -> None:
        """Go on to another host."""
        super().switch(conn_str)
        self._name_host()

    def _name_host(self) -> None:
        options: Any = self.ssl
        if isinstance(options, dict) and options.get("cert_reqs"):
            self.ssl: Any = {**options, "server_hostname": self.hostname}
