"""Hand reports to the pool in batches: handing over costs more than the work.

Each report stays a task of its own, with its own acknowledgement, retries, events and
state. No report waits for a batch to fill: a batch is the reports that arrived while
every pool process was busy.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import Task
from celery.app.trace import fast_trace_task, trace_task_ret
from celery.worker import strategy as celerys
from celery.worker.request import Request
from celery.worker.state import task_ready

from oops_celery.receiving import suspects
from oops_celery.receiving.delay import DELAY, Later
from oops_celery.receiving.progress import (
    TOLD,
    WIDTH,
    End,
    Progress,
    is_terminated,
)
from oops_celery.receiving.trace import job_of, trace_all, unpickled

#: Most reports of a batch.
MAX_REPORTS = WIDTH

#: Bytes after which a batch takes no more reports.
MAX_BYTES = 1_000_000

#: Seconds of work that a batch should have: a report may wait so long for those before
#: it, and the worker's end takes so long.
MAX_SECONDS = 0.1

#: Most batches that a redelivered report waits for.
MAX_WAITED = 100

#: Weight of the latest batch in the moving average of seconds per report.
WEIGHT = 0.3

#: Most outcomes of reports that lost their messages with the connection: they wait for
#: the redelivered messages.
MAX_UNTOLD = 10_000

logger = logging.getLogger(__name__)


def strategy(task: Task, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Return Celery's message handler, with tasks that go to the pool in batches.

    Only in the prefork pool: in other pools handing over costs nothing.
    """
    return celerys.default(  # type: ignore[no-any-return]
        task, app, consumer.batches or Later(consumer), **options
    )


class Batches:
    """Celery's consumer for a strategy: its tasks wait here for a place in the pool.

    A request belongs to its connection, and is dropped with it. A batch at work
    outlives the connection: the report's redelivered message gets its outcome.

    Args:
        consumer: Celery's consumer.
        others: Places of the pool that are for other tasks.
    """

    def __init__(self, consumer: Any, others: int = 0) -> None:
        self._consumer = consumer
        self._others = others
        #: Redelivered reports go alone, after new ones, and in random order: one of
        #: them may have ended the worker, and RabbitMQ puts it back in its place each
        #: time.
        self._alone: deque[Request] = deque()
        self._alone_from = 0.0
        #: Batches in a row for which these have waited.
        self._waited = 0
        self._waiting: deque[Request] = deque()
        #: Batches handed over and not ended, in order.
        self._at_work: dict[_Batch, None] = {}
        #: Reports of lost connections, at work or with an outcome to tell, by id.
        self._lost: dict[str, _Report] = {}
        #: Estimated seconds for one report.
        self._seconds = MAX_SECONDS / MAX_REPORTS

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def on_task_request(self, request: Request) -> None:
        """Hand a report to the pool, at once or with the next reports."""
        redelivered = request.delivery_info["redelivered"]
        # A retry or a replayed report is another message of the same report.
        report = self._lost.get(request.id) if redelivered else None
        if report is not None and report.digest == hash(request.body):
            del self._lost[request.id]
            report.goes_on_as(request)
            return
        if redelivered and not self._alone:
            self._alone_from = time.monotonic() + DELAY
        if redelivered:
            self._consumer.timer.call_after(DELAY, self.begin)
        (self._alone if redelivered else self._waiting).append(request)
        self.begin()

    @property
    def is_at_work(self) -> bool:
        """Whether a process works on a batch."""
        return any(one.accepted for one in self._at_work)

    def __str__(self) -> str:
        begun = sum(1 for one in self._at_work if one.accepted)
        return (
            f"{len(self._waiting) + len(self._alone)} reports wait, "
            f"{len(self._at_work)} batches are handed over, {begun} are begun"
        )

    def connection_lost(self) -> None:
        """Drop all requests: RabbitMQ delivers their messages again."""
        self.drop_waiting()
        for batch in self._at_work:
            for report in batch.reports:
                if report.request is not None:
                    report.lose_request()
                    self._lost[report.id] = report
        while len(self._lost) > MAX_UNTOLD:
            del self._lost[next(iter(self._lost))]

    def drop_waiting(self) -> None:
        """Drop the reports that wait here."""
        self._alone.clear()
        self._waiting.clear()

    def forget(self) -> None:
        """Free the places of all batches that were handed over."""
        self.connection_lost()
        self._at_work.clear()
        self._lost.clear()

    def done(self, reports: int, seconds: float) -> None:
        """Update the moving average of seconds per report."""
        self._seconds += WEIGHT * (seconds / reports - self._seconds)

    def ended(
        self,
        batch: _Batch,
        again: Sequence[_Report] = (),
        alone: Sequence[_Report] = (),
    ) -> None:
        """Give back the place of a batch, and begin the next one.

        Args:
            batch: The batch.
            again: Reports that a lost process had not begun.
            alone: Reports of which each may have ended the process.
        """
        self._at_work.pop(batch, None)
        for queue, reports in ((self._waiting, again), (self._alone, alone)):
            for report in reversed(reports):
                if report.request is not None:
                    queue.appendleft(report.request)
        for report in batch.reports:
            if report.request is None and not report.has_ended:
                self._lost.pop(report.id, None)  # it is done when it is delivered again
        self.begin()

    def begin(self) -> None:
        """Hand over waiting reports while the pool has a place."""
        places = max(self._consumer.pool.num_processes - self._others, 1)
        while len(self._at_work) < places and (requests := self._next()):
            batch = _Batch(self, requests)
            self._at_work[batch] = None
            if not batch.begin(self._consumer.pool, requests):
                self._at_work.pop(batch)  # the pool is closing: the broker keeps them
                return

    def _next(self) -> list[Request]:
        limit = min(MAX_REPORTS, round(MAX_SECONDS / max(self._seconds, 1e-6)))
        requests: list[Request] = []
        size = 0
        self._waited += 1
        may_come = time.monotonic() >= self._alone_from
        last = not self._waiting or self._waited > MAX_WAITED
        while self._alone and may_come and last:
            self._alone.rotate(random.randrange(len(self._alone)))
            request = self._alone.pop()
            if not request.revoked():
                self._waited = 0
                return [request]
        while self._waiting and (not requests or len(requests) < limit):
            if requests and size + len(self._waiting[0].body) > MAX_BYTES:
                break
            request = self._waiting.popleft()
            if request.revoked():
                continue
            size += len(request.body)
            requests.append(request)
        return requests


