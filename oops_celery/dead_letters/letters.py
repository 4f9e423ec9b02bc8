"""The dead letters in the database: choose, read and remove them.

A command takes a snapshot of their numbers first, and does exactly those: a number is
never given again, and new letters get larger ones.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, select, text, update

from oops_celery.dead_letters.filing import COLUMNS, content_of, row_of
from oops_celery.dead_letters.letter import Content, Letter
from oops_celery.repository.database import Reader, check, engine_of, telling_why
from oops_celery.repository.row import unpacked
from oops_celery.repository.schema import dead_letter
from oops_celery.repository.search import beginning
from oops_celery.settings import repository_url as urls
from oops_celery.wire.ids import clean_id, has_id, is_whole

#: Letters that are read or removed at once.
PAGE = 500

#: Bytes of bodies that are read at once.
PAGE_BYTES = 16 * 1024 * 1024

#: Of PostgreSQL: held by the one that works on letters.
_TURN = 0x6F6F7075

#: The columns of a `Letter`; its traceback is long.
_INDEX = [
    dead_letter.c[name] for name in ("number", *COLUMNS) if name not in ("traceback",)
]


@dataclass(frozen=True)
class Choice:
    """Which dead letters; all that is given must hold.

    Attributes:
        type: A pattern for the type, as of `fnmatch`: ``Operational*``.
        reason: A pattern for the whole reason.
        since: Parked since then.
        until: Parked before then.
        queue: The queue of dead letters that they were in.
        group: Type, reason with placeholders, and queue, of `LetterGroup`.
        up_to: Their highest number: those that were filed later have higher ones.
        numbers: These alone.
    """

    type: str | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    queue: str | None = None
    group: tuple[str, str, str] | None = None
    up_to: int | None = None
    numbers: tuple[int, ...] | None = None

    def takes(self, kind: str, reason: str) -> bool:
        """Return whether a letter's type and reason match the patterns."""
        return (self.type is None or fnmatchcase(kind, self.type)) and (
            self.reason is None or fnmatchcase(reason, self.reason)
        )


@dataclass
class LetterGroup:
    """Letters of one type and queue that are dead for the same reason.

    Attributes:
        type: Their type.
        reason: The reason, with placeholders for its variable parts.
        queue: Their queue.
        count: How many there are.
        first: When the first one was parked, in UTC.
        last: When the last one was parked, in UTC.
        example: The id of one of them.
        up_to: Their highest number.
    """

    type: str
    reason: str
    queue: str
    count: int
    first: datetime
    last: datetime
    example: str
    up_to: int


