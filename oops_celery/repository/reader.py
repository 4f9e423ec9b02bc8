"""A repository as oops-datedir-repo has it, read: ``<folder>/<date>/<file>``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

from oops_celery import wire
from oops_celery.repository.groups import Group, Groups, Seen

_DAY = re.compile(r"\d{4}-\d\d-\d\d")


class Unreadable(NamedTuple):
    """A file that is no report, and why."""

    file: str
    reason: str


@dataclass
class Overview:
    """What happened in some days."""

    folder: str
    #: The last day, in UTC, and how many there are.
    last: date
    days: int
    groups: list[Group] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)

    @property
    def first(self) -> date:
        """The first day."""
        return self.last - timedelta(days=self.days - 1)

    @property
    def reports(self) -> int:
        """How many reports there are."""
        return sum(group.count for group in self.groups)

    def add(self, found: Iterable[Seen | Unreadable | None]) -> None:
        """Sort what `read` yields into groups."""
        groups = Groups()
        for one in found:
            if isinstance(one, Seen):
                groups.add(one)
            elif one is not None:
                self.unreadable.append(one)
        self.groups = groups.sorted()

    def period(self) -> str:
        """Return the days in words."""
        if self.days == 1:
            return self.last.isoformat()
        return f"{self.first.isoformat()} to {self.last.isoformat()}"


def latest_day(folder: str) -> str | None:
    """Return the last day that has a folder, whether or not there is a report in it."""
    with os.scandir(folder) as entries:
        return max(filter(_DAY.fullmatch, (one.name for one in entries)), default=None)


def files(folder: str, last: date, days: int) -> list[str]:
    """Return the files of some days, from the earliest day on.

    Args:
        folder: The repository.
        last: The last day, in UTC: DateDirRepo's folders are named so.
        days: How many days.

    Raises:
        OSError: A folder cannot be read. That one of a day is missing is no error, that
            the repository is missing is one.
    """
    os.scandir(folder).close()
    found: list[str] = []
    for before in reversed(range(days)):
        day = (last - timedelta(days=before)).isoformat()
        with suppress(FileNotFoundError), os.scandir(Path(folder, day)) as entries:
            found += sorted(
                f"{day}/{entry.name}"
                for entry in entries
                # A report that is being written has a name with .tmp.
                if not entry.name.endswith(".tmp") and entry.is_file()
            )
    return found


def read_reports(
    folder: str, names: Iterable[str], texts: tuple[str, ...] = Groups.TEXTS
) -> Iterator[Seen | Unreadable | None]:
    """Read reports, one for each name; None where the file has gone meanwhile.

    Args:
        folder: The repository.
        names: What `files` returned.
        texts: The texts that are wanted of each report.
    """
    for name in names:
        path = Path(folder, name)
        try:
            body = path.read_bytes()
            found = wire.peek(body, texts)
            time = wire.peek_time(body, "time") or _written(path)
        except FileNotFoundError:  # somebody tidies up
            yield None
        except OSError as error:
            yield Unreadable(name, error.strerror or str(error))
        except wire.Undecodable as error:
            yield Unreadable(name, str(error))
        else:
            yield Seen(found, time, name)


def _written(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
