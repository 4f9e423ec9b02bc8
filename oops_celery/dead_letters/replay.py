"""Replay dead letters: put them back into the queues that they came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import amqp

from oops_celery.dead_letters import park
from oops_celery.dead_letters.hold import Hold
from oops_celery.dead_letters.letter import Letter, replay_options
from oops_celery.dead_letters.queues import LOOK_TIMEOUT, Broker
from oops_celery.dead_letters.removal import LetterOutcome, wanted_messages
from oops_celery.errors import QueueError, Refused, SendError, Unavailable
from oops_celery.transport.sender import Sender
from oops_celery.transport.troubles import in_a_line
from oops_celery.wire.task import body_of

if TYPE_CHECKING:
    from oops_celery.celery import App

#: Messages of one transaction, and the bytes at which it ends earlier.
BATCH = 20
BATCH_BYTES = 4 * 1024 * 1024


class Replay:
    """Put parked messages back into the queues that they came from.

    A message is moved in an AMQP transaction: RabbitMQ removes it from the dead letter
    queue and puts it elsewhere, or does neither. So a killed program leaves each
    message in one place.

    A transaction does not report a full queue, and the message would be lost. So it
    moves the message to the retry queue with the shortest TTL, which has no limit, and
    lets it expire there at once: RabbitMQ moves it on, and waits while the target queue
    is full (quorum queues, at-least-once dead-lettering). Behind reports that wait for
    a retry, it moves on with them.

    If the topology has no such retry queue, a message is published, and removed when
    the broker has confirmed it: a program killed in between leaves one message in both
        places.
    None is lost either way.

    Args:
        app: Has the broker's URL and the topology.
        broker: A connection to it.
        queue: The dead letter queue.
    """

    def __init__(self, app: App, broker: Broker, queue: str) -> None:
        self._app = app
        self._broker = broker
        self._queue = queue
        self._sender = Sender(app.connection_for_write, LOOK_TIMEOUT)
        self._transits: dict[str, str | None] = {}
        self._batch: list[tuple[Letter, amqp.Message, str]] = []
        self._bytes = 0
        self._returned: set[str] = set()

    def run(self, wanted: Iterable[bytes]) -> Iterator[LetterOutcome]:
        """Replay messages; yield the outcome of each when it is certain.

        Args:
            wanted: The keys of the letters.

        Raises:
            QueueError: The broker is in trouble. Nothing is lost.
        """
        try:
            with self._broker.held(self._queue) as (channel, hold):
                channel.tx_select()
                channel.events["basic_return"].add(self._on_return)
                for letter, message in wanted_messages(hold, self._queue, wanted):
                    target = letter.came_from or self._app.oops.queue
                    transit = self._transit(target)
                    if transit is None:
                        yield self._send(channel, hold, letter, message, target)
                        continue
                    self._add(channel, hold, letter, message, transit)
                    if len(self._batch) >= BATCH or self._bytes >= BATCH_BYTES:
                        yield from self._commit(channel)
                yield from self._commit(channel)
                hold.end()
                channel.tx_commit()  # for messages that were replaced by a copy
        finally:
            self._sender.close()

    def _transit(self, target: str) -> str | None:
        """Return the queue through which messages reach `target`, if there is one."""
        if target not in self._transits:
            self._transits[target] = self._find_transit(target)
        return self._transits[target]

    def _find_transit(self, target: str) -> str | None:
        for queue in self._app.topology.retry_queues(target):
            name = str(queue.name)
            arguments = queue.queue_arguments
            limits = {"x-max-length", "x-max-length-bytes"}
            if (
                arguments.get("x-dead-letter-strategy") == "at-least-once"
                and not limits & arguments.keys()
                and self._broker.has(name)
                and self._broker.has(target)
            ):
                return name
        return None

    def _add(
        self,
        channel: amqp.Channel,
        hold: Hold,
        letter: Letter,
        message: amqp.Message,
        transit: str,
    ) -> None:
        options = replay_options(message)
        again = amqp.Message(
            body_of(message),
            application_headers=options.pop("headers"),
            expiration="0",
            **options,
        )
        channel.basic_publish(again, "", transit, mandatory=True)
        hold.ack(message)
        self._batch.append((letter, message, transit))
        self._bytes += letter.size

    def _commit(self, channel: amqp.Channel) -> Iterator[LetterOutcome]:
        if not self._batch:
            return
        channel.tx_commit()
        done, self._batch, self._bytes = self._batch, [], 0
        for letter, message, transit in done:
            if transit in self._returned:
                self._put_back(message)
                why = f"queue {transit!r} has gone; it is in {self._queue!r} again"
                yield LetterOutcome(letter.id, why)
            else:
                yield LetterOutcome(letter.id)
        self._returned.clear()

    def _on_return(self, _: Any, __: str, routing_key: str, ___: amqp.Message) -> None:
        # Comes before the answer to the commit: the queue was deleted meanwhile.
        self._returned.add(routing_key)
        self._transits.clear()

    def _put_back(self, message: amqp.Message) -> None:
        options = park.resend_options(message.headers, message.properties)
        body = body_of(message)
        try:
            self._sender.send(body, exchange="", routing_key=self._queue, **options)
        except SendError as error:
            raise QueueError(f"{self._broker.name}: {error}") from error

    def _send(
        self,
        channel: amqp.Channel,
        hold: Hold,
        letter: Letter,
        message: amqp.Message,
        target: str,
    ) -> LetterOutcome:
        body = body_of(message)
        options = replay_options(message)
        try:
            self._sender.send(body, exchange="", routing_key=target, **options)
        except Refused as error:
            return LetterOutcome(letter.id, f"queue {target!r}: {error}")
        except Unavailable as error:
            why = in_a_line(error, LOOK_TIMEOUT)
            raise QueueError(f"{self._broker.name}: {why}") from error
        hold.ack(message)
        channel.tx_commit()
        return LetterOutcome(letter.id)
