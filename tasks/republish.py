"""The task that a report travels as: receive it, and republish it where it is kept."""

from __future__ import annotations

import logging
import time
from contextlib import suppress

from celery import Task
from celery.exceptions import Reject, Retry, SoftTimeLimitExceeded

from oops_celery import wire
from oops_celery.celery import app
from oops_celery.dead_letters import park
from oops_celery.errors import NotTaken, SendError
from oops_celery.receiving import receive
from oops_celery.receiving.outcome import Task as OutcomeStands
from oops_celery.wire.task import FIRST_FAILED_AT, TASK_NAME, task_options

logger = logging.getLogger(__name__)

#: Seconds before a report goes back to its queue when it can be neither kept, nor
#: retried later, nor parked: it comes again at once.
REJECT_PAUSE = 1.0


@app.task(
    bind=True,
    name=TASK_NAME,
    serializer=wire.SERIALIZER,
    Request="oops_celery.receiving.request:ReportRequest",
    Strategy="oops_celery.receiving.batches:strategy",
    base=OutcomeStands,
    ignore_result=True,
    acks_late=True,
    reject_on_worker_lost=True,
    acks_on_failure_or_timeout=False,  # before Celery 5.7, see Request
    retry_on_worker_lost=False,
    acks_on_timeout=False,
    # A failure has been parked, by a confirmed publish, when Celery hears of it.
    acks_on_failure=True,
)
def republish(self: Task, body: bytes) -> list[str] | None:
    """Give a report to the operator's config.

    Returns:
        The ids that its publishers gave; None when it was filtered.
    """
    try:
        return receive.receive(app.oops_config, body)
    except wire.Undecodable as error:
        failure: Exception = error
        step = _park
    except Exception as error:
        failure = NotTaken(str(error))
        failure.__cause__ = error
        step = _retry_later if _attempts(self) <= app.oops.max_retries else _park
    try:
        step(self, body, failure)
    except Retry:
        raise
    except Exception as error:
        # Nothing is acknowledged before it is somewhere else.
        if not isinstance(error, SendError):
            logger.exception("%s can be neither retried nor parked", self.request.id)
        with suppress(SoftTimeLimitExceeded):
            time.sleep(REJECT_PAUSE)
        raise Reject(f"{error}; goes back to its queue", requeue=True) from error
    raise failure


def _attempts(task: Task) -> int:
    """Return the number of this try, from 1. The header may hold anything."""
    retries = task.request.retries
    return retries + 1 if isinstance(retries, int) and retries >= 0 else 1


def _retry_later(task: Task, body: bytes, error: Exception) -> None:
    """Send the report to a retry queue: RabbitMQ holds it, not the worker's memory."""
    attempts = _attempts(task)
    queues = app.topology.retry_queues(app.oops.queue)
    if not queues:
        return _park(task, body, error)
    queue = queues[min(attempts, len(queues)) - 1]
    pause = queue.queue_arguments["x-message-ttl"] / 1000
    if not app.on_amqp:
        # Other transports know no TTL: Celery's worker holds the report.
        raise task.retry(
            exc=error, countdown=pause, max_retries=None, queue=app.oops.queue
        )
    options = task_options(
        app,
        TASK_NAME,
        task.request.id,
        task.request.get("argsrepr", ""),
        retries=attempts,
        origin=task.request.get("origin"),
    )
    options["headers"][FIRST_FAILED_AT] = _first_failed_at(task)
    app.sender.send(body, exchange="", routing_key=queue.name, **options)
    raise Retry(str(error), exc=error, when=pause)


def _park(task: Task, body: bytes, error: Exception) -> None:
    request = task.request
    options = task_options(
        app,
        TASK_NAME,
        request.id,
        request.get("argsrepr", ""),
        retries=_attempts(task) - 1,
        origin=request.get("origin"),
    )
    headers = {
        **options.pop("headers"),
        FIRST_FAILED_AT: _first_failed_at(task),
    }
    park.park(
        app,
        app.oops.queue,
        body,
        str(error),
        headers=headers,
        properties=options,
        attempts=_attempts(task),
        error=error,
    )


def _first_failed_at(task: Task) -> str:
    return task.request.get(FIRST_FAILED_AT) or park.now()
