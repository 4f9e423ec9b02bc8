"""Track what Celery does with a failing task, as its ``task_failure`` may not be sent.

Celery first writes the failure to the result backend and calls ``on_failure``. If one
of them raises, there is no such signal, or it has that error.
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

#: Number of runs whose decision is remembered.
REMEMBERED = 1000

#: The latest run of a task in this thread or greenlet.
_latest: ContextVar[tuple[str, int]] = ContextVar("oops_celery_run", default=("", 0))


def begin(task_id: str, retries: int | None) -> str:
    """Start a run of a task; return its name.

    A retry is another run, which may start before this one has ended.
    """
    _latest.set((task_id, retries or 0))
    return run_of(task_id)


def run_of(task_id: str) -> str:
    """Return the name of a task's current run."""
    latest, retries = _latest.get()
    return f"{retries if latest == task_id else 0} {task_id}"


def first_error(
    receiver: FrameType, state: str | None
) -> tuple[list[BaseException], BaseException | None]:
    """Return all errors leaving a task's tracer, and the task's own error.

    Args:
        receiver: The frame of a receiver of the signal ``task_postrun``.
        state: The signal's state.

    Returns:
        All of them, the last first; and the first that is the task's. An error of the
        backend after the task succeeded, or before its retry, is not the task's.
    """
    tracer: FrameType | None = receiver.f_back
    while tracer and tracer.f_globals["__name__"].startswith("celery.utils.dispatch"):
        tracer = tracer.f_back
    errors: list[BaseException] = []
    error, seen = sys.exc_info()[1], set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        # Others were caught further down, or belong to the caller of an eager task.
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
    """Return the task's error, if it is rejected because its retry cannot be sent.

    Args:
        answer: The `Reject` that ended the task.
    """
    caller, traceback = None, answer.__traceback__
    while traceback and traceback.tb_frame.f_code is not Task.retry.__code__:
        caller, traceback = traceback.tb_frame, traceback.tb_next
    if traceback is None:
        return None  # the task rejected itself
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
    """Decisions about the latest runs: reported, or nothing to report yet."""

    def __init__(self) -> None:
        self._reported: OrderedDict[str, bool] = OrderedDict()

    def report(self, run: str) -> None:
        """Record that the failure of a run is reported."""
        self._put(run, True)

    def settle(self, run: str) -> None:
        """Record that the error of a run needs no report, unless Celery fails it."""
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
        """Return whether a decision about a run was made."""
        return run in self._reported

    def forget(self, run: str) -> None:
        """Forget the decision about a task: it is delivered again."""
        self._reported.pop(run, None)


class PoolReports:
    """Tells a worker's main process which failures its pool has reported."""

    def __init__(self) -> None:
        self._main: int | None = None
        self._reader: int | None = None
        self._writer: int | None = None
        self._rest = b""
        self._ids = Decided()

    def open(self) -> None:
        """Open a pipe for the processes that are forked from now on."""
        self._main = os.getpid()
        if self._reader is None:
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._reader, False)
            os.set_blocking(self._writer, False)

    def in_pool(self) -> bool:
        """Return whether this is a pool process, not a worker's main process."""
        return self._main not in (None, os.getpid())

    def tell(self, run: str) -> None:
        """From a pool process, tell the main process that a failure is reported."""
        if self._writer is not None and self.in_pool():
            with suppress(OSError):  # the pipe is full
                os.write(self._writer, run.encode().hex().encode() + b"\n")

    def take(self, run: str) -> bool:
        """Return whether a pool process reported a task's failure, and forget it."""
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
    """Return a task's Request class that reports failures that no signal announces.

    The main process of a worker finds hard time limits and lost processes; its result
    backend may be away too.

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
