"""Find a report by its id: in the repository, and among the dead letters."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from oops_celery import wire
from oops_celery.dead_letters.letter import Letter
from oops_celery.errors import RepositoryError
from oops_celery.repository.reader import find_reports
from oops_celery.settings import repository_url as urls
from oops_celery.wire.ids import clean_id, is_whole

if TYPE_CHECKING:
    from oops_celery.dead_letters.letters import Letters
    from oops_celery.repository.queries import Reports


@dataclass(frozen=True)
class Found:
    """A report, or another message, and where it is.

    Attributes:
        id: The report's id.
        type: The exception's type, or the message's.
        time: The report's time, or that of its parking.
        body: The report as BSON; or the message's body.
        path: Its file or its database.
        letter: What is known of a dead letter.
        headers: Its headers.
    """

    id: str
    type: str
    time: datetime | None
    body: bytes
    path: str
    letter: Letter | None = None
    headers: Mapping[str, Any] | None = None

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
    """A search for a report that was stored or parked. It needs no broker.

    Args:
        place: The repository: the URL of a database, or a folder.
        part: The id, or a part of it.
        news: Called with the progress of the search.

    Attributes:
        found: The reports found so far.
        looked_at: The places that were searched.
        not_looked_at: Why others could not be searched.
    """

    def __init__(
        self, place: str, part: str, news: Callable[[str], None] = lambda _: None
    ) -> None:
        self._place = place
        self._part = part
        self._news = news
        self.found: list[Found] = []
        self.looked_at: list[str] = []
        self.not_looked_at: list[str] = []

    def run(self) -> Search:
        """Search; return itself."""
        if urls.is_url(self._place):
            self._database(urls.check(self._place))
        else:
            self._folder(os.path.abspath(self._place))
        return self

    @property
    def by_id(self) -> dict[str, list[Found]]:
        """The reports found, by id."""
        return by_id(self.found)

    def _database(self, url: str) -> None:
        from oops_celery.dead_letters.letters import Letters
        from oops_celery.repository.queries import Reports

        name = urls.without_password(url)
        try:
            with Reports(url) as reports, Letters(url) as letters:
                for found in in_database(reports, letters, self._part):
                    _add(self.found, found, self._part)
        except RepositoryError as error:
            self.not_looked_at.append(f"the repository could not be read: {error}")
        else:
            self.looked_at.append(f"repository {name}")

    def _folder(self, folder: str) -> None:
        there = os.path.isdir(folder)
        self.looked_at.append(f"repository {folder}{'' if there else ' (not there)'}")
        for kept in find_reports(folder, self._part, self._news):
            found = Found(kept.id, kept.type, kept.time, kept.body, kept.path)
            _add(self.found, found, self._part)
            whole = clean_id(self._part)
            if found.id.lower() == whole and is_whole(whole):
                return


def by_id(found: Iterable[Found]) -> dict[str, list[Found]]:
    """Return reports by their id."""
    together: dict[str, list[Found]] = {}
    for one in found:
        together.setdefault(one.id, []).append(one)
    return together


def in_database(reports: Reports, letters: Letters, part: str) -> Iterator[Found]:
    """Find reports, then dead letters, by a part of their id; see `Reports.find`."""
    for kept in reports.find(part):
        yield Found(kept.id, kept.type, kept.time, kept.body, reports.name)
    yield from in_letters(letters, part)


def in_letters(letters: Letters, part: str) -> list[Found]:
    """Find dead letters by a part of their id.

    Returns:
        The matching letters; only those of one id have bodies.
    """
    matching = letters.find(part)
    whole = clean_id(part)
    if len({one.id for one in matching}) > 1:
        exact = [one for one in matching if part == one.id or whole == one.id.lower()]
    else:
        exact = matching
    contents = {letter.number: (letter, it) for letter, it in letters.contents(exact)}
    found = []
    for one in matching:
        letter, content = contents.get(one.number, (one, None))
        found.append(
            Found(
                letter.id,
                letter.type,
                letter.time or letter.parked_at,
                content.body if content else b"",
                letters.name,
                letter,
                content.headers if content else None,
            )
        )
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
