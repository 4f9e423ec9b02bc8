"""What became of the reports of a batch, also when its process dies in the middle.

A process tells of a batch when it is done with all of it. So each report's end is noted
at once in memory that all processes of a worker share.
"""

from __future__ import annotations

import enum
import mmap
from collections.abc import Sequence
from typing import Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated
from celery.exceptions import Reject, Retry

from oops_celery import wire
from oops_celery.errors import NotTaken

#: Batches that are at work at the same time, at most; further ones have no notes.
BATCHES = 1024

#: Reports of a batch, at most.
WIDTH = 32


class End(enum.IntEnum):
    """How far a report has come."""

    NOT_BEGUN = 0
    #: At work, or its process died in it.
    BEGUN = 1
    KEPT = 2
    RETRIED = 3
    #: It failed for good, and has been parked.
    FAILED = 4
    #: It is to go back to its queue, or ended without an outcome.
    OPEN = 5


#: Made before the first process is: those that are forked have it too.
_memory = mmap.mmap(-1, BATCHES * WIDTH)
_free = list(range(BATCHES))


class Progress:
    """The notes on one batch, in the main process."""

    def __init__(self) -> None:
        #: What a process needs to know; None when there is no place for notes.
        self.place = _free.pop() * WIDTH if _free else None
        if self.place is not None:
            _memory[self.place : self.place + WIDTH] = bytes(WIDTH)

    def ends(self, reports: int) -> list[End]:
        """Return how far each report came.

        Where nothing is known (a process that was not forked has other memory), each
        may have been at work.
        """
        if self.place is None:
            return [End.BEGUN] * reports
        ends = [End(_memory[self.place + number]) for number in range(reports)]
        return ends if any(ends) else [End.BEGUN] * reports

    def close(self) -> None:
        """Leave the place to another batch."""
        if self.place is not None:
            _free.append(self.place // WIDTH)
            self.place = None


def note(place: int | None, number: int, end: End) -> None:
    """Note, in a process of the pool, how far a report has come."""
    if place is not None:
        _memory[place + number] = end


def end_of(result: Sequence[object]) -> End:
    """Return the end that a report's result, as Celery's tracer returns it, means."""
    if not result[0]:
        return End.KEPT
    error = getattr(result[1], "exception", None)
    error = getattr(error, "exc", error)
    if isinstance(error, Retry):
        return End.RETRIED
    return End.FAILED if isinstance(error, (NotTaken, wire.Undecodable)) else End.OPEN


def is_terminated(error: ExceptionInfo) -> bool:
    """Whether somebody has revoked a report of the batch, with ``terminate``."""
    return isinstance(getattr(error.exception, "exc", error.exception), Terminated)


def _raised(error: Exception) -> tuple[int, ExceptionInfo, float]:
    """Return what Celery's tracer returns when a task raises an error."""
    try:
        raise error
    except Exception:
        info = ExceptionInfo()
    info.exception = error  # as it comes out of a process, without its traceback
    return 1, info, 0.0


#: Ends of which is known just that they came: the process died before it told more.
TOLD: dict[End, Any] = {
    End.KEPT: (0, "'done; its process died soon after'", 0.0),
    End.RETRIED: _raised(Retry("refused; its process died soon after")),
    End.FAILED: _raised(NotTaken("parked; its process died soon after")),
    End.OPEN: _raised(Reject("its process died soon after", requeue=True)),
}
