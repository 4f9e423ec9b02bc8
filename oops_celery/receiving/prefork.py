"""Celery's prefork pool, of which a lost connection to the broker touches nothing.

Celery's own forgets, with the connection, what its processes have not begun, and resets
its event loop, where a message to or from a process may be half done: the process then
waits for the other half for ever, and its next messages are taken for that.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from celery.concurrency import asynpool, prefork

#: A message to or from a process, of which another part is done at each `next`.
_Message = Generator[None, None, None]

#: Seconds before it is looked again whether a process is still there.
POLL = 0.5


class _Results(asynpool.ResultHandler):
    """Reads what processes say; goes on with what is half read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: What is half read, by process: a file descriptor may be another's soon.
        self.half_read: WeakKeyDictionary[Any, _Message] = WeakKeyDictionary()

    def _recv_message(
        self, add_reader: Callable[..., Any], fd: int, callback: Callable[..., Any]
    ) -> _Message:
        process = self.fileno_to_outq[fd]
        if process not in self.half_read:
            reading = super()._recv_message(add_reader, fd, callback)
            self.half_read[process] = self._whole(process, reading)
        return self.half_read[process]

    def _whole(self, process: Any, reading: _Message) -> _Message:
        try:
            yield from reading
        finally:
            self.half_read.pop(process, None)


class _Processes(asynpool.AsynPool):
    """The processes, and the pipes to them."""

    ResultHandler = _Results

    def flush(self) -> None:
        """Keep the jobs that were handed over: each is done, and ends once."""

    def register_with_event_loop(self, hub: Any) -> None:
        """Work in an event loop, which has forgotten what was half written.

        Before Celery 5.7 it has forgotten the time limits too.
        """
        super().register_with_event_loop(hub)
        for process, writing in self._half_written():
            hub.add_writer(process.inqW_fd, writing)
        for job in list(self._cache.values()):
            if job._accepted and job._timeout and job._job not in self._tref_for_id:
                self.on_timeout_set(job, None, job._timeout)

    def _track_child_process(self, process: Any, hub: Any) -> None:
        """Wait for the end of a process, unless that was seen and its exit was not.

        Its pipes close a moment before its parent is told of its exit; that is then
        looked for every 5 s. Celery's worker would end if it registers them meanwhile.
        """
        if getattr(process, "_sentinel_poll", True) is not None:
            super()._track_child_process(process, hub)

    def process_flush_queues(self, process: Any) -> None:
        """Read what a process has said before its end, the half read message first."""
        reading = self._result_handler.half_read.pop(process, None)
        if reading is not None:
            with suppress(StopIteration, OSError, EOFError):
                while process.outq._reader.poll(0):
                    next(reading)
        super().process_flush_queues(process)

    def close(self) -> None:
        """Take no more. What tells a process to end must not come within a message."""
        for process, writing in self._half_written():
            self._flush_writer(process, writing)
        for process, reading in list(self._result_handler.half_read.items()):
            _finish(process, reading)
        super().close()

    def _half_written(self) -> Iterator[tuple[Any, _Message]]:
        for job in list(self._cache.values()):
            writing = job._writer() if hasattr(job, "_writer") else None  # weakly
            if writing is not None and writing in self._active_writers:
                yield job._write_to, writing


def _finish(process: Any, reading: _Message) -> None:
    """Read the rest of a message, unless its process is gone."""
    with suppress(StopIteration, OSError, EOFError):
        while process._is_alive():
            if process.outq._reader.poll(POLL):
                next(reading)


class Pool(prefork.TaskPool):
    """The prefork pool of a worker."""

    Pool = _Processes
