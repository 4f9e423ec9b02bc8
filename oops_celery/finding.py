"""Finding a report by its id: in the repository, and in the broker's queues."""

from __future__ import annotations

import bz2
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import amqp

from oops_celery import adoption, letters, wire
from oops_celery.browsing import Broker, BrokerError
from oops_celery.letters import Letter

if TYPE_CHECKING:
    from oops_celery.celery import App

#: The folders of a `DateDirRepo`.
_DAY = re.compile(r"\d{4}-\d\d-\d\d")

#: A whole id, as `oops_celery.Publisher` and `DateDirRepo` make them.
_WHOLE_ID = re.compile(r"OOPS-[0-9a-f]{32}")

#: Messages between two words about how a long search is going.
NEWS_EVERY = 100


@dataclass(frozen=True)
class Found:
    """A report, or what lies in its place, and where it is.

    Attributes:
        id: The report's id.
        body: The report, as BSON; or whatever else the message holds.
        path: Its file, where it is in the repository.
        queue: Its queue, where it is at the broker.
        letter: What is known of the message.
        headers: The message's headers.
    """

    id: str
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
            wire.Undecodable: It is none.
        """
        return wire.decode(self.body)


def in_repository(
    folder: str, part: str, news: Callable[[str], None] = lambda _: None
) -> Iterator[Found]:
    """Find reports in a `DateDirRepo`, newest day first.

    A file is named by its content, which need not be the report's id: what a file
    holds is searched for the bytes, and only where they are, its id is read.

    Args:
        folder: The repository; it may be missing.
        part: A part of the id, or the start of the file's name.
        news: Told how far the search is.
    """
    wanted = part.encode("utf-8", "surrogateescape")
    with suppress(OSError):
        for day in sorted(filter(_DAY.fullmatch, os.listdir(folder)), reverse=True):
            news(day)
            for path in _files(os.path.join(folder, day)):
                with suppress(OSError):
                    yield from _in_file(path, part, wanted)


def _files(folder: str) -> Iterator[str]:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.endswith(".tmp"):  # one that is being written
                yield entry.path


def _in_file(path: str, part: str, wanted: bytes) -> Iterator[Found]:
    # Not `open`: the time goes into many small files.
    # O_NONBLOCK: a named pipe has no report, and may have no writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        body = os.read(descriptor, os.fstat(descriptor).st_size + 1)
    finally:
        os.close(descriptor)
    if body.startswith(b"BZh"):
        with suppress(OSError, ValueError):
            body = bz2.decompress(body)
    name = os.path.basename(path)
    named = name.startswith(part)
    if not named and wanted not in body:
        return
    with suppress(wire.Undecodable):
        body = _as_bson(body)
        own = wire.peek(body, ("id",)).get("id") or name
        if named or part in own:
            yield Found(own, body, path=path)


def _as_bson(content: bytes) -> bytes:
    """Return a file's report as BSON: old files have RFC 822 headers instead.

    Raises:
        wire.Undecodable: It is neither.
    """
    try:
        wire.peek(content, ())
    except wire.Undecodable:
        with suppress(Exception):  # not installed, or no such file
            from oops_datedir_repo import serializer_rfc822

            report = serializer_rfc822.read(io.BytesIO(content))
            if report.get("id"):
                return wire.encode(report, inherit_id=True).body
        raise
    return content


class Search:
    """A search for a report, wherever it is.

    Where a whole id is found, the places behind are not looked at: in the repository
    and the dead queue always, then in the retry queues, then in the main queue.

    Args:
        app: Knows the repository, the topology and the broker.
        part: The id, or a part of it.
        news: Told how far the search is.

    Attributes:
        found: What was found so far.
        looked_at: The places that were searched.
        not_looked_at: Why others could not be.
    """

    def __init__(
        self, app: App, part: str, news: Callable[[str], None] = lambda _: None
    ) -> None:
        self._app = app
        self._part = part
        self._news = news
        self.found: list[Found] = []
        self.looked_at: list[str] = []
        self.not_looked_at: list[str] = []

    def run(self) -> Search:
        """Search; return itself."""
        self._repository()
        try:
            with Broker(self._app) as broker:
                self._queues(broker)
        except BrokerError as error:
            self.not_looked_at.append(f"the queues could not be looked at: {error}")
        return self

    @property
    def by_id(self) -> dict[str, list[Found]]:
        """What was found, put together by id."""
        together: dict[str, list[Found]] = {}
        for found in self.found:
            together.setdefault(found.id, []).append(found)
        return together

    def _done(self) -> bool:
        return any(found.id == self._part for found in self.found)

    def _repository(self) -> None:
        folder = os.path.abspath(self._app.oops.repository)
        there = os.path.isdir(folder)
        self.looked_at.append(f"repository {folder}{'' if there else ' (not there)'}")
        for found in in_repository(folder, self._part, self._news):
            self.found.append(found)
            if found.id == self._part and _WHOLE_ID.fullmatch(self._part):
                return

    def _queues(self, broker: Broker) -> None:
        main = self._app.oops.queue
        topology = self._app.topology
        for queue in topology.dead_letter_queues(main):
            self._queue(broker, queue.name)
        names = [queue.name for queue in topology.retry_queues(main)]
        for name in (*names, main):
            if self._done():
                return
            self._queue(broker, name)

    def _queue(self, broker: Broker, name: str) -> None:
        messages = broker.browse(name)
        try:
            found = list(in_messages(messages, name, self._part, self._news))
        except BrokerError as error:
            if not broker.usable:
                raise
            self.not_looked_at.append(f"queue {name!r}: {error}")
            return
        self.found += found
        self.looked_at.append(f"queue {name}")


def in_messages(
    messages: Iterator[amqp.Message],
    queue: str,
    part: str,
    news: Callable[[str], None] = lambda _: None,
) -> Iterator[Found]:
    """Find messages of a queue by a part of their id."""
    for number, message in enumerate(messages, 1):
        if number % NEWS_EVERY == 1:
            news(f"queue {queue}, message {number}")
        letter = letters.read(message, queue)
        if part in letter.id:
            body = adoption.body_of(message)
            yield Found(
                letter.id, body, queue=queue, letter=letter, headers=message.headers
            )
