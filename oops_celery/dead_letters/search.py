"""Find a report by its id: in the repository, and among the dead letters."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import amqp

from oops_celery import wire
from oops_celery.dead_letters.letter import Letter, read_letter
from oops_celery.dead_letters.queues import Broker
from oops_celery.errors import QueueError, RepositoryError
from oops_celery.repository.reader import find_reports
from oops_celery.settings import repository_url as urls
from oops_celery.wire.ids import clean_id, has_id
from oops_celery.wire.task import body_of

if TYPE_CHECKING:
    from oops_celery.celery import App

#: A whole id, as `oops_celery.Publisher` makes them, in lower case.
_WHOLE_ID = re.compile(r"oops-[0-9a-f]{32}")

#: Messages between two progress reports of a search.
NEWS_EVERY = 100


@dataclass(frozen=True)
class Found:
    """A report, or another message, and where it is.

    Attributes:
        id: The report's id.
        type: The exception's type, or the message's.
        time: The report's time, or that of its parking.
        body: The report as BSON; or the message's body.
        path: Its file, if it is in the repository.
        queue: Its queue, if it is at the broker.
        letter: The message's metadata.
        headers: The message's headers.
    """

    id: str
    type: str
    time: datetime | None
    body: bytes
    path: str | None = None
    queue: str | None = None
    letter: Letter | None = None
    headers: Any = None

    @property
    def is_report(self) -> bool:
        """Whether the body is one BSON document."""
        return self.letter is None or self.letter.is_report

    def report(self) -> dict[str, Any]:
        """Return the report.

        Raises:
            wire.Undecodable: It is not a report.
        """
        return wire.decode(self.body)


class Search:
    """A search for a report that was stored or parked.

    It searches the repository and the dead letter queue. Messages in the main queue and
    the retry queues are only counted: looking at a message is a delivery, and RabbitMQ
        limits
    those.

    Args:
        app: Has the repository, the topology and the broker's URL.
        part: The id, or a part of it.
        news: Called with the progress of the search.

    Attributes:
        found: The reports found so far.
        looked_at: The places that were searched.
        waiting: The number of messages in each queue that is only counted.
        not_looked_at: Why others could not be searched.
    """

    def __init__(
        self, app: App, part: str, news: Callable[[str], None] = lambda _: None
    ) -> None:
        self._app = app
        self._part = part
        self._news = news
        self.found: list[Found] = []
        self.looked_at: list[str] = []
        self.waiting: dict[str, int] = {}
        self.not_looked_at: list[str] = []

    def run(self) -> Search:
        """Search; return itself."""
        self._repository()
        try:
            with Broker(self._app, self._news) as broker:
                self._queues(broker)
        except QueueError as error:
            self.not_looked_at.append(f"the queues could not be looked at: {error}")
        return self

    @property
    def by_id(self) -> dict[str, list[Found]]:
        """The reports found, by id."""
        together: dict[str, list[Found]] = {}
        for found in self.found:
            together.setdefault(found.id, []).append(found)
        return together

    def _repository(self) -> None:
        place = self._app.oops.repository
        if urls.is_url(place):
            self._database(place)
        else:
            self._folder(os.path.abspath(place))

    def _database(self, url: str) -> None:
        from oops_celery.repository.queries import Reports

        name = urls.without_password(url)
        try:
            with Reports(urls.check(url)) as reports:
                for kept in reports.find(self._part):
                    found = Found(kept.id, kept.type, kept.time, kept.body, path=name)
                    _add(self.found, found, self._part)
        except RepositoryError as error:
            self.not_looked_at.append(f"the repository could not be read: {error}")
        else:
            self.looked_at.append(f"repository {name}")

    def _folder(self, folder: str) -> None:
        there = os.path.isdir(folder)
        self.looked_at.append(f"repository {folder}{'' if there else ' (not there)'}")
        for kept in find_reports(folder, self._part, self._news):
            found = Found(kept.id, kept.type, kept.time, kept.body, path=kept.path)
            _add(self.found, found, self._part)
            whole = clean_id(self._part)
            if found.id.lower() == whole and _WHOLE_ID.fullmatch(whole):
                return

    def _queues(self, broker: Broker) -> None:
        main = self._app.oops.queue
        topology = self._app.topology
        for queue in topology.dead_letter_queues(main):
            with self._note_trouble(broker, queue.name):
                messages = broker.browse(queue.name)
                for found in in_messages(messages, queue.name, self._part, self._news):
                    _add(self.found, found, self._part)
                self.looked_at.append(f"queue {queue.name}")
        for name in (main, *(queue.name for queue in topology.retry_queues(main))):
            with self._note_trouble(broker, name):
                self.waiting[name] = broker.ready(name)

    @contextmanager
    def _note_trouble(self, broker: Broker, queue: str) -> Iterator[None]:
        """Go on after trouble with one queue."""
        try:
            yield
        except QueueError as error:
            if not broker.usable:
                raise
            self.not_looked_at.append(f"queue {queue!r}: {error}")


def in_messages(
    messages: Iterator[amqp.Message],
    queue: str,
    part: str,
    news: Callable[[str], None] = lambda _: None,
) -> list[Found]:
    """Find messages of a queue by a part of their id.

    Returns:
        The matching messages; see `_add`.
    """
    found: list[Found] = []
    for number, message in enumerate(messages, 1):
        if number % NEWS_EVERY == 1:
            news(f"queue {queue}, message {number}")
        letter = read_letter(message, queue)
        if has_id(letter.id, part):
            one = Found(
                letter.id,
                letter.type,
                letter.time or letter.parked_at,
                body_of(message),
                queue=queue,
                letter=letter,
                headers=message.headers,
            )
            _add(found, one, part)
    return found


def _add(found: list[Found], one: Found, part: str) -> None:
    """Add a report; if several ids match, only the one that is `part` keeps bodies.

    The others are not shown, and all bodies may be more than memory holds.
    """
    whole = clean_id(part)
    if found and found[0].id != one.id:
        if found[0].body and found[0].id != part and found[0].id.lower() != whole:
            found[:] = [replace(each, body=b"") for each in found]
        if one.id != part and one.id.lower() != whole:
            one = replace(one, body=b"")
    found.append(one)
