"""The worker's consumer: declares the topology, and parks what Celery cannot run.

Celery rejects such messages without saying why, and acknowledges those it cannot
decode; both are lost where no dead letter exchange is set.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import celery.worker.request
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.exceptions import Ignore, Reject, Retry, WorkerShutdown
from celery.worker import state
from celery.worker.consumer.consumer import Consumer as CelerysConsumer
from celery.worker.state import task_ready
from kombu import Message
from vine import promise

from oops_celery import adoption, deadletters, incoming, suspects, wire
from oops_celery.acknowledging import Acknowledger
from oops_celery.batching import Batches
from oops_celery.celery import Connection
from oops_celery.consumers import ConsumerFailed
from oops_celery.publishing import TASK_NAME
from oops_celery.receiving import NotTaken

#: Seconds that an event waits for others, to go with them in one message: Celery sends
#: a message in each round of its loop, which is for each few events.
EVENTS_PAUSE = 0.1

#: Events in a message, at most; each has some 300 bytes.
EVENTS_AT_ONCE = 1000

#: Seconds before a message that cannot be parked goes back: it comes again at once.
GIVE_BACK_PAUSE = 1.0

#: Seconds before a broker that has refused something is asked again.
REFUSED_PAUSE = 2.0

#: Seconds that the broker may take for each answer when the worker ends.
STOP_TIMEOUT = 2.0

#: What a task raises to say what becomes of its message; and a revoked one's end.
_ANSWERS = (Reject, Ignore, Retry, Terminated)

#: Ends of a process.
_LOST = (WorkerLostError, TimeLimitExceeded, SystemExit, KeyboardInterrupt)

logger = logging.getLogger(__name__)

# Celery repeats it at each lost connection, though the setting is chosen.
warnings.filterwarnings(
    "ignore", message="(?s).*worker_cancel_long_running_tasks_on_connection_loss"
)


class Consumer(CelerysConsumer):
    """Celery's consumer; it declares the topology, and parks what it cannot run."""

    class Blueprint(CelerysConsumer.Blueprint):
        """Celery's steps, and one for the dispatcher's consumers.

        Without the one for tasks with an ETA: it declares 28 queues on the user's
        broker, and we hold no such tasks.
        """

        default_steps = (
            *(
                step
                for step in CelerysConsumer.Blueprint.default_steps
                if "delayed_delivery" not in step
            ),
            "oops_celery.dispatching:Dispatching",
            "oops_celery.watchdog:Watchdog",
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Both tell workers of one another, by a second at the start and a queue each:
        # of revoked tasks, and of elections. We have neither.
        alone = {"without_mingle": True, "without_gossip": True}
        super().__init__(*args, **{**kwargs, **alone})
        #: Where reports wait for the pool; None where they need not.
        self.batches: Batches | None = None
        if self.hub and self.pool.uses_semaphore:
            consumers = self.app.topology.consumers
            self.batches = Batches(self, sum(one.consumer_count for one in consumers))
        #: Acknowledgements and rejections, until the loop comes to them.
        self._answers: deque[Callable[[], Any]] = deque()
        self._answer_soon = promise(self._answer)
        #: When the events that wait are sent, by the monotonic clock.
        self._events_go_at = 0.0
        self._was_ready = False

    def on_ready(self) -> None:
        """Know that the broker has let it receive."""
        self._was_ready = True
        super().on_ready()

    def connect(self) -> Any:
        """Connect, and declare the topology before anything is consumed."""
        connection = super().connect()
        topology = self.app.topology
        for problem in topology.warnings:
            logger.warning("%s: %s", topology.source, problem)
        for refusal in topology.declare(connection.channel):
            logger.error("%s: %s", topology.source, refusal)
            if refusal.code == 404 and refusal.name == self.app.oops.queue:
                raise WorkerShutdown(1)
        self._acknowledger = Acknowledger(connection.default_channel)
        incoming.as_they_come(connection.default_channel, self._acknowledger)
        return connection

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Try again; see `_refused`."""
        self._refused(exc)
        super().on_connection_error_before_connected(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Drop what came over this connection, and try again; see `_refused`."""
        if self.batches:
            self.batches.connection_lost()
        self._refused(exc)
        for connection in self._connections():
            connection.drop()
        super().on_connection_error_after_connected(exc)

    def _connections(self) -> list[Connection]:
        """Return the one that messages come over, and the one for events."""
        events = self.event_dispatcher and self.event_dispatcher.connection
        return [one for one in (self.connection, events) if one is not None]

    def on_close(self) -> None:
        """Begin nothing more of what came: the connection is lost, or we stop."""
        if self.batches:
            self.batches.drop_waiting()
        super().on_close()

    def _refused(self, error: Exception) -> None:
        """Do not ask a broker that refuses (rights, a password) without a pause.

        Raises:
            WorkerShutdown: It has refused from the start, and is likely to go on so.
        """
        if not isinstance(error, self.channel_errors):
            return
        if not self._was_ready:
            logger.critical(
                "the broker refuses: %s; `oops-celery doctor` says what is missing",
                error,
            )
            raise WorkerShutdown(1)
        time.sleep(REFUSED_PAUSE)

    def connection_for_write(self, url: Any = None, heartbeat: Any = None) -> Any:
        """Return the connection for events.

        In a green pool it has no heartbeats: Celery would wait for them for 0.1 s
        after each frame of the other connection.
        """
        green = getattr(self.pool, "is_green", False)
        return super().connection_for_write(url, 0 if green else heartbeat)

    def call_soon_ack(self, answer: Callable[..., Any], *args: Any, **_: Any) -> Any:
        """Acknowledge or reject a message, together with those that are next."""
        if not self.hub:
            return super().call_soon_ack(answer, *args)
        self._answers.append(partial(answer, *args))
        return self.hub.call_soon(self._answer_soon)

    def _answer(self) -> None:
        with self._acknowledger.together():
            while self._answers:
                self._answers.popleft()()

    def on_send_event_buffered(self) -> None:
        """Send the events that wait, in a moment."""
        now = time.monotonic()
        if self.hub and now > self._events_go_at:
            self._events_go_at = now + EVENTS_PAUSE
            self.hub.call_later(EVENTS_PAUSE, self._flush_events)

    def stop(self) -> None:
        """Send the events that wait, and stop, also where the network is frozen."""
        for connection in self._connections():
            connection.limit_waits(STOP_TIMEOUT)
        with suppress(*self.connection_errors):
            self._flush_events()
        super().stop()

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[..., None]:
        """Return the function that is called with each message."""
        handle = super().create_task_handler(*args, **kwargs)
        if self.event_dispatcher:
            self.event_dispatcher.buffer_limit = EVENTS_AT_ONCE

        def on_message(message: Message) -> None:
            try:
                problem = _problem(message)
                if problem:
                    self.park(message, problem)
                else:
                    adoption.adopt_report(self.app, message)
                    handle(message)
            except self.connection_errors:
                raise
            except wire.Undecodable as error:
                self.park(message, f"undecodable: {error}")
            except Exception as error:  # anything else would end the consumer
                self.park(message, f"Celery cannot take it: {error!r}", error)

        return on_message

    def park(
        self, message: Message, reason: str, error: BaseException | None = None
    ) -> None:
        """Put a message to the dead letters; if that fails, back to its queue."""
        if message.acknowledged:
            return
        queue = self.app.oops.queue
        try:
            deadletters.park_message(self.app, queue, message, reason, error)
        except Exception as failure:
            logger.error(
                "a message of queue %s (%s) cannot be parked, and goes back: %s",
                queue,
                reason,
                failure,
            )
            give_back = message.reject_log_error
            self.timer.call_after(
                GIVE_BACK_PAUSE, give_back, (logger, self.connection_errors, True)
            )
            return
        message.ack_log_error(logger, self.connection_errors)
        logger.error("parked a message of queue %s: %s", queue, reason)

    def on_invalid_task(self, body: Any, message: Message, exc: Exception) -> None:
        """Park a task that Celery cannot run."""
        self.park(message, f"invalid task: {exc}", exc)

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        """Park a message that nothing can read."""
        self.park(message, f"cannot be decoded: {exc}", exc)


def _problem(message: Message) -> str:
    """Say what is wrong with a message that must not even be given to Celery."""
    if message.content_type == wire.ADOPTED_CONTENT_TYPE:
        return "a message for a consumer of the dispatcher, in the queue for reports"
    if "task" in message.headers:
        # Also a task that there is: whoever sends reports must not run any other.
        task = message.headers["task"]
        if task != TASK_NAME:
            return f"not a report, but a task {task!r}"
        if message.content_type != wire.CONTENT_TYPE:
            return f"a report must be {wire.CONTENT_TYPE}, not {message.content_type!r}"
    return "" if message.body else "undecodable: the body is empty"


class Request(celery.worker.request.Request):
    """A message at work in the worker."""

    #: Ends of a message that is settled: somewhere else, or answered, by the task.
    settled: tuple[type[BaseException], ...] = (ConsumerFailed, *_ANSWERS)

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Tell about the task, and never about what is in the report."""
        return super().info(safe=True)  # type: ignore[no-any-return]

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """Give back a message that ended by chance: Celery would acknowledge it.

        A soft time limit, say, may come at any moment.
        """
        error = _error_of(exc_info)
        if isinstance(error, (*self.settled, *_LOST)) or self._already_cancelled:
            return super().on_failure(exc_info, *args, **kwargs)
        task_ready(self)
        logger.error("%s goes back to its queue: %r", self.id, error)
        return self.reject(requeue=True)


def _is_stopping() -> bool:
    """Whether the worker was told to end, and perhaps all its processes with it."""
    return any(
        told is not None and told is not False
        for told in (state.should_stop, state.should_terminate)
    )


def _error_of(exc_info: Any) -> BaseException:
    error: BaseException = getattr(exc_info.exception, "exc", exc_info.exception)
    return error


class ReportRequest(Request):
    """A report at work in the worker."""

    settled = (NotTaken, wire.Undecodable, *_ANSWERS)

    def on_success(self, failed__retval__runtime: Any, **kwargs: Any) -> Any:
        """Know nothing against a report that has an outcome."""
        if not failed__retval__runtime[0]:
            suspects.forget(self.id)
        return super().on_success(failed__retval__runtime, **kwargs)

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """Park a report that ended by chance, or took its process along, once more."""
        error = _error_of(exc_info)
        if isinstance(error, self.settled):
            suspects.forget(self.id)
        elif (
            not (self._already_cancelled or _is_stopping())
            and suspects.add(self.id) > 1
            and self._is_parked(error)
        ):
            suspects.forget(self.id)
            return None
        return super().on_failure(exc_info, *args, **kwargs)

    def _is_parked(self, error: BaseException) -> bool:
        lost = isinstance(error, _LOST)
        reason = f"its process died again: {error}" if lost else f"again: {error!r}"
        queue = self.app.oops.queue
        try:
            deadletters.park_message(self.app, queue, self.message, reason, error)
        except Exception as failure:
            logger.error("%s cannot be parked, and goes back: %s", self.id, failure)
            return False
        task_ready(self)
        self.acknowledge()
        self.send_event("task-failed", exception=reason, traceback="")
        logger.error("parked %s: %s", self.id, reason)
        return True
