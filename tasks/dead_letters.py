"""The task that files a dead letter in the database."""

from __future__ import annotations

from functools import cache
from typing import Any

from celery import Task
from celery.exceptions import Reject

from oops_celery import wire
from oops_celery.celery import app
from oops_celery.dead_letters import park
from oops_celery.dead_letters.filing import Filing
from oops_celery.dead_letters.letter import Content
from oops_celery.errors import RepositoryError, SendError
from oops_celery.receiving.outcome import Task as OutcomeStands
from oops_celery.repository.store import Repository
from oops_celery.wire.task import FILE_DEAD_LETTER, ORIGINAL

#: Deliveries after which a letter is replaced by a copy. RabbitMQ 4 drops a message of
#: a quorum queue after 20, unless the queue has another limit
#: (https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling).
MAX_DELIVERIES = 10

#: The header with a quorum queue's count of unacknowledged deliveries.
DELIVERY_COUNT = "x-delivery-count"


@app.task(
    bind=True,
    name=FILE_DEAD_LETTER,
    serializer=wire.ADOPTED,
    Request="oops_celery.receiving.request:Request",
    Strategy="oops_celery.receiving.batches:strategy",
    base=OutcomeStands,
    ignore_result=True,
    acks_late=True,
    reject_on_worker_lost=True,
    acks_on_failure_or_timeout=False,  # before Celery 5.7, see Request
    retry_on_worker_lost=False,
    acks_on_timeout=False,
    acks_on_failure=True,
)
def file_dead_letter(self: Task, body: bytes) -> str:
    """File a dead letter; return its id.

    Raises:
        Reject: It is not filed, and the worker tries again later.
    """
    original = self.request.get(ORIGINAL) or {}
    queue = original["queue"]
    properties = dict(original["properties"])
    headers = properties.pop("headers")
    properties.pop("application_headers")
    try:
        if _deliveries(headers) >= MAX_DELIVERIES:
            _send_again(Content(body, headers, properties), queue)
            return f"again at the end of {queue}"
        return _filing().file(Content(body, headers, properties), queue).id
    except (RepositoryError, SendError) as error:
        raise Reject(f"{error}; it is filed later", requeue=True) from error


@cache
def _filing() -> Filing:
    """Return the database, in each process: that of the reports, if they are in one."""
    if app.oops.config is None and isinstance(app.oops_config, Repository):
        return Filing(app.oops_config)
    return Filing(Repository(app.oops.repository))


def _deliveries(headers: dict[str, Any]) -> int:
    count = headers.get(DELIVERY_COUNT)
    return count if isinstance(count, int) else 0


def _send_again(content: Content, queue: str) -> None:
    """Send a copy to the end of its queue: the broker counts its deliveries anew."""
    options = park.resend_options({}, content.properties)
    options["headers"] = {
        name: value
        for name, value in content.headers.items()
        if name not in (DELIVERY_COUNT, "x-acquired-count")
    }
    app.sender.send(content.body, exchange="", routing_key=queue, **options)
