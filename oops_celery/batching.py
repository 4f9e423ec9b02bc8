"""Reports are handed to the pool in batches: the way there costs more than the work.

Each report stays a task of its own, with its acknowledgement, its retries, its events
and its state. A report waits for nobody: a batch is what has come while every process
of the pool was busy.
"""

from __future__ import annotations

import logging
import pickle
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from celery import Task
from celery.app.trace import fast_trace_task, trace_task_ret
from celery.worker import strategy as celerys
from celery.worker.request import Request
from celery.worker.state import active_requests

#: Reports of a batch, at most: so many are done again when it loses its process.
MAX_REPORTS = 32

#: Bytes after which a batch takes no further report.
MAX_BYTES = 1_000_000

#: Seconds that a batch should take: so long may a report wait for those before it, and
#: so long does the end of a worker take.
MAX_SECONDS = 0.1

#: Seconds after which it is asked once more whether a report is still at work here.
AGAIN_PAUSE = 1.0

#: The part that a batch has in what is known of the seconds for a report.
WEIGHT = 0.3

logger = logging.getLogger(__name__)


def strategy(task: Task, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Return Celery's handler of messages, whose tasks go to the pool in batches.

    Only in the prefork pool: in the others the way to the pool costs nothing.
    """
    if consumer.controller.semaphore and consumer.pool.uses_semaphore:
        consumer = _Batching(consumer)
    return celerys.default(task, app, consumer, **options)  # type: ignore[no-any-return]


class _Batching:
    """Celery's consumer, for a strategy: its tasks wait here for a place in the pool.

    A lost connection has a new one made: what waits here then is sent again.
    """

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._places = consumer.controller.semaphore
        self._waiting: deque[Request] = deque()
        self._asked_for_place = False
        #: About, for one report.
        self._seconds = MAX_SECONDS / MAX_REPORTS

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def on_task_request(self, request: Request) -> None:
        """Have a report done."""
        if request.delivery_info["redelivered"]:
            if any(one.id == request.id for one in active_requests):
                # It came again with a new connection. One that hangs must not take
                # process after process.
                self._consumer.timer.call_after(
                    AGAIN_PAUSE, self.on_task_request, (request,)
                )
            else:
                self.alone(request)
            return
        self._waiting.append(request)
        self._ask_for_place()

    def alone(self, request: Request) -> None:
        """Have a report done that may have taken its process along: with no others."""
        self._consumer.on_task_request(request)

    def done(self, reports: int, seconds: float) -> None:
        """Learn how long reports take."""
        self._seconds += WEIGHT * (seconds / reports - self._seconds)

    def _ask_for_place(self) -> None:
        if self._waiting and not self._asked_for_place:
            self._asked_for_place = True
            self._places.acquire(self._begin)

    def _begin(self) -> None:
        """Hand the next ones over: there is a place in the pool."""
        self._asked_for_place = False
        requests = self._next()
        if requests:
            _Batch(self, requests).begin(self._consumer.pool)
        else:
            self._places.release()
        self._ask_for_place()

    def _next(self) -> list[Request]:
        limit = min(MAX_REPORTS, round(MAX_SECONDS / max(self._seconds, 1e-6)))
        requests: list[Request] = []
        size = 0
        while self._waiting and (not requests or len(requests) < limit):
            if requests and size + len(self._waiting[0].body) > MAX_BYTES:
                break
            request = self._waiting.popleft()
            if request.revoked():
                continue
            size += len(request.body)
            requests.append(request)
        return requests


class _Batch:
    """Reports that were handed to a process of the pool together."""

    def __init__(self, batching: _Batching, requests: list[Request]) -> None:
        self._batching = batching
        self._requests = requests

    def begin(self, pool: Any) -> None:
        first = self._requests[0]
        task = first.task
        trace = fast_trace_task if first.app.use_fast_trace_task else trace_task_ret
        pool.apply_async(
            trace_all,
            args=(trace, [_job(request) for request in self._requests]),
            accept_callback=self._accepted,
            timeout_callback=self._timeout,
            callback=self._finished,
            error_callback=self._lost,
            soft_timeout=task.soft_time_limit,
            timeout=task.time_limit,
            correlation_id=first.id,
        )

    def _accepted(self, pid: int, at: float) -> None:
        for request in self._requests:
            request.on_accepted(pid, at)

    def _finished(self, done: tuple[list[Any], float]) -> None:
        results, seconds = done
        self._batching.done(len(results), seconds)
        for request, result in zip(self._requests, results, strict=True):
            try:
                request.on_success(pickle.loads(result))
            except Exception:  # its neighbours have nothing to do with it
                logger.exception("%s is done, and stays with the broker", request.id)

    def _timeout(self, soft: bool, timeout: float) -> None:
        """Leave it to `_lost`, which comes after the hard limit too."""
        if len(self._requests) == 1:
            self._requests[0].on_timeout(soft, timeout)

    def _lost(self, error: Any) -> None:
        """Do them one by one: one of them took the process along, or was too slow."""
        if len(self._requests) == 1:
            self._requests[0].on_failure(error)
            return
        for request in self._requests:
            self._batching.alone(request)


def _job(request: Request) -> tuple[Any, ...]:
    """Return what Celery's function that runs a task takes."""
    return (
        request.type,
        request.id,
        request.request_dict,
        request.body,
        request.content_type,
        request.content_encoding,
    )


def trace_all(
    trace: Callable[..., Any], jobs: list[tuple[Any, ...]]
) -> tuple[list[Any], float]:
    """Run tasks one after another, in a process of the pool.

    Args:
        trace: Celery's function that runs a task, whatever happens in it.
        jobs: Its arguments for each task.

    Returns:
        What it returned for each, pickled, and the seconds that all took. Celery's
        record of a failure has 400 KB in cycles: pickled at once it is collected while
        it is young, before it adds up.
    """
    started = time.monotonic()
    return [pickle.dumps(trace(*job)) for job in jobs], time.monotonic() - started
