"""Replay dead letters: send them to the queues that they came from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from oops_celery.dead_letters.letter import Content, Letter, replay_options
from oops_celery.dead_letters.letters import Letters, pages
from oops_celery.dead_letters.removal import LetterOutcome
from oops_celery.errors import QueueError, Refused, SendError, Unavailable
from oops_celery.transport.pipeline import send_many
from oops_celery.transport.sender import Sender
from oops_celery.transport.troubles import in_a_line

if TYPE_CHECKING:
    from oops_celery.celery import App

#: Seconds for connecting, and for each confirm of the broker.
SEND_TIMEOUT = 5.0

#: Letters between two removals: as many are sent again if the program is killed.
BATCH = 100


class Replay:
    """Sends dead letters to the queues that they came from, and removes them.

    A letter is removed when the broker has confirmed its message. A program killed in
    between has sent some that are still there: sent again, a report is stored once.
    Several may do this at the same time: a letter is sent by one of them.

    Args:
        app: Has the broker's URL, and the queue of reports.
        letters: The database.
        rate: Most letters a second; None for no limit.
        waits: Called if somebody else is at work, and this has to wait.
    """

    def __init__(
        self,
        app: App,
        letters: Letters,
        rate: float | None = None,
        waits: Callable[[], None] = lambda: None,
    ) -> None:
        self._app = app
        self._letters = letters
        self._rate = rate
        self._waits = waits
        self._sender = Sender(app.connection_for_write, SEND_TIMEOUT)
        self._next = time.monotonic()

    def run(self, wanted: Iterable[Letter]) -> Iterator[LetterOutcome]:
        """Replay letters; yield the outcome of each when it is certain.

        Nothing is yielded for those that somebody else took.

        Raises:
            QueueError: The broker is in trouble. Nothing is lost.
            RepositoryError: The database is.
        """
        batch = BATCH if self._rate is None else max(1, min(BATCH, int(self._rate)))
        try:
            for page in pages(wanted, batch):
                self._pace(len(page))
                yield from self._replay(page)
        finally:
            self._sender.close()

    def _pace(self, number: int) -> None:
        if self._rate is not None:
            time.sleep(max(self._next - time.monotonic(), 0))
            self._next = max(self._next, time.monotonic()) + number / self._rate

    def _replay(self, page: Sequence[Letter]) -> Iterator[LetterOutcome]:
        sent: list[Letter] = []
        failed: list[tuple[Letter, SendError]] = []
        with self._letters.turn(self._waits):
            try:
                for letter, error in self._send(list(self._letters.contents(page))):
                    if error is None:
                        sent.append(letter)
                    else:
                        failed.append((letter, error))
            finally:  # also those before an interruption
                self._letters.remove(sent)
        yield from (LetterOutcome(letter.id) for letter in sent)
        for letter, error in failed:
            if isinstance(error, Unavailable):
                raise QueueError(
                    f"{self._app.broker_name}: {in_a_line(error, SEND_TIMEOUT)}"
                )
            target = self._target(letter)
            yield LetterOutcome(letter.id, f"queue {target!r}: {error}")

    def _send(
        self, letters: Sequence[tuple[Letter, Content]]
    ) -> Iterator[tuple[Letter, SendError | None]]:
        """Send messages; yield the letter of each, and why it was not taken."""
        together: list[tuple[Letter, bytes, dict[str, Any]]] = []
        alone: list[tuple[Letter, bytes, dict[str, Any]]] = []
        ids = set()
        for letter, content in letters:
            options = {
                "exchange": "",
                "routing_key": self._target(letter),
                **replay_options(content),
            }
            # Many at once are told apart by this id.
            name = options.get("correlation_id")
            (together if name and name not in ids else alone).append(
                (letter, content.body, options)
            )
            ids.add(name)
        outcomes = send_many(self._sender, (one[1:] for one in together))
        for (letter, _, _), error in zip(together, outcomes, strict=True):
            yield letter, error
        for letter, body, options in alone:
            yield letter, self._send_alone(body, options)

    def _send_alone(self, body: bytes, options: dict[str, Any]) -> SendError | None:
        try:
            self._sender.send(body, **options)
        except (Refused, Unavailable) as error:
            return error
        return None

    def _target(self, letter: Letter) -> str:
        return letter.came_from or str(self._app.oops.queue)
