"""Celery's prefork pool, in which a lost connection to the broker changes nothing.

With the connection, Celery's own pool forgets jobs that no process has begun, and
resets its event loop in the middle of messages to and from processes: the process waits
for
    the
other half forever, or its next message is read as that half.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from celery.concurrency import asynpool, prefork

#: A message to or from a process; each `next` transfers another part.
_Message = Generator[None, None, None]

#: Seconds before checking again whether a process is alive.
POLL = 0.5


class _Results(asynpool.ResultHandler):
    """Reads the messages of processes; finishes half-read ones."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Half-read messages by process: file descriptors are reused.
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
    """The pool's processes, and the pipes to them."""

    ResultHandler = _Results

    def flush(self) -> None:
        """Keep the jobs that were handed over: each is done, and ends once."""

    def register_with_event_loop(self, hub: Any) -> None:
        """Go on in an event loop that has forgotten half-written messages.

        Before 5.7 Celery also forgets the time limits.
        """
        super().register_with_event_loop(hub)
        for process, writing in self._half_written():
            hub.add_writer(process.inqW_fd, writing)
        for job in list(self._cache.values()):
            if job._accepted and job._timeout and job._job not in self._tref_for_id:
                self.on_timeout_set(job, None, job._timeout)

    def _track_child_process(self, process: Any, hub: Any) -> None:
        """Wait for the end of a process, unless its pipes are closed already.

        They close a moment before the parent learns of its exit, which it checks every
        5 s. If Celery registers them in between, its worker would end.
        """
        if getattr(process, "_sentinel_poll", True) is not None:
            super()._track_child_process(process, hub)

    def process_flush_queues(self, process: Any) -> None:
        """Read the messages of a process that has ended, the half-read one first."""
        reading = self._result_handler.half_read.pop(process, None)
        if reading is not None:
            with suppress(StopIteration, OSError, EOFError):
                while process.outq._reader.poll(0):
                    next(reading)
        super().process_flush_queues(process)

    def close(self) -> None:
        """Take no more jobs. The order to end must not come inside a message."""
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