class _Report:
    """A report that was handed to the pool."""

    def __init__(self, batch: _Batch, request: Request) -> None:
        self._batch = batch
        self.id: str = request.id
        #: None if its connection is lost.
        self.request: Request | None = request
        #: Hash of the body of a lost one: another report may have the same id.
        self.digest = 0
        self._result: Any = None

    @property
    def has_ended(self) -> bool:
        """Whether it has an outcome."""
        return self._result is not None

    def lose_request(self) -> None:
        """Detach the report from its message: the connection is lost."""
        if self.request is not None:
            self.digest = hash(self.request.body)
            task_ready(self.request)
            self.request = None

    def goes_on_as(self, request: Request) -> None:
        """Attach the report to its redelivered message."""
        self.request = request
        if self._batch.accepted:
            request.on_accepted(*self._batch.accepted)
        if self.has_ended:
            self.end(self._result)

    def end(self, result: Any) -> None:
        """Apply the outcome from Celery's tracer, or keep it for the message."""
        self._result = result
        if self.request is not None:
            self._tell(self.request.on_success, result)

    def fail(self, error: ExceptionInfo) -> None:
        """End without an outcome, for example because its process died."""
        if self.request is None:
            suspects.add(self.id)
        else:
            self._tell(self.request.on_failure, error)

    def _tell(self, say: Callable[[Any], Any], end: Any) -> None:
        try:
            say(end)
        except Exception:  # the other reports have nothing to do with it
            logger.exception("%s is done, and stays with the broker", self.id)


class _Batch:
    """Reports that were handed to one pool process together."""

    def __init__(self, batches: Batches, requests: list[Request]) -> None:
        self._batches = batches
        self._progress = Progress()
        self.reports = [_Report(self, request) for request in requests]
        #: The process that works on it, and since when.
        self.accepted: tuple[int, float] | None = None

    def begin(self, pool: Any, requests: list[Request]) -> bool:
        """Hand the batch to the pool; return whether the pool took it."""
        first = requests[0]
        task = first.task
        fast = first.app.use_fast_trace_task
        return bool(
            pool.apply_async(
                trace_all,
                args=(
                    fast_trace_task if fast else trace_task_ret,
                    [job_of(request) for request in requests],
                    self._progress.place,
                ),
                accept_callback=self._accepted,
                timeout_callback=self._timeout,
                callback=self._finished,
                error_callback=self._lost,
                soft_timeout=task.soft_time_limit,
                timeout=task.time_limit,
                correlation_id=first.id,
            )
        )

    def _accepted(self, pid: int, at: float) -> None:
        self.accepted = (pid, at)
        for report in self.reports:
            if report.request is not None:
                report.request.on_accepted(pid, at)

    def _finished(self, done: tuple[list[bytes], float]) -> None:
        results, seconds = done
        ends = self._progress.ends(len(self.reports))
        self._progress.close()
        for report, result, end in zip(self.reports, results, ends, strict=True):
            report.end(unpickled(result, end))
        self._batches.done(len(results), seconds)
        self._batches.ended(self)

    def _timeout(self, soft: bool, timeout: float) -> None:
        kind = "soft" if soft else "hard"
        ends = self._progress.ends(len(self.reports))
        for report, end in zip(self.reports, ends, strict=True):
            if end is End.BEGUN:
                logger.warning("%s time limit (%g s): %s", kind, timeout, report.id)

    def _lost(self, error: ExceptionInfo) -> None:
        """Handle a batch whose process died, or was interrupted between two reports.

        Finished reports keep their outcome, the one at work is to blame, and the rest
        is done in another batch.
        """
        ends = self._progress.ends(len(self.reports))
        self._progress.close()
        reports = list(zip(self.reports, ends, strict=True))
        for report, end in reports:
            if end in TOLD:
                report.end(TOLD[end])
        begun = [report for report, end in reports if end is End.BEGUN]
        rest = [report for report, end in reports if end is End.NOT_BEGUN]
        if len(begun) == 1 and not (rest and is_terminated(error)):
            begun.pop().fail(error)
        self._batches.ended(self, again=rest, alone=begun)
