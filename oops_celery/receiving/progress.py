"""Note how far the reports of a batch have come, in case their process dies.

A process returns a batch's results all together. So it also notes each outcome at once,
in memory that all processes of a worker share.
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

#: Most batches at work at the same time; further ones have no notes.
BATCHES = 1024

#: Most reports of a batch.
WIDTH = 32


class End(enum.IntEnum):
    """How far a report has come."""

    NOT_BEGUN = 0
    #: At work, or its process died in it.
    BEGUN = 1
    KEPT = 2
    RETRIED = 3
    #: Failed for good, and parked.
    FAILED = 4
    #: Back to its queue, or without an outcome.
    OPEN = 5


#: Made before the first fork, so all processes share it.
_memory = mmap.mmap(-1, BATCHES * WIDTH)
_free = list(range(BATCHES))


class Progress:
    """The notes on one batch, in the main process."""

    def __init__(self) -> None:
        #: Where a process writes its notes; None if there is no place left.
        self.place = _free.pop() * WIDTH if _free else None
        if self.place is not None:
            _memory[self.place : self.place + WIDTH] = bytes(WIDTH)

    def ends(self, reports: int) -> list[End]:
        """Return how far each report came.

        Without notes (a process that was not forked has other memory), each may have
        been at work.
        """
        if self.place is None:
            return [End.BEGUN] * reports
        ends = [End(_memory[self.place + number]) for number in range(reports)]
        return ends if any(ends) else [End.BEGUN] * reports

    def close(self) -> None:
        """Free the place for another batch."""
        if self.place is not None:
            _free.append(self.place // WIDTH)
            self.place = None


def note(place: int | None, number: int, end: End) -> None:
    """Note how far a report has come, in a pool process."""
    if place is not None:
        _memory[place + number] = end


def end_of(result: Sequence[object]) -> End:
    """Return the `End` that a result of Celery's tracer means."""
    if not result[0]:
        return End.KEPT
    error = getattr(result[1], "exception", None)
    error = getattr(error, "exc", error)
    if isinstance(error, Retry):
        return End.RETRIED
    return End.FAILED if isinstance(error, (NotTaken, wire.Undecodable)) else End.OPEN


def is_terminated(error: ExceptionInfo) -> bool:
    """Return whether a report of the batch was revoked with ``terminate``."""
    return isinstance(getattr(error.exception, "exc", error.exception), Terminated)


def _raised(error: Exception) -> tuple[int, ExceptionInfo, float]:
    """Return what Celery's tracer returns if a task raises an error."""
    try:
        raise error
    except Exception:
        info = ExceptionInfo()
    info.exception = error  # as it comes from a process, without its traceback
    return 1, info, 0.0


#: Results for noted outcomes whose process died before it returned them.
TOLD: dict[End, Any] = {
    End.KEPT: (0, "'done; its process died soon after'", 0.0),
    End.RETRIED: _raised(Retry("refused; its process died soon after")),
    End.FAILED: _raised(NotTaken("parked; its process died soon after")),
    End.OPEN: _raised(Reject("its process died soon after", requeue=True)),
}
