"""Remove dead letters from their queue: discard them, or export them to files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import amqp

from oops_celery import wire
from oops_celery.dead_letters.hold import Hold
from oops_celery.dead_letters.letter import Letter, read_letter
from oops_celery.dead_letters.queues import Broker
from oops_celery.errors import ExportError
from oops_celery.repository import folder
from oops_celery.wire.task import body_of


class LetterOutcome(NamedTuple):
    """The outcome for a message: why nothing was done; empty if it was done."""

    id: str
    why: str = ""


def discard(
    broker: Broker, queue: str, wanted: Iterable[bytes]
) -> Iterator[LetterOutcome]:
    """Remove messages from a queue for good.

    Raises:
        QueueError: The broker is in trouble. The remaining messages are still there.
    """
    with broker.held(queue) as (_, hold):
        for letter, message in wanted_messages(hold, queue, wanted):
            hold.ack(message)
            yield LetterOutcome(letter.id)


def export(
    broker: Broker, queue: str, wanted: Iterable[bytes], to: str, remove: bool
) -> Iterator[LetterOutcome]:
    """Write parked reports to a folder; see `oops_celery.repository.folder`.

    A report always has the same file: exported again after an interruption, it is not
    doubled. A message that is not a report stays in the queue.

    Args:
        broker: A connection.
        queue: The dead letter queue.
        wanted: The keys of the letters.
        to: The folder; made if needed.
        remove: Whether to take a report out of the queue when its file is on disk.

    Raises:
        QueueError: The broker is in trouble.
        ExportError: A file cannot be written.
    """
    with broker.held(queue) as (_, hold):
        for letter, message in wanted_messages(hold, queue, wanted):
            if not letter.is_report:
                yield LetterOutcome(letter.id, "no report; it stays in the queue")
                continue
            try:
                _write(letter, message, to)
            except wire.Undecodable as error:
                yield LetterOutcome(letter.id, f"{error}; it stays in the queue")
                continue
            if remove:
                hold.ack(message)
            yield LetterOutcome(letter.id)


def _write(letter: Letter, message: amqp.Message, to: str) -> None:
    body = body_of(message)
    report = folder.as_it_came(wire.decode(body), body)
    day = letter.parked_at or wire.peek_time(body, "time")
    try:
        folder.write(os.path.abspath(to), report, day)
    except OSError as error:
        raise ExportError(f"{to}: {error.strerror or error}") from error


def wanted_messages(
    hold: Hold, queue: str, wanted: Iterable[bytes]
) -> Iterator[tuple[Letter, amqp.Message]]:
    """Yield the wanted messages one by one; the others stay held."""
    left = Counter(wanted)
    number = left.total()
    for message in hold:
        letter = read_letter(message, queue)
        if left[letter.key] <= 0:
            continue
        left[letter.key] -= 1
        number -= 1
        yield letter, message
        if not number:
            return
