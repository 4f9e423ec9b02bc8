"""Looking into the broker's queues, without taking anything out of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import amqp
from kombu.exceptions import OperationalError

from oops_celery.link import Link, Unavailable
from oops_celery.sending import Sender
from oops_celery.settings import hide_password
from oops_celery.troubles import in_a_line

if TYPE_CHECKING:
    from oops_celery.celery import App

#: Seconds that connecting, and each answer of the broker, may take.
TIMEOUT = 5.0

#: Seconds without a message after which the broker is asked whether it has more.
QUIET = 0.5

#: Seconds that messages which were looked at may take to be ready again.
BACK_WITHIN = 2.0

#: Deliveries after which RabbitMQ 4 drops or dead-letters a message of a quorum queue
#: without a limit (https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling).
DELIVERY_LIMIT = 20

#: The header in which a quorum queue counts the deliveries that were not acknowledged.
DELIVERY_COUNT = "x-delivery-count"


class BrokerError(Exception):
    """The broker could not be asked, or said no. Says so in a line."""


class LookedAtTooOften(BrokerError):
    """Looking once more might make RabbitMQ dead-letter what was looked at."""


class Broker:
    """A connection to look into queues with. A context manager.

    ::

        with Broker(app) as broker:
            for message in broker.browse("oopses.dead"):
                print(message.headers)

    Entering it connects. Each wait ends after `TIMEOUT` seconds.

    Attributes:
        usable: Whether the connection has met no trouble. That a queue is missing, or
            may not be used, is none.

    Raises:
        BrokerError: By each method, and on entering.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._link: Link | None = None
        self.usable = True

    def __enter__(self) -> Broker:
        sender = Sender(self._app.connection_for_write, TIMEOUT, confirm=False)
        self.usable = False
        try:
            self._link = sender.open()
        except Unavailable as error:
            raise BrokerError(f"{self.name}: {in_a_line(error, TIMEOUT)}") from error
        if self._link.raw is None:
            raise BrokerError(f"{self.name}: only an AMQP broker can be looked into")
        self.usable = True
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
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
        """Open a channel, whose messages keep their bodies as bytes.

        What it has taken and not acknowledged is in its queue again when it is closed.
        """
        raw = self._raw
        with self._in_a_line(), raw.transport.having_timeout(TIMEOUT):
            channel = raw.channel()
            channel.auto_decode = False
            yield channel
            channel.close()

    def ready(self, queue: str) -> int:
        """Return the number of messages that a queue could hand out."""
        with self.channel() as channel:
            return _ready(channel, queue)

    def has(self, queue: str) -> bool:
        """Tell whether there is a queue of that name."""
        try:
            self.ready(queue)
        except BrokerError as error:
            if isinstance(error.__cause__, amqp.NotFound):
                return False
            raise
        return True

    def browse(self, queue: str) -> Iterator[amqp.Message]:
        """Yield each message that is ready in a queue, and leave it there.

        Nobody else gets them meanwhile; they are back, in their places, when the
        iterator ends or is closed. A quorum queue counts this as a delivery.

        Raises:
            LookedAtTooOften: Half of the deliveries that the queue allows are used up.
        """
        seen = 0
        with self.channel() as channel:
            total = _ready(channel, queue)
            come: deque[amqp.Message] = deque()
            first = channel.basic_get(queue)  # held like all others
            if first is None:
                return
            self._spare(queue, first)
            come.append(first)
            tag = channel.basic_consume(queue, callback=come.append)
            try:
                while seen < total and self._wait(channel, come, queue):
                    seen += 1
                    yield come.popleft()
            except GeneratorExit:
                pass  # whoever asked has seen enough: leave as politely
            # Otherwise messages would come while the channel is being closed.
            channel.basic_cancel(tag)
            seen += len(come)
        self._wait_until_back(queue, seen)

    def _spare(self, queue: str, message: amqp.Message) -> None:
        """Raise `LookedAtTooOften` before looking does harm."""
        known = self._app.topology.queue(queue)
        limit = known.queue_arguments.get("x-delivery-limit") if known else None
        if limit is None and self._version >= 4:
            limit = DELIVERY_LIMIT
        count = (message.headers or {}).get(DELIVERY_COUNT)
        if limit is not None and isinstance(count, int) and count >= limit // 2:
            raise LookedAtTooOften(
                f"queue {queue!r} is left alone: a message has been delivered {count} "
                f"times, and RabbitMQ takes it out after {limit}"
            )

    @property
    def _version(self) -> int:
        """The number before the first dot of RabbitMQ's version."""
        version = str(self._raw.server_properties.get("version", ""))
        number = version.partition(".")[0]
        return int(number) if number.isdigit() else 0

    def _wait(
        self, channel: amqp.Channel, come: deque[amqp.Message], queue: str
    ) -> bool:
        """Wait for a message; tell whether there is one."""
        deadline = time.monotonic() + TIMEOUT
        while not come:
            try:
                self._raw.drain_events(timeout=QUIET)
            except TimeoutError:
                if not _ready(channel, queue) and not come:
                    return False  # somebody else has taken the rest
                if time.monotonic() > deadline:
                    raise
        return True

    def _wait_until_back(self, queue: str, number: int) -> None:
        """Wait until messages are ready again, so that the next look finds them."""
        deadline = time.monotonic() + BACK_WITHIN
        with self.channel() as channel:
            # A consumer may take them first.
            while _ready(channel, queue) < number and time.monotonic() < deadline:
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
            raise BrokerError(text) from error
        except (OSError, amqp.AMQPError, OperationalError) as error:
            self.usable = False
            raise BrokerError(f"{self.name}: {in_a_line(error, TIMEOUT)}") from error


def _ready(channel: amqp.Channel, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).message_count)
