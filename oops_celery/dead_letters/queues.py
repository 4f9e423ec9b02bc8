"""Look into the broker's queues, without taking anything out of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import amqp
from kombu.exceptions import OperationalError

from oops_celery.dead_letters import park
from oops_celery.dead_letters.hold import DELIVERY_COUNT, SPARE, Hold, ready
from oops_celery.errors import QueueError, SendError, Unavailable
from oops_celery.settings import hide_password
from oops_celery.topology.compare import compare
from oops_celery.topology.model import Queue, Topology
from oops_celery.transport.link import Link
from oops_celery.transport.sender import Sender
from oops_celery.transport.troubles import in_a_line
from oops_celery.wire.task import body_of

if TYPE_CHECKING:
    from oops_celery.celery import App

#: Seconds for connecting, and for each answer of the broker.
LOOK_TIMEOUT = 5.0

#: Seconds in which messages that were looked at should be ready again.
BACK_WITHIN = 2.0

#: Seconds to wait for others who look into a queue, and between two attempts.
TURN_WITHIN = 60.0
TURN_POLL = 0.25

#: Deliveries after which RabbitMQ 4 drops or dead-letters a message of a quorum queue
#: without a limit (https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling).
DELIVERY_LIMIT = 20


#: Prefix of the queue that marks a queue as being looked into.
LOCK = "oops-celery.looking."


def lock_of(queue: str) -> str:
    """Return the name of the exclusive queue that marks a look into a queue."""
    name = LOCK + queue
    if len(name.encode()) > 255:  # AMQP's longest name
        name = LOCK + blake2b(queue.encode()).hexdigest()
    return name


class Broker:
    """A connection for looking into queues. A context manager.

    ::

        with Broker(app) as broker:
            for message in broker.browse("oopses.dead"):
                print(message.headers)

    Entering it connects. Each wait ends after `LOOK_TIMEOUT` seconds.

    Args:
        app: Has the broker's URL and the topology.
        tell: Called when somebody else is looking, and the caller has to wait.

    Attributes:
        usable: Whether the connection works. A missing or forbidden queue does not
            change that.

    Raises:
        QueueError: By each method, and on entering.
    """

    def __init__(self, app: App, tell: Callable[[str], None] = lambda _: None) -> None:
        self._app = app
        self.tell = tell
        self._link: Link | None = None
        self._left = False
        self.usable = True

    def __enter__(self) -> Broker:
        sender = Sender(self._app.connection_for_write, LOOK_TIMEOUT, confirm=False)
        self.usable = False
        try:
            self._link = sender.open()
        except Unavailable as error:
            raise QueueError(
                f"{self.name}: {in_a_line(error, LOOK_TIMEOUT)}"
            ) from error
        if not self._link.is_amqp:
            raise QueueError(f"{self.name}: only an AMQP broker can be looked into")
        self.usable = True
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self._left, self.usable = True, False
        if self._link is not None:
            (self._link.drop if error else self._link.close)()

    @property
    def name(self) -> str:
        """The broker's URL, without the password."""
        urls = self._app.conf["broker_url"]
        urls = [urls] if isinstance(urls, str) else urls
        return ", ".join(hide_password(url) for url in urls)

    @contextmanager
    def channel(self) -> Iterator[amqp.Channel]:
        """Open a channel whose messages keep their bodies as bytes.

        Its unacknowledged messages are in their queue again when it closes.
        """
        raw = self._raw
        with self._in_a_line(), raw.transport.having_timeout(LOOK_TIMEOUT):
            channel = raw.channel()
            channel.auto_decode = False
            yield channel
            channel.close()

    def ready(self, queue: str) -> int:
        """Return the number of messages that are ready in a queue."""
        with self.channel() as channel:
            return ready(channel, queue)

    def has(self, queue: str) -> bool:
        """Return whether a queue exists."""
        try:
            self.ready(queue)
        except QueueError as error:
            if isinstance(error.__cause__, amqp.NotFound):
                return False
            raise
        return True

    def browse(self, queue: str) -> Iterator[amqp.Message]:
        """Yield each message that is ready in a queue, and leave it there.

        Nobody else gets these messages meanwhile; they are back in their places when
        the iterator ends or is closed. A quorum queue counts this as a delivery.

        Raises:
            LookedAtTooOften: Half of the deliveries that the queue allows are used up.
        """
        try:
            with self.held(queue, to_look=True) as (_, hold), suppress(GeneratorExit):
                yield from hold
        except QueueError:
            if not self._left:  # else Python closes the iterator after an interruption
                raise

    @contextmanager
    def held(
        self, queue: str, to_look: bool = False
    ) -> Iterator[tuple[amqp.Channel, Hold]]:
        """Hold the messages that are ready in a queue, to take some of them out.

        The others are back in their places at the end.

        Args:
            queue: The queue.
            to_look: Whether nothing is taken out. Half of the deliveries that the queue
                allows are for looking; the rest are for removing messages.

        Raises:
            LookedAtTooOften: They are used up.
        """
        limit = self._limit(queue)
        most = limit and (limit // 2 if to_look else limit - SPARE)
        with self.alone(queue):
            with self.channel() as channel:
                hold = Hold(self, channel, queue, limit, most)
                yield channel, hold
                hold.end()
            self._wait_until_back(queue, hold.number)

    @contextmanager
    def alone(self, queue: str) -> Iterator[None]:
        """Wait until nobody else looks into a queue, and make others wait meanwhile.

        Messages that somebody looks at are hidden from everybody else. So each first
        declares an exclusive queue of one name, which ends with the connection. A user
        without that right looks anyway.

        Raises:
            QueueError: Others have been looking for `TURN_WITHIN` seconds.
        """
        lock = lock_of(queue)
        taken = self._take_turn(queue, lock)
        try:
            yield
        finally:
            if taken and self.usable:
                with suppress(QueueError), self.channel() as channel:
                    channel.queue_delete(lock)

    def _take_turn(self, queue: str, lock: str) -> bool:
        deadline = time.monotonic() + TURN_WITHIN
        told = False
        while True:
            try:
                with self.channel() as channel:
                    channel.queue_declare(lock, exclusive=True)
                return True
            except QueueError as error:
                if not self.usable:
                    raise
                if not isinstance(error.__cause__, amqp.ResourceLocked):
                    return False
            if time.monotonic() > deadline:
                raise QueueError(
                    f"somebody else has been looking at queue {queue!r} for "
                    f"{TURN_WITHIN:g} s, and hides its messages: try again later"
                )
            if not told:
                self.tell(f"somebody else is looking at queue {queue!r}: waiting")
                told = True
            time.sleep(TURN_POLL)

    def _limit(self, queue: str) -> int | None:
        """Return the deliveries after which RabbitMQ removes a message from a queue.

        None means no limit, as far as AMQP tells: a policy's limit is not visible.
        """
        known = self._app.topology.queue(queue)
        arguments = dict((known and known.queue_arguments) or {})
        limit = self._limit_at_broker(queue, arguments)
        if limit is None and self._version >= 4:
            limit = DELIVERY_LIMIT
        return None if limit is None or limit < 0 else limit

    def _limit_at_broker(self, queue: str, arguments: dict[str, Any]) -> int | None:
        asked = Topology(
            queues=(Queue(queue, durable=True, queue_arguments=arguments),)
        )
        assert self._link is not None
        with self._in_a_line(), self._raw.transport.having_timeout(LOOK_TIMEOUT):
            found = compare(asked, self._link.connection.channel)
        for each in found:
            if each.argument == "x_delivery_limit" and each.what == "different":
                return int(each.broker) if each.broker.lstrip("-").isdigit() else None
        limit = arguments.get("x-delivery-limit")
        return limit if isinstance(limit, int) else None

    def send_copy(self, queue: str, message: amqp.Message) -> None:
        """Put a copy of a message, with all its headers, into its own queue."""
        options = park.resend_options({}, message.properties)
        options["headers"] = {
            name: value
            for name, value in (message.headers or {}).items()
            if name not in (DELIVERY_COUNT, "x-acquired-count")
        }
        sender = Sender(self._app.connection_for_write, LOOK_TIMEOUT)
        try:
            sender.send(body_of(message), exchange="", routing_key=queue, **options)
        except SendError as error:
            raise QueueError(f"{self.name}: {error}") from error
        finally:
            sender.close()

    def drain(self, timeout: float) -> None:
        """Receive the next event; raise `TimeoutError` if none comes."""
        self._raw.drain_events(timeout=timeout)

    @property
    def _version(self) -> int:
        """RabbitMQ's major version."""
        version = str(self._raw.server_properties.get("version", ""))
        number = version.partition(".")[0]
        return int(number) if number.isdigit() else 0

    def _wait_until_back(self, queue: str, number: int) -> None:
        """Wait until the messages are ready again, so that the next look finds them."""
        deadline = time.monotonic() + BACK_WITHIN
        with self.channel() as channel:
            # A consumer may take them first.
            while ready(channel, queue) < number and time.monotonic() < deadline:
                time.sleep(0.01)

    @property
    def _raw(self) -> amqp.Connection:
        assert self._link is not None, "enter it first"
        return self._link.raw

    @contextmanager
    def _in_a_line(self) -> Iterator[None]:
        try:
            yield
        except amqp.ChannelError as error:
            text = f"{self.name}: {error.reply_text or error}"
            raise QueueError(text) from error
        except (OSError, amqp.AMQPError, OperationalError) as error:
            self.usable = False
            raise QueueError(
                f"{self.name}: {in_a_line(error, LOOK_TIMEOUT)}"
            ) from error
