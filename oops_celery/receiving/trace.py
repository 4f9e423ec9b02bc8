"""Run the reports of a batch, in a pool process, and write them together."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Callable
from typing import Any

from celery.worker.request import Request

from oops_celery.receiving.progress import TOLD, End, end_of, note
from oops_celery.repository.store import stored_together

logger = logging.getLogger(__name__)


def trace_all(
    trace: Callable[..., Any], jobs: list[tuple[Any, ...]], place: int | None
) -> tuple[list[bytes], float]:
    """Run tasks one after another, in a pool process.

    What they give to a `Repository` is written together, at the end. Until then, none
    of these counts as begun: if the process dies, nothing of them is there.

    Args:
        trace: Celery's function that runs a task and never raises.
        jobs: Its arguments for each task.
        place: Where each outcome is noted; see `progress`.

    Returns:
        Its results, pickled, and the seconds that all took. Celery's record of a
        failure holds 400 KB in cycles: pickled at once, it is collected while it is
        young.
    """
    started = time.monotonic()
    results = []
    unwritten: dict[int, End] = {}
    with stored_together() as batch:
        for number, job in enumerate(jobs):
            note(place, number, End.BEGUN)
            before = len(batch)
            result = trace(*job)
            end = end_of(result)
            if end is End.KEPT and len(batch) > before:
                unwritten[number] = end
                end = End.NOT_BEGUN
            note(place, number, end)
            results.append(pickle.dumps(result))
    try:
        batch.store()
    except Exception:  # one by one: only those that fail are retried
        for number in unwritten:
            note(place, number, End.BEGUN)
            result = trace(*jobs[number])
            unwritten[number] = end_of(result)
            results[number] = pickle.dumps(result)
    for number, end in unwritten.items():
        note(place, number, end)
    return results, time.monotonic() - started


def unpickled(result: bytes, end: End) -> Any:
    """Return the tracer's result; if it cannot be unpickled, the noted outcome."""
    try:
        return pickle.loads(result)
    except Exception as error:  # an operator's exception class may fail
        logger.warning("the end of a report cannot be read (%r): %s", error, end.name)
        return TOLD.get(end, TOLD[End.OPEN])


def job_of(request: Request) -> tuple[Any, ...]:
    """Return the arguments of Celery's function that runs a task."""
    return (
        request.type,
        request.id,
        request.request_dict,
        request.body,
        request.content_type,
        request.content_encoding,
    )
