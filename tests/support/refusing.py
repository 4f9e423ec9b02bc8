"""A broker that closes the connection at some requests: a proxy before a RabbitMQ.

RabbitMQ 4.3 does so at a denied deprecated feature (541), which 3.10 does not have.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress

#: Methods of AMQP 0-9-1, of which the first text is the name of what they are about.
EXCHANGE_DECLARE, QUEUE_DECLARE, QUEUE_BIND = (40, 10), (50, 10), (50, 20)
BASIC_CONSUME = (60, 20)


class Refusing:
    """Forwards each connection to a broker, and closes it at what is refused.

    Args:
        port: The broker's.
        code: The reply code of the refusal.

    Attributes:
        refused: Methods, each with the names that they are refused for.
        connections: When each connection came, by the monotonic clock.
        closed: Methods and names at which a connection was closed.
    """

    def __init__(self, port: int, code: int = 541) -> None:
        self.refused: set[tuple[tuple[int, int], str]] = set()
        self.connections: list[float] = []
        self.closed: list[tuple[tuple[int, int], str]] = []
        self._broker, self._code = port, code
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                self.connections.append(time.monotonic())
                far = socket.create_connection(("localhost", self._broker))
                for target, args in ((self._ask, (near, far)), (_copy, (far, near))):
                    threading.Thread(target=target, args=args, daemon=True).start()

    def _ask(self, near: socket.socket, far: socket.socket) -> None:
        """Forward what the client sends, frame by frame."""
        with suppress(OSError, EOFError):
            far.sendall(_read(near, 8))  # the protocol header
            while True:
                head = _read(near, 7)
                kind, _, size = struct.unpack(">BHI", head)
                rest = _read(near, size + 1)
                what = (struct.unpack(">HH", rest[:4]), _name(rest)) if size > 6 else 0
                if kind == 1 and what in self.refused:
                    self.closed.append(what)  # type: ignore[arg-type]
                    near.sendall(self._close_frame())
                    break
                far.sendall(head + rest)
            while near.recv(65536):  # its close-ok, then its end
                pass
        for end in (near, far):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _close_frame(self) -> bytes:
        text = b"INTERNAL_ERROR - Feature `nonsense` is deprecated.\nBy default, it is."
        payload = struct.pack(">HHH", 10, 50, self._code)
        payload += bytes([len(text)]) + text + struct.pack(">HH", 0, 0)
        return struct.pack(">BHI", 1, 0, len(payload)) + payload + b"\xce"


def _name(payload: bytes) -> str:
    """Return the first short string of a method, behind a reserved number."""
    return payload[7 : 7 + payload[6]].decode(errors="replace")


def _read(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = source.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
