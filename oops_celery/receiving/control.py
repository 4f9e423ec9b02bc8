"""Celery's control queue: a worker takes it when it can, and does without until then.

The queue has the worker's name, and RabbitMQ lets one connection have it. So it is
locked while a worker of that name still has a connection: one that is frozen, or whose
host is lost, until its heartbeats are missed. That must not keep reports waiting.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import amqp
from celery.worker.consumer.control import Control as CelerysControl
from celery.worker.pidbox import Pidbox, gPidbox

from oops_celery.topology.declare import is_refusal
from oops_celery.transport import troubles

#: Seconds before a control queue that was refused is asked for again.
CONTROL_PAUSE = 5.0

#: Seconds before that if the refusal closed the connection, which is that of the
#: reports: at first, and at most. Then it waits for the next connection.
FIRST_LONG_PAUSE = 60.0
LONGEST_PAUSE = 3600.0

#: Seconds that each answer of the broker may take: the worker's loop stands still.
CONTROL_TIMEOUT = 5.0

logger = logging.getLogger(__name__)


class Control(CelerysControl):
    """Celery's step for control messages, which goes without a queue that is refused.

    Args:
        c: Celery's consumer.
    """

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        self.box = (GreenMailbox if self.is_green else Mailbox)(c)
        self.start = self.box.start
        self.stop = self.box.stop
        self.shutdown = self.box.shutdown


class _Saying:
    """Says once that the queue is refused, and once that it was taken after all."""

    hostname: str

    def __init__(self, c: Any) -> None:
        super().__init__(c)  # type: ignore[call-arg]
        self._said: troubles.Trouble | None = None

    def refused(self, error: BaseException) -> None:
        trouble = troubles.meaning(error)
        if trouble != self._said:
            logger.warning(
                "this worker takes reports, but no control messages (celery inspect,"
                " Flower, doctor) for now: %s; if another worker is named %s, give one"
                " of them another name with -n",
                trouble,
                self.hostname,
            )
        self._said = trouble

    def taken(self) -> None:
        if self._said is not None:
            logger.warning("control messages are taken again")
        self._said = None


class Mailbox(_Saying, Pidbox):
    """The control queue, on a channel of the connection that takes the reports."""

    def __init__(self, c: Any) -> None:
        super().__init__(c)
        self._not_before = 0.0
        self._long_pause = FIRST_LONG_PAUSE

    def start(self, c: Any) -> None:
        """Take the queue; if it is refused, try again later."""
        if time.monotonic() < self._not_before:
            return
        try:
            super().start(c)
        except amqp.AMQPError as error:
            if not is_refusal(error):
                raise
            self.refused(error)
            if not c.connection.connected:
                self._not_before = time.monotonic() + self._long_pause
                self._long_pause = min(2 * self._long_pause, LONGEST_PAUSE)
                text = "the broker refuses the control queue, and closed the connection"
                raise amqp.RecoverableConnectionError(text) from None
            self._close_channel(c)
            c.timer.call_after(CONTROL_PAUSE, self._start_again, (c, c.connection))
        else:
            self.taken()

    def _start_again(self, c: Any, connection: Any) -> None:
        current = c.connection is connection and connection.connected
        if current and self.consumer is None:
            with connection.connection.transport.having_timeout(CONTROL_TIMEOUT):
                self.start(c)


class GreenMailbox(_Saying, gPidbox):
    """The control queue of a green pool: own connection, own greenlet."""

    def loop(self, c: Any) -> None:
        """Take control messages; after a refusal, or a lost connection, again."""
        while True:
            try:
                super().loop(c)
            except (*c.connection_errors, *c.channel_errors) as error:
                stopping = self._node_shutdown
                self.refused(error)
            else:
                return
            time.sleep(CONTROL_PAUSE)
            # Stopped in the meantime, or already started again.
            if stopping is None or self._node_shutdown is not stopping:
                return

    def _do_reset(self, c: Any, connection: Any) -> None:
        super()._do_reset(c, connection)
        self.taken()
