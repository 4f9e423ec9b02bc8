"""Tasks whose outcome counts, whatever happens in Celery's bookkeeping after it.

When a task has ended, its message is settled: a confirmed publish has stored the report
or sent it to a retry queue. Then Celery stores a result, calls signal handlers and
writes its log. If that fails, or a soft time limit comes at that moment, Celery makes a
failure of it, and its request would settle the message a second time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import celery
from billiard.einfo import ExceptionInfo
from celery.app.trace import trace_ok_t
from celery.utils.saferepr import saferepr

logger = logging.getLogger(__name__)

#: The outcome of the task in this thread or greenlet, once it has ended: what it
#: returned, and what it raised.
_outcome: ContextVar[list[tuple[Any, BaseException | None]]] = ContextVar("outcome")


class Task(celery.Task):
    """A task whose outcome counts."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task, and remember its outcome."""
        ended = _outcome.get([])
        try:
            returned = self.run(*args, **kwargs)
        except BaseException as error:
            ended.append((None, error))
            raise
        ended.append((returned, None))
        return returned

    @property
    def __trace__(self) -> Callable[..., Any] | None:
        """Celery's function that runs the task, wrapped to keep its outcome."""
        return self._trace

    @__trace__.setter
    def __trace__(self, tracer: Callable[..., Any] | None) -> None:
        self._trace = tracer and partial(_trace, self, tracer)

    _trace: Callable[..., Any] | None = None


def _trace(
    task: Task, tracer: Callable[..., Any], task_id: str, *args: Any, **kwargs: Any
) -> Any:
    """Return Celery's result for the task's own outcome, whatever fails after it."""
    started = time.monotonic()
    ended: list[tuple[Any, BaseException | None]] = []
    token = _outcome.set(ended)
    try:
        traced = tracer(task_id, *args, **kwargs)
        trouble = traced.info and traced.info.retval
    except (SystemExit, KeyboardInterrupt):
        raise  # the process ends
    except BaseException as error:
        if not ended:
            raise
        traced, trouble = None, error
    finally:
        _outcome.reset(token)
    if not ended:
        return traced
    returned, raised = ended[0]
    if trouble is raised:
        return traced
    logger.error("%s has ended; after that Celery failed: %r", task_id, trouble)
    if raised is None:
        shown = saferepr(returned, task.resultrepr_maxsize)
        return trace_ok_t(returned, None, time.monotonic() - started, shown)
    info = ExceptionInfo((type(raised), raised, raised.__traceback__))
    return trace_ok_t(info, True, 0.0, None)
