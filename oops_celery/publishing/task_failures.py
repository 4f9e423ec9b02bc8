"""Turn the failing tasks of an application's Celery app into reports."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from celery import Celery, signals
from celery.exceptions import (
    Ignore,
    Reject,
    Retry,
    WorkerShutdown,
    WorkerTerminate,
)
from celery.utils.serialization import UnpickleableExceptionWrapper

from oops_celery.publishing.task_arguments import arguments_of
from oops_celery.publishing.task_runs import (
    Decided,
    PoolReports,
    begin,
    first_error,
    lost_retry,
    run_of,
    with_requests,
)
from oops_celery.settings.links import url
from oops_celery.transport import reentry

if TYPE_CHECKING:
    import oops

#: The tasks of oops_celery: a report about a failed report would run in a circle.
OWN_TASKS = "oops_celery."

#: Exceptions by which a task answers, or that end a worker or a program.
_NO_FAILURES = (Reject, Ignore, Retry, WorkerShutdown, WorkerTerminate)

logger = logging.getLogger(__name__)


def report_failures(app: Celery, config: oops.Config) -> None:
    """Report each failing task of a Celery app.

    Call it where the app is made, so that every process of its workers calls it::

        app = Celery("shop")
        oops_celery.report_failures(app, config)

    Failures are Celery's: an exception, a soft or hard time limit, a lost process. Not
    failures: retries (except the last), exceptions in the task's `throws`, `Reject`,
    `Ignore`. A failure is one report with the exception of the task itself, whatever
    happens in Celery's bookkeeping: when the result backend is away, or ``on_failure``
    raises, Celery signals the failure differently, or not at all. A `BaseException`
    such as `asyncio.CancelledError` counts too; in the prefork pool it ends the
    process, and that is the failure.

    The report has the exception, its traceback, the task's name as the topic, and

    - ``task``: the task's id, name, retries, exchange, routing_key and worker; some may
      be missing after a hard time limit;
    - ``req_vars``: the arguments by name, blanked by `oops_celery.scrub`. If the sender
      described them (``argsrepr``, ``kwargsrepr``), that description.

    It is published where the failure is found: in the pool process, or in the worker's
    main process after hard time limits and lost processes. The report's id is logged,
    and is the exception's attribute ``oops_id`` for later code (the signal
    ``task_postrun``).

    A task never fails because of this, and waits for the config's publisher only:
    `oops_celery.publisher` takes 5 seconds once, then none while the broker is away.

    Args:
        app: The app. A second call for the same app replaces the config.
        config: Makes and publishes the reports.

    Raises:
        ValueError: It is the app of oops_celery, whose failures concern reports.
    """
    from oops_celery.celery import App

    app = app._get_current_object() if hasattr(app, "_get_current_object") else app
    if isinstance(app, App):
        raise ValueError(
            "report_failures is for an application's own Celery app, not for that of "
            "oops_celery"
        )
    name = f"{__name__}:{id(app)}"
    failures = _Failures(app, config)
    for signal, receiver in (
        (signals.celeryd_after_setup, failures.on_worker),
        (signals.task_received, failures.on_received),
        (signals.task_prerun, failures.on_prerun),
        (signals.task_failure, failures.on_failure),
        (signals.task_postrun, failures.on_postrun),
        (signals.task_internal_error, failures.on_internal_error),
    ):
        signal.disconnect(dispatch_uid=name)
        signal.connect(receiver, weak=False, dispatch_uid=name)


class _Failures:
    def __init__(self, app: Celery, config: oops.Config) -> None:
        self._app = app
        self._config = config
        self.decided = Decided()
        self.told = PoolReports()

    def _is_ours(self, task: Any) -> bool:
        return task.app is self._app and not task.name.startswith(OWN_TASKS)

    def on_worker(self, instance: Any = None, **_: Any) -> None:
        """Prepare the main process of a worker, before its pool is forked."""
        if instance.app is self._app:
            self.told.open()
            for task in self._app.tasks.values():
                if self._is_ours(task):
                    task.Request = with_requests(task.Request, self)

    def on_received(self, request: Any = None, **_: Any) -> None:
        """Forget earlier decisions about a task, in the main process of a worker."""
        self.decided.forget(begin(request.id, request.request_dict.get("retries")))

    def on_prerun(self, sender: Any = None, task_id: str = "", **_: Any) -> None:
        """Forget earlier decisions about a task, in the process that runs it."""
        self.decided.forget(begin(task_id, sender.request.retries))

    def on_postrun(
        self,
        sender: Any = None,
        task_id: str = "",
        args: Any = (),
        kwargs: Any = None,
        retval: Any = None,
        state: str | None = None,
        **_: Any,
    ) -> None:
        """Take an error that Celery is about to handle as the task's own."""
        if not self._is_ours(sender):
            return
        run = begin(task_id, sender.request.retries)  # a task may run other tasks
        if isinstance(retval, Reject):
            lost = lost_retry(retval)
            if lost is not None:
                self._take(sender, task_id, lost, args, kwargs)
            return
        errors, error = first_error(sys._getframe(), state)
        if not errors or (error and self._is_told_of_elsewhere(sender, error)):
            return
        if error is None or not self._take(sender, task_id, error, args, kwargs):
            self.decided.settle(run)
            self.told.tell(run)

    def _is_told_of_elsewhere(self, task: Any, error: BaseException) -> bool:
        if isinstance(error, Exception):
            return False
        if task.request.is_eager:
            return isinstance(error, KeyboardInterrupt)  # Ctrl-C
        # It ends the pool process; the main process reports that.
        return self.told.in_pool()

    def on_internal_error(
        self,
        sender: Any = None,
        task_id: str = "",
        exception: Any = None,
        args: Any = (),
        kwargs: Any = None,
        **_: Any,
    ) -> None:
        """Take an error from before the task ran."""
        if self._is_ours(sender) and not self.decided.is_settled(run_of(task_id)):
            self._take(sender, task_id, exception, args, kwargs)

    def on_request_failed(self, request: Any, exception: Any, traceback: Any) -> None:
        """Take a failure that the main process could not signal."""
        if self._is_ours(request.task):
            task, args, kwargs = request.task, request.args, request.kwargs
            about = {
                "hostname": request.hostname,
                "delivery_info": request.delivery_info,
            }
            task.push_request({**request.request_dict, **about})
            try:
                self._take(task, request.id, exception, args, kwargs, traceback)
            finally:
                task.pop_request()

    def on_failure(
        self,
        sender: Any = None,
        task_id: str = "",
        exception: Any = None,
        args: Any = (),
        kwargs: Any = None,
        traceback: Any = None,
        **_: Any,
    ) -> None:
        """Take the signal ``task_failure``; never raise."""
        if self._is_ours(sender):
            self._take(sender, task_id, exception, args, kwargs, traceback)

    def _take(
        self,
        task: Any,
        task_id: str,
        exception: Any,
        args: Any,
        kwargs: Any,
        traceback: Any = None,
    ) -> bool:
        """Report a failure, if it is one and not reported yet; never raise.

        Returns:
            Whether it is reported.
        """
        run = run_of(task_id)
        if self.decided.is_reported(run):
            return True
        if isinstance(exception, (*_NO_FAILURES, *_classes(task.throws))):
            return False
        self.decided.report(run)
        try:
            original = _original(exception)
            report = self._report(task, task_id, original, traceback)
            report["req_vars"] = arguments_of(task, task_id, args or (), kwargs or {})
            ids = self._config.publish(report)
            _tell(task.name, task_id, ids, (original, exception))
            # Not earlier: the process may be killed before this.
            self.told.tell(run)
        except (Exception, SystemExit):  # hooks and publishers may raise anything
            with reentry.publishing():
                logger.exception("task %s[%s] failed: no report", task.name, task_id)
        return True

    def _report(
        self, task: Any, task_id: str, exception: BaseException, traceback: Any
    ) -> Any:
        if not isinstance(traceback, str):
            traceback = exception.__traceback__ or ""
        exc_info: tuple[Any, BaseException, TracebackType | str]
        exc_info = (type(exception), exception, traceback)
        report = self._config.create({"exc_info": exc_info, "topic": task.name})
        report["task"] = {"id": task_id, "name": task.name}
        request = task.request
        if request.id == task_id:
            delivery = request.delivery_info or {}
            known = {
                "retries": request.retries,
                "exchange": delivery.get("exchange"),
                "routing_key": delivery.get("routing_key"),
                "worker": request.hostname,
            }
            report["task"] |= {
                key: value for key, value in known.items() if value is not None
            }
        return report


def _original(exception: Any) -> BaseException:
    """Return the raised exception, if Celery wrapped one that cannot be pickled."""
    if isinstance(exception, UnpickleableExceptionWrapper):
        return sys.exc_info()[1] or exception
    return exception  # type: ignore[no-any-return]


def _classes(throws: Any) -> tuple[type, ...]:
    return tuple(throws) if isinstance(throws, (tuple, list)) else (throws,)


def _tell(
    name: str, task_id: str, ids: Sequence[str] | None, exceptions: tuple[Any, ...]
) -> None:
    with reentry.publishing():  # a logging handler that publishes must not report it
        if ids is None:
            logger.debug("task %s[%s] failed: its report was filtered", name, task_id)
        elif ids:
            found = url(ids[-1]) or ids[-1]
            logger.error("task %s[%s] failed: %s", name, task_id, found)
        else:
            text = "task %s[%s] failed: its report is not published"
            logger.error(text, name, task_id)
    if not ids:
        return
    for exception in exceptions:
        with suppress(Exception):  # exceptions without a __dict__
            exception.oops_id = ids[-1]
