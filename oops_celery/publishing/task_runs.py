"""What Celery does with a task that fails, where its signal ``task_failure`` is late.

Celery first writes the failure into the result backend, and calls ``on_failure``: if
one of them raises, there is no such signal, or it is about that error.
"""

from __future__ import annotations

import os
import sys
from collections import OrderedDict
from contextlib import suppress
from contextvars import ContextVar
from types import FrameType
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from celery import states
from celery.app.task import Task
from celery.backends.base import Backend
from celery.exceptions import Retry, TimeLimitExceeded
from kombu.exceptions import EncodeError
from kombu.utils.imports import symbol_by_name

#: Runs of tasks of which is remembered what was decided.
REMEMBERED = 1000

#: The latest run of a task, in this thread or greenlet.
_latest: ContextVar[tuple[str, int]] = ContextVar("oops_celery_run", default=("", 0))


def begin(task_id: str, retries: int | None) -> str:
    """Note which run of a task this is; return its name.

    A retry is another run, which may begin before this one has come to its end.
    """
    _latest.set((task_id, retries or 0))
    return run_of(task_id)


def run_of(task_id: str) -> str:
    """Return the name of the run of a task that this is."""
    latest, retries = _latest.get()
    return f"{retries if latest == task_id else 0} {task_id}"


def first_error(
    receiver: FrameType, state: str | None
) -> tuple[list[BaseException], BaseException | None]:
    """Return the errors that are on their way out of a task's tracer, and its own one.

    Args:
        receiver: The frame of a receiver of the signal ``task_postrun``.
        state: The state that the signal has.

    Returns:
        All of them, the last one first; and the first one that is the task's. What the
        backend raises after the task was done, or is to be retried, is none.
    """
    tracer: FrameType | None = receiver.f_back
    while tracer and tracer.f_globals["__name__"].startswith("celery.utils.dispatch"):
        tracer = tracer.f_back
    errors: list[BaseException] = []
    error, seen = sys.exc_info()[1], set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        # Others were caught deeper, or are handled by who runs the task eagerly.
        if error.__traceback__ and error.__traceback__.tb_frame is tracer:
            errors.append(error)
        error = error.__context__
    done = state == states.SUCCESS or any(isinstance(one, Retry) for one in errors)
    for one in reversed(errors):
        bookkeeping = _by_backend(one) and not isinstance(one, EncodeError)
        if not isinstance(one, Retry) and not (done and bookkeeping):
            return errors, one
    return errors, None


def lost_retry(answer: Any) -> BaseException | None:
    """Return what a task failed with, if it is rejected as its retry cannot be sent.

    Args:
        answer: The `Reject` that ended the task.
    """
    caller, traceback = None, answer.__traceback__
    while traceback and traceback.tb_frame.f_code is not Task.retry.__code__:
        caller, traceback = traceback.tb_frame, traceback.tb_next
    if traceback is None:
        return None  # the task's own answer
    error, seen = answer.__context__, set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if error.__traceback__ and error.__traceback__.tb_frame is caller:
            return error  # type: ignore[no-any-return]
        error = error.__context__
    return answer.__context__  # type: ignore[no-any-return]


def _by_backend(error: BaseException) -> bool:
    traceback = error.__traceback__
    while traceback is not None:
        if isinstance(traceback.tb_frame.f_locals.get("self"), Backend):
            return True
        traceback = traceback.tb_next
    return False


class Decided:
    """What was decided of the latest runs: reported, or nothing to report yet."""

    def __init__(self) -> None:
        self._reported: OrderedDict[str, bool] = OrderedDict()

    def report(self, run: str) -> None:
        """Remember that the failure of a run is reported."""
        self._put(run, True)

    def settle(self, run: str) -> None:
        """Remember that the error of a run needs no report, unless Celery fails it."""
        self._put(run, False)

    def _put(self, run: str, reported: bool) -> None:
        self._reported[run] = reported
        while len(self._reported) > REMEMBERED:
            with suppress(KeyError):
                self._reported.popitem(last=False)

    def is_reported(self, run: str) -> bool:
        """Return whether the failure of a run is reported."""
        return self._reported.get(run, False)

    def is_settled(self, run: str) -> bool:
        """Return whether something was decided of a run."""
        return run in self._reported

    def forget(self, run: str) -> None:
        """Begin anew: it comes again."""
        self._reported.pop(run, None)


class Told:
    """Tells the main process of a worker which failures its pool has seen to."""

    def __init__(self) -> None:
        self._main: int | None = None
        self._reader: int | None = None
        self._writer: int | None = None
        self._rest = b""
        self._ids = Decided()

    def open(self) -> None:
        """Make a pipe, for the processes that are forked from now on."""
        self._main = os.getpid()
        if self._reader is None:
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._reader, False)
            os.set_blocking(self._writer, False)

    def in_pool(self) -> bool:
        """Return whether this is another process than the main one of a worker."""
        return self._main not in (None, os.getpid())

    def tell(self, run: str) -> None:
        """Say that a task's failure is seen to, if this is a process of a pool."""
        if self._writer is not None and self.in_pool():
            with suppress(OSError):  # nobody has read for long
                os.write(self._writer, run.encode().hex().encode() + b"\n")

    def take(self, run: str) -> bool:
        """Return whether a process of the pool has said so; it is asked once."""
        if self._reader is None or self.in_pool():
            return False
        with suppress(BlockingIOError):
            while chunk := os.read(self._reader, 65536):
                *lines, self._rest = (self._rest + chunk).split(b"\n")
                for line in lines:
                    self._ids.report(bytes.fromhex(line.decode()).decode())
        told = self._ids.is_reported(run)
        self._ids.forget(run)
        return told


def with_requests(base: Any, failures: Any) -> type:
    """Return a task's Request class that tells of what its signals may not.

    Hard time limits and lost processes come to light in the main process of a worker,
    whose backend may be away as well.

    Args:
        base: The task's Request class, or its name.
        failures: Has `told`, `decided` and
            ``on_request_failed(request, exception, traceback)``.
    """

    class Request(symbol_by_name(base)):  # type: ignore[misc]
        def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
            run = begin(self.id, self.request_dict.get("retries"))
            told = failures.told.take(run)
            if told:
                failures.decided.report(run)
            try:
                return super().on_failure(exc_info, *args, **kwargs)
            except BaseException:
                error = exc_info.exception
                if isinstance(error, ExceptionWithTraceback):
                    error = error.exc
                failures.on_request_failed(self, error, exc_info.traceback)
                raise
            finally:
                if told:
                    failures.decided.forget(run)

        def on_timeout(self, soft: bool, timeout: float) -> Any:
            begin(self.id, self.request_dict.get("retries"))
            try:
                return super().on_timeout(soft, timeout)
            except BaseException:
                if not soft:
                    failures.on_request_failed(self, TimeLimitExceeded(timeout), None)
                raise

    return Request
