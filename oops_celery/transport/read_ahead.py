"""Read many messages at once, in the worker's loop.

py-amqp makes three system calls for a frame (its seven bytes of head, its body, the
byte after it) and sets a timeout before and after; kombu takes one message in a round
of the worker's loop. For a backlog that is a third of a message's cost.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import kombu.transport.pyamqp
from amqp.transport import TCPTransport

#: Bytes of a read, at least.
READ_AHEAD = 8192

#: Messages taken in a round of the loop, at most.
AT_ONCE = 20

#: Bytes of a frame before and after its content (AMQP 0-9-1, 4.2.3).
_AROUND = 8


class Socket(TCPTransport):
    """py-amqp's socket that reads ahead."""

    def _setup_transport(self) -> None:
        super()._setup_transport()
        receive = self.sock.recv
        self._quick_recv = lambda wanted: receive(max(wanted, READ_AHEAD))

    @property
    def has_frame(self) -> bool:
        """Whether a whole frame has been read ahead."""
        read = self._read_buffer
        size = int.from_bytes(read[3:7], "big")
        return len(read) >= _AROUND and _AROUND + size <= len(read)

    def having_timeout(self, timeout: float | None) -> AbstractContextManager[Any]:
        """Set a timeout for reads from the socket in the block."""
        if self.has_frame:
            return nullcontext(self.sock)
        return super().having_timeout(timeout)  # type: ignore[no-any-return]


class Connection(kombu.transport.pyamqp.Connection):
    """A connection that reads ahead, unless it has TLS."""

    def Transport(  # noqa: N802 - py-amqp's name
        self,
        host: str,
        connect_timeout: Any,
        ssl: Any = False,
        read_timeout: Any = None,
        write_timeout: Any = None,
        socket_settings: Any = None,
        **more: Any,
    ) -> Any:
        """Return the transport that reads and writes."""
        options = {
            "connect_timeout": connect_timeout,
            "read_timeout": read_timeout,
            "write_timeout": write_timeout,
            "socket_settings": socket_settings,
            **more,
        }
        return (
            super().Transport(host, ssl=ssl, **options)
            if ssl
            else Socket(host, **options)
        )


class Transport(kombu.transport.pyamqp.Transport):
    """kombu's transport for the worker's loop."""

    Connection = Connection

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Read in the loop: when the socket has data, and after others read ahead."""
        super().register_with_event_loop(connection, loop)
        read = self._make_reader(connection)

        def read_on() -> None:
            """Take all frames that another wait has read ahead: the loop waits next."""
            if not connection.connected:
                loop.on_tick.discard(read_on)
                return
            for _ in range(READ_AHEAD // AT_ONCE):
                if not getattr(connection.transport, "has_frame", False):
                    break
                read(loop)

        loop.on_tick.add(read_on)

    def _make_reader(
        self,
        connection: Any,
        timeout: type[Exception] = TimeoutError,
        error: type[OSError] = OSError,
        _unavail: tuple[int, ...] = (errno.EAGAIN, errno.EINTR),
    ) -> Callable[[Any], None]:
        several = _Several(connection)
        make: Callable[..., Any] = super()._make_reader
        return make(several, timeout, error, _unavail)  # type: ignore[no-any-return]


class SSLTransport(Transport, kombu.transport.pyamqp.SSLTransport):
    """The same, with TLS."""


class _Several:
    """py-amqp's connection; one call takes several messages."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @property
    def connected(self) -> bool:
        return bool(self._connection.connected)

    def drain_events(self, timeout: float) -> None:
        for _ in range(AT_ONCE):
            self._connection.drain_events(timeout=timeout)


#: Replacements for kombu's transports.
TRANSPORTS: dict[Any, Any] = {
    kombu.transport.pyamqp.Transport: Transport,
    kombu.transport.pyamqp.SSLTransport: SSLTransport,
}
