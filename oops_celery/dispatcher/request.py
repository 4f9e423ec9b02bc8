"""A message of a ``consumers:`` queue while the worker processes it."""

from __future__ import annotations

import logging
from typing import Any

from celery.worker.state import task_ready

from oops_celery.dispatcher.instances import Outcome
from oops_celery.dispatcher.proxy import Answer
from oops_celery.errors import ConsumerFailed
from oops_celery.receiving.request import ANSWERS, Request

logger = logging.getLogger(__name__)


class MessageRequest(Request):
    """A message that a consumer processes, in this process or in one of the pool."""

    settled = (ConsumerFailed, *ANSWERS)

    #: Whether it is processed in this process, not in one of the pool.
    in_process = False

    def on_outcome(self, outcome: Outcome) -> None:
        """Apply the outcome of a message that was processed in this process."""
        if outcome.error is None and outcome.answer is Answer.ACK:
            self.on_success((0, None, outcome.seconds))
            return
        task_ready(self)
        if outcome.answer is not Answer.ACK:
            self.reject(requeue=outcome.answer is Answer.REQUEUE)
        else:
            self.acknowledge()
        if outcome.error is not None and outcome.answer is not Answer.REQUEUE:
            self.send_event("task-failed", exception=outcome.reason, traceback="")

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """Terminate the process that processes it, if that is one of the pool."""
        if self.in_process:
            logger.warning("%s is not ended: prefork: true would allow it", self.id)
        else:
            super().terminate(pool, signal)

    def cancel(self, pool: Any, *args: Any, **kwargs: Any) -> None:
        """Terminate the process that processes it, if that is one of the pool."""
        if not self.in_process:
            super().cancel(pool, *args, **kwargs)
