"""The worker's consumer: declares the topology, and parks what Celery cannot run.

Celery rejects such messages without a reason, and acknowledges those it cannot decode;
both are lost without a dead letter exchange.
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

from celery.exceptions import WorkerShutdown
from celery.worker.consumer.consumer import Consumer as CelerysConsumer
from celery.worker.state import maybe_shutdown
from kombu import Message
from vine import promise

from oops_celery import wire
from oops_celery.dead_letters import park
from oops_celery.receiving import adoption
from oops_celery.receiving.batches import Batches
from oops_celery.receiving.redeclaration import RefusedDeclarations
from oops_celery.receiving.refusals import TICK, refusals
from oops_celery.topology.declare import is_refusal
from oops_celery.transport import messages, troubles
from oops_celery.transport.acknowledger import Acknowledger
from oops_celery.transport.connection import Connection
from oops_celery.wire.task import TASK_NAME

#: Seconds that an event waits for others, to share a message: Celery sends a message in
#: each round of its loop, which means for every few events.
EVENTS_PAUSE = 0.1

#: Most events of a message; each has some 300 bytes.
EVENTS_AT_ONCE = 1000

#: Seconds before a message that cannot be parked is requeued: it comes again at once.
REQUEUE_PAUSE = 1.0

#: Seconds before the next connection: at first, and at most.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0

#: The same after a connection on which the worker could consume.
LOST_PAUSE = 0.1

#: Seconds after which a connection with a refusal counts as good.
GOOD_AFTER = 10.0

#: Seconds for each answer of the broker when the worker ends.
STOP_TIMEOUT = 2.0

#: Celery's ways to acknowledge and reject, which log errors.
_ANSWERED_BY = (Message.ack_log_error, Message.reject_log_error)

logger = logging.getLogger(__name__)

# Celery would log this at each lost connection, though the setting is deliberate.
warnings.filterwarnings(
    "ignore", message="(?s).*worker_cancel_long_running_tasks_on_connection_loss"
)


class Consumer(CelerysConsumer):
    """Celery's consumer that declares the topology, and parks what it cannot run."""

    first_connection_attempt: bool

    class Blueprint(CelerysConsumer.Blueprint):
        """Celery's steps, and those for the dispatcher's consumers and dead letters.

        Without the step for tasks with an ETA: it declares 28 queues on the user's
        broker, and we hold no such tasks.
        """

        default_steps = (
            *(
                step
                for step in CelerysConsumer.Blueprint.default_steps
                if "delayed_delivery" not in step and "control" not in step
            ),
            "oops_celery.receiving.control:Control",
            "oops_celery.dispatcher.lanes:Dispatching",
            "oops_celery.receiving.letters:DeadLetters",
            "oops_celery.receiving.redeclaration:Redeclaration",
            "oops_celery.receiving.watchdog:Watchdog",
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Both tell workers about each other (revoked tasks, elections), at the cost of
        # a second at the start and a queue each. We have neither.
        alone = {"without_mingle": True, "without_gossip": True}
        super().__init__(*args, **{**kwargs, **alone})
        #: Reports that wait for the pool; None in pools without batches.
        self.batches: Batches | None = None
        if self.hub and self.pool.uses_semaphore:
            self.batches = Batches(self, self.controller.places)
        #: Acknowledgements and rejections for the loop.
        self._answers: deque[Callable[[], Any]] = deque()
        self._answer_soon = promise(self._answer)
        #: When the waiting events are sent, by the monotonic clock.
        self._events_go_at = 0.0
        self._was_ready = False
        #: Since when the broker lets the worker consume, by the monotonic clock.
        self._ready_at: float | None = None
        self._next_pause = FIRST_PAUSE
        #: Whether the last connection was good until it was lost.
        self._was_lost = False
        #: What the broker refuses to declare.
        self.refused = RefusedDeclarations(self.app.topology)
        #: The last logged trouble with the broker.
        self._trouble: troubles.Trouble | None = None
        self._telling: Any = None

    def on_ready(self) -> None:
        """Note since when the broker lets the worker consume."""
        self._was_ready = True
        self._ready_at = time.monotonic()
        if self._telling is not None:  # of the previous connection
            self._telling.cancel()
        self._telling = self.timer.call_repeatedly(TICK, refusals.tell)
        super().on_ready()

    def connect(self) -> Any:
        """Connect, and declare the topology before anything is consumed."""
        connection = super().connect()
        first = connection.connection
        self.refused.note(self.app.topology.declare(connection.channel))
        queue = self.app.oops.queue
        if any(each.code == 404 and each.name == queue for each in self.refused.now):
            raise WorkerShutdown(1)
        if self.hub and connection.connection is not first:  # a refusal closed it
            connection.register_with_event_loop(self.hub)
        self._acknowledger = Acknowledger(connection.default_channel)
        messages.as_they_come(connection.default_channel, self._acknowledger)
        return connection

    def ensure_connected(self, conn: Any) -> Any:
        """Connect; retry forever, and log the reason once."""
        conf = self.app.conf
        name = "broker_connection_retry"
        if not conf[f"{name}_on_startup" if self.first_connection_attempt else name]:
            return super().ensure_connected(conn)

        def failed(error: Exception, interval: float) -> None:
            if interval:  # each of its hosts was tried
                self._met(error)

        limit = conf.broker_connection_max_retries
        conn.ensure_connection(failed, limit, callback=maybe_shutdown)
        self.first_connection_attempt = False
        return conn

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Log the error, and retry after a pause."""
        self._met(exc)
        self._pause()

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Drop the requests of this connection, and retry after a pause."""
        if self.batches:
            self.batches.connection_lost()
        self._met(exc)
        for connection in self._connections():
            connection.drop()
        super().on_connection_error_after_connected(exc)
        self._pause()

    def _connections(self) -> list[Connection]:
        """Return the connection for messages and the one for events."""
        events = self.event_dispatcher and self.event_dispatcher.connection
        return [one for one in (self.connection, events) if one is not None]

    def on_close(self) -> None:
        """Begin nothing more: the connection is lost, or the worker ends."""
        if self.batches:
            self.batches.drop_waiting()
        super().on_close()

    def _met(self, error: Exception) -> None:
        """Log a trouble with the broker, once.

        Raises:
            WorkerShutdown: The broker has refused from the start, and will go on so.
        """
        since, self._ready_at = self._ready_at, None
        if since is not None and time.monotonic() - since > GOOD_AFTER:
            self._trouble, self._next_pause = None, FIRST_PAUSE
        self._was_lost = since is not None and not is_refusal(error)
        trouble = troubles.meaning(error)
        if trouble.lasting and not self._was_ready:
            logger.critical(
                "the broker refuses: %s (%s); `oops-celery doctor` says more",
                trouble,
                error,
            )
            raise WorkerShutdown(1)
        if trouble != self._trouble:
            name = self.conninfo.as_uri()
            logger.error("%s: %s (%s); trying again", name, trouble, error)
        self._trouble = trouble

    def _pause(self) -> None:
        """Wait before the next connection: longer after each useless one.

        A network that loses connections is no reason to wait longer each time.
        """
        if self._was_lost:
            time.sleep(LOST_PAUSE)
            return
        until = time.monotonic() + self._next_pause
        self._next_pause = min(2 * self._next_pause, LONGEST_PAUSE)
        while (left := until - time.monotonic()) > 0:
            maybe_shutdown()
            time.sleep(min(left, 1))

    def connection_for_read(self, heartbeat: Any = None) -> Any:
        """Return the connection for messages."""
        connection = self.app.connection_for_read(heartbeat=heartbeat)
        connection.reads_ahead = self.hub is not None
        return self.ensure_connected(connection)

    def connection_for_write(self, url: Any = None, heartbeat: Any = None) -> Any:
        """Return the connection for events.

        In a green pool it has no heartbeats: Celery would wait 0.1 s for them after
        each frame of the other connection.
        """
        green = getattr(self.pool, "is_green", False)
        return super().connection_for_write(url, 0 if green else heartbeat)

    def call_soon(self, operation: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Call a function in the loop. Before 5.7, Celery acknowledges this way."""
        if getattr(operation, "__func__", None) in _ANSWERED_BY:
            return self.call_soon_ack(operation, *args)
        return super().call_soon(operation, *args, **more)

    def call_soon_ack(self, answer: Callable[..., Any], *args: Any, **_: Any) -> Any:
        """Acknowledge or reject a message, together with the next ones."""
        if self.hub:
            self._answers.append(partial(answer, *args))
            return self.hub.call_soon(self._answer_soon)
        try:
            answer(*args)
        except Exception:
            logger.exception("a message has no answer; the broker sends it again")
        return None

    def _answer(self) -> None:
        with self._acknowledger.together():
            while self._answers:
                self._answers.popleft()()

    def on_send_event_buffered(self) -> None:
        """Send the waiting events, a moment later."""
        now = time.monotonic()
        if self.hub and now > self._events_go_at:
            self._events_go_at = now + EVENTS_PAUSE
            self.hub.call_later(EVENTS_PAUSE, self._flush_events)

    def stop(self) -> None:
        """Send the waiting events, and stop, even if the network is frozen."""
        for connection in self._connections():
            connection.limit_waits(STOP_TIMEOUT)
        with suppress(*self.connection_errors):
            self._flush_events()
        super().stop()

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[..., None]:
        """Return the function that handles each message."""
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
            except Exception as error:  # any exception would end the consumer
                self.park(message, f"Celery cannot take it: {error!r}", error)

        return on_message

    def add_task_queue(self, queue: str, *args: Any, **options: Any) -> None:
        """Consume our queue again, and no other."""
        if queue != self.app.oops.queue:
            logger.error("queue %s is not for this worker; set OOPS_QUEUE", queue)
            return
        super().add_task_queue(queue, *args, **options)

    def park(
        self, message: Message, reason: str, error: BaseException | None = None
    ) -> None:
        """Park a message; if that fails, requeue it."""
        if message.acknowledged:
            return
        queue = self.app.oops.queue
        try:
            park.park_message(self.app, queue, message, reason, error)
        except Exception as failure:
            logger.error(
                "a message of queue %s (%s) cannot be parked, and goes back: %s",
                queue,
                reason,
                failure,
            )
            give_back = message.reject_log_error
            self.timer.call_after(
                REQUEUE_PAUSE, give_back, (logger, self.connection_errors, True)
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
    """Return why a message must not reach Celery; None if it may."""
    if message.content_type == wire.ADOPTED_CONTENT_TYPE:
        return "a message for a consumer of the dispatcher, in the queue for reports"
    if "task" in message.headers:
        # Registered tasks too: a program that sends reports must not run others.
        task = message.headers["task"]
        if task != TASK_NAME:
            return f"not a report, but a task {task!r}"
        if message.content_type != wire.CONTENT_TYPE:
            return f"a report must be {wire.CONTENT_TYPE}, not {message.content_type!r}"
    return "" if message.body else "undecodable: the body is empty"
