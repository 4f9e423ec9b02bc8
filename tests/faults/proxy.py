"""A TCP proxy before RabbitMQ that does to connections what networks do to them.

Any number of proxies share one thread. Each has its port and its clients: a worker's
consuming connection, its events, what it sends on, and a publisher's get one each.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

#: Bytes that are passed on at once.
CHUNK = 65536

#: Seconds between two bytes of a connection that is split.
BYTE_PAUSE = 0.0005

#: Bytes that a proxy's sockets hold: else a frozen network would take megabytes.
BUFFER = 16384

#: Makes a closed socket send RST instead of FIN.
_RST = struct.pack("ii", 1, 0)

T = TypeVar("T")


class Loop:
    """The thread in which proxies work."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something there; return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def stop(self) -> None:
        """End the thread, and all connections."""

        async def cancel() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.call(cancel())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Proxy:
    """Passes connections on to a port of this machine.

    Args:
        loop: Where it works.
        port: The broker's port.
    """

    def __init__(self, loop: Loop, port: int) -> None:
        self._loop = loop
        self._target = port
        self._passages: set[_Passage] = set()
        #: Connections so far.
        self.connections = 0
        self.port = loop.call(self._listen())
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"

    async def _listen(self) -> int:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        self._server = await asyncio.start_server(self._accept, sock=listener)
        return int(listener.getsockname()[1])

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            far = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        self.connections += 1
        passage = _Passage((reader, writer), far)
        self._passages.add(passage)
        try:
            await passage.run()
        except asyncio.CancelledError:
            pass  # the end: asyncio would tell of it
        finally:
            self._passages.discard(passage)

    def _each(
        self, do: Callable[[_Passage], None], chance: random.Random | None = None
    ) -> int:
        async def each() -> int:
            passages = list(self._passages)
            if chance is not None and passages:
                passages = chance.sample(passages, chance.randint(1, len(passages)))
            for passage in passages:
                do(passage)
            return len(passages)

        return self._loop.call(each())

    def count(self) -> int:
        """Return the number of open connections."""
        return self._each(lambda _: None)

    def cut(self, reset: bool = True, chance: random.Random | None = None) -> int:
        """End connections on both sides, by RST or by FIN; return their number.

        Args:
            reset: By RST.
            chance: Chooses some of them; all without it.
        """
        return self._each(lambda passage: passage.cut(reset), chance)

    def half_close(self, to_broker: bool) -> int:
        """Say the end in one direction; the other one stays open."""
        return self._each(lambda passage: passage.half_close(to_broker))

    def freeze(self, to_broker: bool) -> int:
        """Pass nothing on in one direction, until the connections are cut."""
        return self._each(lambda passage: passage.slow(to_broker, 0, 0.0))

    def throttle(self, bytes_per_second: int) -> int:
        """Pass on so much in both directions."""
        return self._slow(max(bytes_per_second // 10, 1), 0.1)

    def split(self) -> int:
        """Pass each byte on by itself."""
        return self._slow(1, BYTE_PAUSE)

    def heal(self) -> int:
        """Pass everything on at once again."""
        return self._slow(CHUNK, 0.0)

    def _slow(self, chunk: int, pause: float) -> int:
        def both(passage: _Passage) -> None:
            for to_broker in (True, False):
                passage.slow(to_broker, chunk, pause)

        return self._each(both)


class _Passage:
    """One connection through the proxy."""

    def __init__(
        self,
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        #: From the client to the broker, and back.
        self._ways = {True: _Way(near[0], far[1]), False: _Way(far[0], near[1])}

    async def run(self) -> None:
        try:
            await asyncio.gather(*(way.run() for way in self._ways.values()))
        finally:
            self.cut(False)

    def cut(self, reset: bool) -> None:
        for way in self._ways.values():
            sock = way.writer.get_extra_info("socket")
            if reset and sock is not None:
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
            way.open.set()
            if reset:
                way.writer.transport.abort()
            else:
                way.writer.close()

    def half_close(self, to_broker: bool) -> None:
        way = self._ways[to_broker]
        with suppress(OSError, RuntimeError):
            way.writer.write_eof()

    def slow(self, to_broker: bool, chunk: int, pause: float) -> None:
        way = self._ways[to_broker]
        way.chunk, way.pause = chunk or CHUNK, pause
        if chunk:
            way.open.set()
        else:
            way.open.clear()


class _Way:
    """One direction of a connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader = reader
        self.writer = writer
        self.chunk = CHUNK
        self.pause = 0.0
        #: Whether anything passes.
        self.open = asyncio.Event()
        self.open.set()

    async def run(self) -> None:
        with suppress(OSError, RuntimeError):
            while data := await self._reader.read(self.chunk):
                while data:
                    await self.open.wait()
                    part, data = data[: self.chunk], data[self.chunk :]
                    self.writer.write(part)
                    await self.writer.drain()
                    if self.pause:
                        await asyncio.sleep(self.pause)
            await self.open.wait()
            self.writer.write_eof()
