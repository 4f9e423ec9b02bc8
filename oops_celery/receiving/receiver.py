"""Receive reports from a queue in a program of one's own, without a worker."""

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
from oops_celery.transport.link import open_link
from oops_celery.transport.sender import Sender
from oops_celery.transport.troubles import meaning
from oops_celery.wire.task import body_of

if TYPE_CHECKING:
    import oops

#: Seconds without a broker after which `Receiver.run_forever` gives up.
GIVE_UP_AFTER = 120.0

#: Seconds between two attempts to connect.
CONNECT_PAUSE = 0.1

#: Seconds for connecting, an answer of the broker, or sending a message.
RECEIVER_TIMEOUT = 5.0

#: Seconds between two checks of `Receiver.stopping`.
POLL = 0.5

#: Seconds that a refused message is held.
RECEIVER_PAUSE = 5.0

#: Prefetch count. While some messages are held, the others go on.
PREFETCH = 10

#: The broker is away. Waiting does not help against its other errors (a wrong password,
#: a missing queue).
CONNECTION_ERRORS = (OSError, amqp.ConnectionError, OperationalError)

logger = logging.getLogger(__name__)


class Receiver:
    """Receive reports from a queue, in place of `oops_amqp.Receiver`.

    ::

        receiver = oops_celery.Receiver(config, connection_factory, "oopses")
        receiver.run_forever()

    It declares nothing and loses nothing. It acknowledges a message when

    - the config took or filtered the report;
    - the config refused it (an exception, or no id), and the broker confirmed a copy of
      it at the end of its queue. The copy is sent after 5 seconds, in which others go
      on;
    - it is not a report, and the broker confirmed it in the queue
      ``<queue_name>.dead``, with headers that give the reason (see
      `oops_celery.dead_letters.park`). Without such a queue, it goes to the end of its
      queue, like a refused one.

    A message that cannot be sent (a broker in trouble, no permission) is held, 10 of
    them at most, and tried again every 5 seconds. Held messages are in their queue
    again when the connection ends.

    Args:
        config: Its `publish` takes the reports.
        connection_factory: Returns a new `amqp.Connection`, or a `kombu.Connection` to
            an AMQP broker. Called again for each further connection.
        queue_name: The queue of the reports.

    Attributes:
        stopping: Set it, from any thread, to end `run_forever` within a second after
            the current report.
        sentinel: Bytes; a message with this body ends `run_forever`.
        went_bad: The `time.monotonic` since when the broker is away; or None.
        connection: The latest connection; None before the first one.
        channel: Its channel, which acknowledges messages.
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
        #: Refused messages, and when to send each again.
        self._held: deque[tuple[float, amqp.Message]] = deque()
        self._sender = Sender(lambda: self.connection_factory(), RECEIVER_TIMEOUT)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of queue {self.queue_name!r}>"

    def run_forever(self) -> None:
        """Receive until `stopping` is set or the sentinel arrives.

        A lost connection is replaced.

        Raises:
            OSError, amqp.ConnectionError, kombu.exceptions.OperationalError: The broker
                was away for 120 seconds, with this last error; or waiting does not help
                (no such virtual host, an unknown certificate).
            amqp.ChannelError: The broker refuses (no such queue, wrong password).
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
        link = open_link(self.connection_factory(), False, RECEIVER_TIMEOUT)
        try:
            self.connection = link.connection
            self._work(link.raw, self._subscribe())
        finally:
            link.close()

    def _subscribe(self) -> deque[amqp.Message]:
        """Consume; return the queue in this process where messages arrive."""
        arrived: deque[amqp.Message] = deque()
        self._held.clear()  # they are in their queue again
        self.channel = self.connection.channel()
        self.channel.auto_decode = False  # bodies stay bytes
        self.channel.basic_qos(0, PREFETCH, False)
        # Not handled while py-amqp reads: its timeout would apply to our answers.
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
        """Send messages that were held long enough to the end of their queue."""
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
