"""The task that carries a report: give it to the repository's publisher."""

from __future__ import annotations

import logging
import time
from contextlib import suppress

from celery import Task
from celery.exceptions import Reject, Retry, SoftTimeLimitExceeded

from oops_celery import wire
from oops_celery.celery import app
from oops_celery.errors import NotTaken, SendError
from oops_celery.receiving.outcome import Task as OutcomeStands
from oops_celery.receiving.receive import receive
from oops_celery.receiving.retries import may_retry, park_report, retry_later
from oops_celery.wire.task import TASK_NAME

logger = logging.getLogger(__name__)

#: Seconds before a report goes back to its queue if it can be neither stored, nor
#: retried, nor parked: it comes again at once.
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
    # When Celery sees the failure, a confirmed publish has parked the report.
    acks_on_failure=True,
)
def republish(self: Task, body: bytes) -> list[str] | None:
    """Give a report to the operator's config.

    Returns:
        The ids that its publishers returned; None if it was filtered.
    """
    try:
        return receive(app.oops_config, body)
    except wire.Undecodable as error:
        failure: Exception = error
        step = park_report
    except Exception as error:
        failure = NotTaken(str(error))
        failure.__cause__ = error
        step = retry_later if may_retry(self) else park_report
    try:
        step(self, body, failure)
    except Retry:
        raise
    except Exception as error:
        # A report is acknowledged only when it is somewhere else.
        if not isinstance(error, SendError):
            logger.exception("%s can be neither retried nor parked", self.request.id)
        with suppress(SoftTimeLimitExceeded):
            time.sleep(REJECT_PAUSE)
        raise Reject(f"{error}; goes back to its queue", requeue=True) from error
    raise failure
