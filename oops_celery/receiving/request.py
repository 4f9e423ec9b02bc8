"""A message while the worker processes it: Celery would lose it at some ends."""

from __future__ import annotations

import logging
from typing import Any

import celery.worker.request
from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.exceptions import Ignore, Reject, Retry
from celery.worker import state
from celery.worker.state import task_ready

from oops_celery.dead_letters import park
from oops_celery.errors import NotTaken, Undecodable
from oops_celery.receiving import suspects
from oops_celery.receiving.refusals import refusals

#: Exceptions by which a task decides about its message, or by which it was revoked.
ANSWERS = (Reject, Ignore, Retry, Terminated)

#: Ends of a process.
_LOST = (WorkerLostError, TimeLimitExceeded, SystemExit, KeyboardInterrupt)

logger = logging.getLogger(__name__)


class Request(celery.worker.request.Request):
    """A message while the worker processes it."""

    #: Exceptions after which the task itself has settled the message.
    settled: tuple[type[BaseException], ...] = ANSWERS

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Describe the task without the content of its report."""
        return super().info(safe=True)  # type: ignore[no-any-return]

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002
        """Send an event; if that fails, nothing changes for the message."""
        try:
            super().send_event(type, **fields)
        except Exception:
            logger.exception("the event %s of %s is not sent", type, self.id)

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """Requeue a message whose task was interrupted: Celery would acknowledge it.

        A soft time limit may come at any moment, for example.
        """
        error = _error_of(exc_info)
        if isinstance(error, self.settled):
            if not isinstance(error, ANSWERS):
                self.acknowledge()  # before 5.7 Celery would reject the message
            return super().on_failure(exc_info, *args, **kwargs)
        if self._already_cancelled:
            # A signal ended its process: the message is delivered again.
            if isinstance(error, (SystemExit, KeyboardInterrupt)):
                return task_ready(self)
            return super().on_failure(exc_info, *args, **kwargs)
        task_ready(self)
        logger.error("%s goes back to its queue: %r", self.id, error)
        return self.reject(requeue=True)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Requeue a message that was too slow: before 5.7, Celery keeps it."""
        super().on_timeout(soft, timeout)
        if not soft:
            self.reject(requeue=True)


def _is_stopping() -> bool:
    """Return whether the worker is ending, and perhaps all its processes with it."""
    return any(
        told is not None and told is not False
        for told in (state.should_stop, state.should_terminate)
    )


def _error_of(exc_info: Any) -> BaseException:
    error: BaseException = getattr(exc_info.exception, "exc", exc_info.exception)
    return error


def _raised(exc_info: Any) -> Any:
    """Return the task's exception; a `Retry` itself, not its reason."""
    error = exc_info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error


class ReportRequest(Request):
    """A report while the worker processes it."""

    settled = (NotTaken, Undecodable, *ANSWERS)

    def on_success(self, failed__retval__runtime: Any, **kwargs: Any) -> Any:
        """Count a report that was taken, and forget how its processes ended before.

        Celery calls this for failures too.
        """
        if not failed__retval__runtime[0]:
            suspects.forget(self.id)
            refusals.taken()
        return super().on_success(failed__retval__runtime, **kwargs)

    def on_retry(self, exc_info: Any) -> None:
        """Count a report that was refused, and waits for its retry."""
        retry = _raised(exc_info)
        places = {
            queue.queue_arguments["x-message-ttl"] / 1000: queue.name
            for queue in self.app.topology.retry_queues(self.app.oops.queue)
        }
        place = places.get(getattr(retry, "when", None), "the worker")
        reason = getattr(retry, "message", None) or getattr(retry, "exc", retry)
        refusals.refused(str(reason), place)
        super().on_retry(exc_info)

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """Park a report whose process was interrupted or died for the second time."""
        error = _error_of(exc_info)
        if isinstance(_raised(exc_info), NotTaken):
            refusals.refused(str(error), "the dead letters")
        if isinstance(error, self.settled):
            suspects.forget(self.id)
        elif (
            not (self._already_cancelled or _is_stopping())
            and suspects.add(self.id) > 1
            and self._park(error)
        ):
            suspects.forget(self.id)
            return None
        return super().on_failure(exc_info, *args, **kwargs)

    def _park(self, error: BaseException) -> bool:
        lost = isinstance(error, _LOST)
        reason = f"its process died again: {error}" if lost else f"again: {error!r}"
        queue = self.app.oops.queue
        try:
            park.park_message(self.app, queue, self.message, reason, error)
        except Exception as failure:
            logger.error("%s cannot be parked, and goes back: %s", self.id, failure)
            return False
        task_ready(self)
        self.acknowledge()
        self.send_event("task-failed", exception=reason, traceback="")
        logger.error("parked %s: %s", self.id, reason)
        return True
