"""Send a refused report to a retry queue; after its last retry, park it.

Both are confirmed publishes of the same bytes, and both raise `SendError` if the broker
does not take them. Celery's own `retry()` hangs under a memory alarm.
"""

from __future__ import annotations

from typing import Any

from celery import Task
from celery.exceptions import Retry

from oops_celery.dead_letters import park
from oops_celery.wire.task import FIRST_FAILED_AT, TASK_NAME, task_options


def may_retry(task: Task) -> bool:
    """Return whether the report has retries left."""
    return _attempts(task) <= int(task.app.oops.max_retries)


def retry_later(task: Task, body: bytes, error: Exception) -> None:
    """Send a report to a retry queue; park it if the topology has none.

    Raises:
        Retry: The report is in a retry queue: how Celery is told.
        SendError: The broker did not take it.
    """
    app, attempts = task.app, _attempts(task)
    queues = app.topology.retry_queues(app.oops.queue)
    if not queues:
        return park_report(task, body, error)
    queue = queues[min(attempts, len(queues)) - 1]
    pause = queue.queue_arguments["x-message-ttl"] / 1000
    if not app.on_amqp:
        # Other transports know no TTL: Celery's worker holds the report.
        raise task.retry(
            exc=error, countdown=pause, max_retries=None, queue=app.oops.queue
        )
    options = _options(task, attempts)
    app.sender.send(body, exchange="", routing_key=queue.name, **options)
    raise Retry(str(error), exc=error, when=pause)


def park_report(task: Task, body: bytes, error: Exception) -> None:
    """Park a report among the dead letters, with the reason.

    Raises:
        SendError: The broker did not take it.
    """
    attempts = _attempts(task)
    options = _options(task, attempts - 1)
    park.park(
        task.app,
        task.app.oops.queue,
        body,
        str(error),
        headers=options.pop("headers"),
        properties=options,
        attempts=attempts,
        error=error,
    )


def _attempts(task: Task) -> int:
    """Return the number of this attempt, from 1. The header may hold anything."""
    retries = task.request.retries
    return retries + 1 if isinstance(retries, int) and retries >= 0 else 1


def _options(task: Task, retries: int) -> dict[str, Any]:
    """Return the headers and properties of the report's next message."""
    request = task.request
    options = task_options(
        task.app,
        TASK_NAME,
        request.id,
        request.get("argsrepr", ""),
        retries=retries,
        origin=request.get("origin"),
    )
    options["headers"][FIRST_FAILED_AT] = request.get(FIRST_FAILED_AT) or park.now()
    return options
