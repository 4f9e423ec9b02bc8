"""Take dead letters from their queues, to be filed in the database."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from kombu import Message

from oops_celery.receiving import adoption
from oops_celery.receiving.lane import Lane
from oops_celery.wire.task import FILE_DEAD_LETTER

if TYPE_CHECKING:
    from oops_celery.celery import App

#: Dead letters that the broker sends ahead: two batches.
PREFETCH = 64

#: Seconds before a letter that could not be filed is tried again. It is held meanwhile:
#: back in its queue, it would come at once, and a quorum queue counts that.
PAUSE = 5.0


def letter_queues(app: App) -> list[str]:
    """Return the queues whose messages a worker files in the database.

    They are the queue of the reports' dead letters, and those that say so in the
    topology; none if dead letters are left alone, or there is no database.
    """
    if not app.oops.files_letters or not app.on_amqp:
        return []
    topology = app.topology
    named = [queue.name for queue in topology.dead_letter_queues(app.oops.queue)]
    return list(dict.fromkeys([*named, *topology.filed]))


class DeadLetters(bootsteps.StartStopStep):
    """A step of Celery's consumer that takes the dead letters.

    Args:
        consumer: Celery's consumer.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **_: Any) -> None:
        self._lanes = [
            LetterLane(consumer, queue) for queue in letter_queues(consumer.app)
        ]

    def start(self, consumer: Any) -> None:
        """Consume; called again after each lost connection."""
        for lane in self._lanes:
            consumer.call_soon(lane.open, consumer.connection)

    def stop(self, _: Any) -> None:
        """Take no more."""
        for lane in self._lanes:
            lane.stop()

    def shutdown(self, _: Any) -> None:
        """Leave those that are not filed in their queues."""
        for lane in self._lanes:
            lane.close()


class LetterLane(Lane):
    """Takes dead letters from one queue.

    Args:
        consumer: Celery's consumer.
        queue: The queue.
    """

    logger = logging.getLogger(__name__)

    def __init__(self, consumer: Any, queue: str) -> None:
        super().__init__(consumer, queue, PREFETCH, FILE_DEAD_LETTER)

    def _handler(self, task: Any) -> Callable[..., Any]:
        return task.start_strategy(self._celery.app, self._celery)  # type: ignore[no-any-return]

    def _on_message(self, message: Message) -> None:
        try:
            app = self._celery.app
            adoption.adopt_message(app, message, self._task, queue=self._queue)
            self._begin(message)
        except Exception:  # any exception would end Celery's consumer
            self.logger.exception("a dead letter of queue %s is held", self._queue)

    def _begin(self, message: Message) -> None:
        if not self._has_come_over(message):
            return
        celery = self._celery

        def acknowledge(*args: Any) -> None:
            celery.call_soon_ack(self._acknowledge, message, *args)

        def reject(*_: Any) -> None:
            celery.call_soon(self._hold, message)

        assert self._receive is not None
        self._receive(message, None, acknowledge, reject, celery.on_task_message)

    def _acknowledge(self, message: Message, *args: Any) -> None:
        if self._has_come_over(message):
            message.ack_log_error(*args)

    def _hold(self, message: Message) -> None:
        """Try again later. When the channel closes, it is back in its queue."""
        self._celery.timer.call_after(
            PAUSE, self._celery.call_soon, (self._begin, message)
        )
