"""Celery's control queue: a worker uses it when it can, and runs without it until then.

The queue has the worker's name, and RabbitMQ lets one connection use it. It is locked
while another worker of that name has a connection: a frozen worker's, or one of a lost
host, until its heartbeats are missed. Reports must not wait for that.
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

#: Seconds before a refused control queue is tried again.
CONTROL_PAUSE = 5.0

#: The same if the refusal closed the connection, which reports use too: at first, and
#: at most. After that it waits for the next connection.
FIRST_LONG_PAUSE = 60.0
LONGEST_PAUSE = 3600.0

#: Seconds for each answer of the broker: the worker's loop stands still.
CONTROL_TIMEOUT = 5.0

logger = logging.getLogger(__name__)


class Control(CelerysControl):
    """Celery's step for control messages, which runs without a refused queue.

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
    """Logs once that the queue is refused, and once that it was taken after all."""

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
    """The control queue, on a channel of the reports' connection."""

    def __init__(self, c: Any) -> None:
        super().__init__(c)
        self._not_before = 0.0
        self._long_pause = FIRST_LONG_PAUSE

    def start(self, c: Any) -> None:
        """Use the queue; if it is refused, try again later."""
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
    """The control queue of a green pool: with its own connection and greenlet."""

    def loop(self, c: Any) -> None:
        """Take control messages; again after a refusal or a lost connection."""
        while True:
            try:
                super().loop(c)
            except (*c.connection_errors, *c.channel_errors) as error:
                stopping = self._node_shutdown
                self.refused(error)
            else:
                return
            time.sleep(CONTROL_PAUSE)
            # Stopped meanwhile, or already started again.
            if stopping is None or self._node_shutdown is not stopping:
                return

    def _do_reset(self, c: Any, connection: Any) -> None:
        super()._do_reset(c, connection)
        self.taken()
