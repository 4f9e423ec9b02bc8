"""Receiver: takes reports from a queue in a program of one's own, without a worker."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import amqp
from kombu.exceptions import OperationalError

from oops_celery import wire
from oops_celery.dead_letters import park
from oops_celery.errors import NotTaken, SendError
from oops_celery.receiving.receive import receive
from oops_celery.transport.link import Link
from oops_celery.transport.sender import Sender
from oops_celery.transport.troubles import meaning
from oops_celery.wire.task import body_of

if TYPE_CHECKING:
    import oops

#: Seconds without a broker after which `Receiver.run_forever` gives up.
GIVE_UP_AFTER = 120.0

#: Seconds between two tries to connect.
CONNECT_PAUSE = 0.1

#: Seconds that connecting, an answer of the broker, or sending a message may take.
RECEIVER_TIMEOUT = 5.0

#: Seconds between two looks at `Receiver.stopping`.
POLL = 0.5

#: Seconds that a message which nobody took is held.
RECEIVER_PAUSE = 5.0

#: Messages that the broker hands out before one of them is acknowledged. While some
#: are held, the others go on.
PREFETCH = 10

#: No broker, or no longer. Anything else that the broker says (a wrong password, no
#: such queue) is not cured by waiting.
CONNECTION_ERRORS = (OSError, amqp.ConnectionError, OperationalError)

logger = logging.getLogger(__name__)


class Receiver:
    """Receive reports from a queue; takes the place of `oops_amqp.Receiver`.

    ::

        receiver = oops_celery.Receiver(config, connection_factory, "oopses")
        receiver.run_forever()

    Nothing is declared, and nothing is lost. A message is acknowledged when

    - the config has taken or filtered it;
    - the config has refused it (an exception, or no id), and the broker has confirmed
      a copy of it at the end of its queue. The copy is sent after 5 seconds, in which
      others go on;
    - it is no report, and the broker has confirmed it in the queue
      ``<queue_name>.dead``, with headers that say why (see `deadletters`). Where there
      is no such queue, it goes to the end of its queue, as if it had been refused.

    A message that cannot be sent (a broker in trouble, no permission) stays in hand,
    10 of them at most, and is tried again every 5 seconds. What is in hand when the
    connection ends is in its queue again.

    Args:
        config: Its `publish` takes the reports.
        connection_factory: Returns a new `amqp.Connection`, or a `kombu.Connection` to
            an AMQP broker. Called again for each further connection.
        queue_name: The queue to take the reports from.

    Attributes:
        stopping: Set it, from any thread, to end `run_forever` within a second, as soon
            as the report at work is done.
        sentinel: Bytes; a message with this body ends `run_forever`.
        went_bad: The `time.monotonic` since when there is no broker; or None.
        connection: The latest connection; None before the first one.
        channel: Its channel, on which messages are acknowledged.
    """

    def __init__(
        self,
        config: oops.Config,
        connection_factory: Callable[[], Any],
        queue_name: str,
    ) -> None:
        self.config = config
        self.connection_factory = connection_factory
        self.queue_name = queue_name
        self.connection: Any = None
        self.channel: Any = None
        self.stopping = False
        self.sentinel: bytes | None = None
        self.went_bad: float | None = None
        #: Messages that nobody took, and when each is to be sent again.
        self._held: deque[tuple[float, amqp.Message]] = deque()
        self._sender = Sender(lambda: self.connection_factory(), RECEIVER_TIMEOUT)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of queue {self.queue_name!r}>"

    def run_forever(self) -> None:
        """Receive until `stopping` is set or the sentinel comes.

        A lost connection is replaced.

        Raises:
            OSError, amqp.ConnectionError, kombu.exceptions.OperationalError: There was
                no broker for 120 seconds, this is what the last try met; or it is not
                to be had by waiting (no such virtual host, an unknown certificate).
            amqp.ChannelError: The broker does not let us (no such queue, wrong
                password).
        """
        self.stopping = False
        self.went_bad = None
        try:
            while not self.stopping:
                try:
                    self._run()
                except CONNECTION_ERRORS as error:
                    lost = isinstance(error, amqp.RecoverableConnectionError)
                    if not lost and meaning(error).lasting:
                        raise
                    if not self.stopping and self._gives_up(error):
                        raise
                    time.sleep(CONNECT_PAUSE)
        finally:
            self._sender.close()

    def _gives_up(self, error: Exception) -> bool:
        now = time.monotonic()
        if self.went_bad is None:
            self.went_bad = now
            logger.warning(
                "queue %s cannot be received from: %s: %s; trying again for %g s",
                self.queue_name,
                type(error).__name__,
                error,
                GIVE_UP_AFTER,
            )
        return now - self.went_bad >= GIVE_UP_AFTER

    def _run(self) -> None:
        """Receive over one connection."""
        link = Link(self.connection_factory(), confirm=False, timeout=RECEIVER_TIMEOUT)
        try:
            self.connection = link.connection
            self._work(link.raw, self._subscribe())
        finally:
            link.close()

    def _subscribe(self) -> deque[amqp.Message]:
        """Return where messages will arrive."""
        arrived: deque[amqp.Message] = deque()
        self._held.clear()  # they are in the queue again
        self.channel = self.connection.channel()
        self.channel.auto_decode = False  # the bytes as they came
        self.channel.basic_qos(0, PREFETCH, False)
        # Not handled while py-amqp reads: its timeout would be that of our answers.
        self.channel.basic_consume(self.queue_name, callback=arrived.append)
        if self.went_bad is not None:
            logger.info("queue %s is received from again", self.queue_name)
        self.went_bad = None
        return arrived

    def _work(self, raw: amqp.Connection, arrived: deque[amqp.Message]) -> None:
        try:
            while raw.connected:  # kombu would wait on a new one, without a consumer
                with suppress(TimeoutError):
                    self.connection.drain_events(timeout=POLL)
                raw.heartbeat_tick()
                while arrived:
                    self.handle_report(arrived.popleft())
                if self.stopping:
                    return
                self._send_again()
        except amqp.ChannelError as error:
            # A message was unacknowledged for longer than RabbitMQ allows.
            raise amqp.RecoverableConnectionError(str(error)) from error
        raise amqp.RecoverableConnectionError("it was lost while a report was at work")

    def handle_report(self, message: amqp.Message) -> None:
        """Receive one message: acknowledge it, or hold it for a later try.

        Args:
            message: A message that `channel` delivered.
        """
        if self._process(message):
            self.channel.basic_ack(message.delivery_tag)
        else:
            self._held.append((time.monotonic() + RECEIVER_PAUSE, message))

    def _process(self, message: amqp.Message) -> bool:
        body = body_of(message)
        if body == self.sentinel:
            self.stopping = True
            return True
        try:
            receive(self.config, body)
        except wire.Undecodable as error:
            return self._park(message, error)
        except NotTaken as error:
            logger.warning(
                "%s of queue %s is not taken, and will be tried again: %s",
                _name(body),
                self.queue_name,
                error,
                exc_info=error.__cause__,
            )
            return False
        return True

    def _park(self, message: amqp.Message, error: wire.Undecodable) -> bool:
        dead = f"{self.queue_name}.dead"
        try:
            park.send(
                self._sender,
                ("", dead),
                self.queue_name,
                body_of(message),
                f"undecodable: {error}",
                headers=message.headers,
                properties=message.properties,
                error=error,
            )
        except SendError as failure:
            logger.error(
                "a message of queue %s (undecodable: %s) is kept there, because it "
                "cannot be parked: %s; declare a queue %s for such messages",
                self.queue_name,
                error,
                failure,
                dead,
            )
            return False
        logger.error(
            "parked a message of queue %s in %s: undecodable: %s",
            self.queue_name,
            dead,
            error,
        )
        return True

    def _send_again(self) -> None:
        """Send what was held long enough to the end of its queue."""
        while self._held and self._held[0][0] <= time.monotonic():
            _, message = self._held.popleft()
            try:
                self._sender.send(
                    body_of(message),
                    exchange="",
                    routing_key=self.queue_name,
                    **park.resend_options(message.headers, message.properties),
                )
            except SendError as failure:
                logger.error(
                    "a message cannot go to the end of queue %s, and is held: %s",
                    self.queue_name,
                    failure,
                )
                self.handle_report(message)
                return
            self.channel.basic_ack(message.delivery_tag)


def _name(body: bytes) -> str:
    known: dict[str, str] = {}
    with suppress(wire.Undecodable):
        known = wire.peek(body, ("id",))
    return wire.task_id(known.get("id"), body)