class Letters(Reader):
    """The dead letters in a database."""

    def __init__(self, url: str, pooled: bool = False) -> None:
        super().__init__(url, pooled)
        self._writes: Engine | None = None

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        if self._writes is not None:
            self._writes.dispose()

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        if self._writes is None:
            self._writes = engine_of(self._url)
        with telling_why(self._url), self._writes.begin() as connection:
            check(connection, self._url)
            yield connection

    # Reading.

    def choose(
        self, choice: Choice, limit: int | None = None, skip: int = 0
    ) -> list[Letter]:
        """Return the letters of a choice, the oldest first, without tracebacks.

        Args:
            choice: Which; with a limit, without patterns.
            limit: Most to return.
            skip: How many to leave out first.
        """
        query = select(*_INDEX).where(*_conditions(choice))
        query = query.order_by(dead_letter.c.parked_at, dead_letter.c.number)
        query = query.limit(limit).offset(skip or None)
        with self._reading() as connection:
            return [
                _letter(one)
                for one in connection.execute(query)
                if choice.takes(one.type, one.reason)
            ]

    def groups(self, choice: Choice) -> list[LetterGroup]:
        """Return the groups of a choice, the largest first."""
        columns = (dead_letter.c.type, dead_letter.c.queue, dead_letter.c.reason_group)
        if choice.reason is not None:  # a pattern is for the reason as it is
            columns = (*columns, dead_letter.c.reason)  # type: ignore[assignment]
        query = (
            select(
                *columns,
                func.count().label("count"),
                func.min(dead_letter.c.parked_at).label("first"),
                func.max(dead_letter.c.parked_at).label("last"),
                func.max(dead_letter.c.id).label("example"),
                func.max(dead_letter.c.number).label("up_to"),
            )
            .where(*_conditions(choice))
            .group_by(*columns)
        )
        found: dict[tuple[str, str, str], LetterGroup] = {}
        with self._reading() as connection:
            for one in connection.execute(query):
                reason = one.reason if choice.reason is not None else one.reason_group
                if not choice.takes(one.type, reason):
                    continue
                key = (one.type, one.reason_group, one.queue)
                new = LetterGroup(*key, one._mapping["count"], *one[-4:])
                old = found.setdefault(key, new)
                if old is not new:
                    old.count += new.count
                    old.first = min(old.first, new.first)
                    old.last = max(old.last, new.last)
                    old.up_to = max(old.up_to, new.up_to)
        return sorted(found.values(), key=lambda one: (-one.count, one.first))

    def find(self, part: str) -> list[Letter]:
        """Return the letters whose ids begin with a part; else those that have it."""
        found, column = clean_id(part), dead_letter.c.id
        begins = beginning(column, part)
        query = select(*_INDEX).order_by(dead_letter.c.number)
        with self._reading() as connection:
            rows: list[Any] = []
            if begins is not None:
                rows = list(connection.execute(query.where(begins)))
            if not rows and found and not is_whole(found):
                inside = func.lower(column).contains(found, autoescape=True)
                rows = list(connection.execute(query.where(inside)))
        return [_letter(one) for one in rows if has_id(one.id, part)]

    def counts(self) -> dict[str, int]:
        """Return how many letters there are, by their queue of dead letters."""
        query = select(dead_letter.c.queue, func.count())
        with self._reading() as connection:
            rows = connection.execute(query.group_by(dead_letter.c.queue))
            return {str(one.queue): int(one[1]) for one in rows}

    def contents(self, letters: Iterable[Letter]) -> Iterator[tuple[Letter, Content]]:
        """Yield letters with their contents; those that are gone are left out."""
        for some in pages(letters):
            with self._reading() as connection:
                found = _contents(connection, some)
            yield from found

    # Changing.

    @contextmanager
    def turn(self, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Work alone on letters; others wait. It ends with the process, however.

        Args:
            waits: Called if somebody else is at work, and this has to wait.
        """
        file = urls.file_of(self._url)
        if file is None:
            with self._writing() as connection:
                lock = {"lock": _TURN}
                free = text("SELECT pg_try_advisory_xact_lock(:lock)")
                if not connection.scalar(free, lock):
                    waits()
                    connection.execute(
                        text("SELECT pg_advisory_xact_lock(:lock)"), lock
                    )
                yield
            return
        # SQLite's own locks would keep the worker from storing reports.
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waits()
                fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def remove(self, letters: Sequence[Letter]) -> list[Letter]:
        """Remove letters; return those that were still there."""
        wanted = {one.number: one for one in letters}
        gone = delete(dead_letter).where(dead_letter.c.number.in_(wanted))
        with self._writing() as connection:
            found = connection.scalars(gone.returning(dead_letter.c.number))
            numbers = set(found)
        return [one for number, one in wanted.items() if number in numbers]

    def change(self, letter: Letter, new: Letter, content: Content) -> bool:
        """Replace a letter by an edited one; return whether it was still there."""
        row = row_of(new, content)
        query = update(dead_letter).where(dead_letter.c.number == letter.number)
        with self._writing() as connection:
            return connection.execute(query.values(row)).rowcount == 1


def pages(letters: Iterable[Letter], most: int = PAGE) -> Iterator[list[Letter]]:
    """Yield letters in lists of some, neither too many nor too large."""
    page: list[Letter] = []
    size = 0
    for letter in letters:
        if page and (len(page) >= most or size + letter.size > PAGE_BYTES):
            yield page
            page, size = [], 0
        page.append(letter)
        size += letter.size
    if page:
        yield page


def _contents(
    connection: Connection, letters: Sequence[Letter]
) -> list[tuple[Letter, Content]]:
    columns = (dead_letter.c.traceback, dead_letter.c.envelope, dead_letter.c.body)
    query = select(*_INDEX, *columns, dead_letter.c.compressed)
    query = query.where(dead_letter.c.number.in_([one.number for one in letters]))
    found = {}
    for one in connection.execute(query):
        body = unpacked(one.body, one.compressed)
        content = content_of(body, bytes(one.envelope))
        found[one.number] = (_letter(one, one.traceback), content)
    return [found[one.number] for one in letters if one.number in found]


def _letter(one: Any, traceback: str = "") -> Letter:
    known = {name: one._mapping[name] for name in COLUMNS if name != "traceback"}
    known["key"] = bytes(known["key"])
    return Letter(**known, traceback=traceback, number=one.number)


def _conditions(choice: Choice) -> list[Any]:
    conditions: list[Any] = []
    if choice.since is not None:
        conditions.append(dead_letter.c.parked_at >= choice.since)
    if choice.until is not None:
        conditions.append(dead_letter.c.parked_at < choice.until)
    if choice.queue is not None:
        conditions.append(dead_letter.c.queue == choice.queue)
    if choice.group is not None:
        kind, reason, queue = choice.group
        conditions += [
            dead_letter.c.type == kind,
            dead_letter.c.reason_group == reason,
            dead_letter.c.queue == queue,
        ]
    if choice.up_to is not None:
        conditions.append(dead_letter.c.number <= choice.up_to)
    if choice.numbers is not None:
        conditions.append(dead_letter.c.number.in_(choice.numbers))
    return conditions
