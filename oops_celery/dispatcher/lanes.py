"""Consume the queues of ``consumers:``, each on its own channel with its own limits."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.worker import state, strategy
from kombu import Message
from kombu.common import ignore_errors

from oops_celery.dispatcher.backoff import Backoff
from oops_celery.dispatcher.instances import Kind
from oops_celery.dispatcher.runners import (
    LoopRunner,
    MainLoopCalls,
    PoolRunner,
    Runner,
    ThreadRunner,
)
from oops_celery.receiving import adoption
from oops_celery.receiving.lane import Lane
from oops_celery.topology.imports import import_object

if TYPE_CHECKING:
    from oops_celery.dispatcher.request import MessageRequest
    from oops_celery.topology.model import ConsumerEntry

#: Most bytes of a consumer tag before its unique suffix. AMQP 0-9-1 allows 255 bytes.
MAX_TAG = 200

#: Seconds between two checks whether the consumers have ended, when the worker ends.
POLL = 0.02

logger = logging.getLogger("amqp-dispatcher")


class Dispatching(bootsteps.StartStopStep):
    """A step of Celery's consumer that consumes for the dispatcher's consumers.

    Args:
        consumer: Celery's consumer.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **_: Any) -> None:
        entries = consumer.app.topology.consumers
        self._told = MainLoopCalls(consumer.hub, self._together)
        self._lanes = [
            ConsumerLane(consumer, entry, self._runner(consumer, entry))
            for entry in entries
        ]

    def _runner(self, consumer: Any, entry: ConsumerEntry) -> Runner:
        if entry.prefork:
            return PoolRunner(entry.consumer_count, consumer.on_task_request)
        kind = Kind(partial(import_object, entry.consumer), entry.consumer)
        runs = LoopRunner if kind.is_async else ThreadRunner
        publish = consumer.app.sender.send
        return runs(entry.consumer_count, kind, publish, self._told)

    @contextmanager
    def _together(self) -> Iterator[None]:
        with ExitStack() as stack:
            for lane in self._lanes:
                stack.enter_context(lane.together())
            yield

    def start(self, consumer: Any) -> None:
        """Consume; called again after each lost connection.

        Consuming begins when the loop runs: before that the pool takes no messages.
        """
        self._told.listen(consumer.hub)
        for lane in self._lanes:
            consumer.call_soon(lane.open, consumer.connection)

    def stop(self, _: Any) -> None:
        """Begin nothing more."""
        for lane in self._lanes:
            lane.stop()

    def shutdown(self, consumer: Any) -> None:
        """End the consumers, and requeue messages that were not begun.

        Messages that take longer than ``OOPS_SHUTDOWN_TIMEOUT`` are requeued too.
        """
        until = time.monotonic() + consumer.app.oops.shutdown_timeout
        if not state.should_terminate:
            for lane in self._lanes:
                lane.end()
            while not all(lane.has_ended for lane in self._lanes):
                if time.monotonic() > until or state.should_terminate:
                    logger.warning("some consumers have not ended: left alone")
                    break
                self._tell(consumer)
                time.sleep(POLL)
            self._tell(consumer)
        for lane in self._lanes:
            lane.close()

    def _tell(self, consumer: Any) -> None:
        """Call what threads told, and keep the connection alive."""
        if connection := consumer.connection:
            ignore_errors(connection, connection.heartbeat_check)
            ignore_errors(connection, self._told.do)
        else:
            self._told.do()


class ConsumerLane(Lane):
    """Consumes one entry of ``consumers:`` on its own channel.

    The broker sends ``prefetch_count`` messages ahead. At most ``consumer_count`` are
    at work at once, even while messages of a lost connection are finished.

    Args:
        consumer: Celery's consumer.
        entry: The entry.
        runner: Runs its messages.
    """

    logger = logger

    def __init__(self, consumer: Any, entry: ConsumerEntry, runner: Runner) -> None:
        super().__init__(consumer, entry.queue, entry.prefetch_count, entry.consumer)
        self._runner = runner
        self._backoff = Backoff()

    def _handler(self, task: Any) -> Callable[..., Any]:
        taking = _Taking(self._celery, self._take)
        return strategy.default(task, self._celery.app, taking)  # type: ignore[no-any-return]

    def _tag(self) -> str:
        """Return the consumer tag, as in amqp-dispatcher 1.x; RabbitMQ shows it."""
        job, place = map(os.environ.get, ("NOMAD_JOB_NAME", "NOMAD_ALLOC_ID"))
        who = f"{job or ''}.{place or ''}" if job or place else self._celery.hostname
        letters = "".join(random.choices(ascii_lowercase, k=10))
        kind = f"{who}-[{self._task}]".encode()[:MAX_TAG]
        return f"{kind.decode(errors='ignore')}-{letters}"

    def stop(self) -> None:
        """Begin nothing more; running messages are finished."""
        self._runner.drop()
        super().stop()

    def end(self) -> None:
        """Shut the consumers down after their current messages."""
        self.stop()
        self._runner.close()

    @property
    def has_ended(self) -> bool:
        """Whether its consumers are shut down."""
        return self._runner.is_closed

    def together(self) -> AbstractContextManager[None]:
        """Collect the block's acknowledgements, and send as few frames as possible."""
        return self._acknowledger.together() if self._acknowledger else nullcontext()

    def _on_message(self, message: Message) -> None:
        celery, runner = self._celery, self._runner
        # Runners of this process call in the main loop; a pool calls in any thread.
        soon = _at_once if runner.in_process else celery.call_soon_ack

        def acknowledge(*args: Any) -> None:
            soon(self._acknowledge, message, *args)
            runner.ended(message)

        def reject(*args: Any) -> None:
            soon(self._reject, message, *args)
            runner.ended(message)

        try:
            adoption.adopt_message(celery.app, message, self._task)
            assert self._receive is not None
            self._receive(message, None, acknowledge, reject, celery.on_task_message)
        except Exception:  # any exception would end Celery's consumer
            logger.exception("a message of queue %s goes back", self._queue)
            self._reject(message, logger, celery.connection_errors, True)

    def _take(self, request: MessageRequest) -> None:
        request.in_process = self._runner.in_process
        self._runner.put(request)

    def _acknowledge(self, message: Message, *args: Any) -> None:
        self._backoff.forget(message)
        if self._has_come_over(message):
            message.ack_log_error(*args)

    def _reject(
        self, message: Message, log: Any, errors: Any, requeue: bool = False
    ) -> None:
        pause = self._backoff.pause(message) if requeue else 0.0
        if pause:
            again = (message, log, errors)
            self._celery.timer.call_after(pause, self._give_back, again)
        elif self._has_come_over(message):
            message.reject_log_error(log, errors, requeue)

    def _give_back(self, message: Message, log: Any, errors: Any) -> None:
        if self._has_come_over(message):
            message.reject_log_error(log, errors, True)


class _Taking:
    """Celery's consumer for a strategy: its tasks go to a lane."""

    def __init__(self, consumer: Any, take: Callable[[MessageRequest], None]) -> None:
        self._consumer = consumer
        self.on_task_request = take

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)


def _at_once(answer: Callable[..., Any], *args: Any) -> None:
    answer(*args)
