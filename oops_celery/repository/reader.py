"""Read a folder of reports as oops-datedir-repo lays it out: ``<date>/<file>``."""

from __future__ import annotations

import bz2
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

from oops_celery import wire
from oops_celery.repository.groups import Group, Groups, Seen
from oops_celery.wire.ids import clean_id, has_id

_DAY = re.compile(r"\d{4}-\d\d-\d\d")


class Stored(NamedTuple):
    """A report in a folder.

    Attributes:
        id: The report's id.
        type: The exception's type.
        time: The report's own time.
        body: The report, as BSON.
        path: Its file.
    """

    id: str
    type: str
    time: datetime | None
    body: bytes
    path: str


class Unreadable(NamedTuple):
    """A file that is not a report, and why."""

    file: str
    reason: str


@dataclass
class Overview:
    """The reports of some days."""

    folder: str
    #: The last day, in UTC, and the number of days.
    last: date
    days: int
    #: The whole hour from which reports count, if that is not the first day's begin.
    since: datetime | None = None
    groups: list[Group] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    #: The last day with any report, or in a folder the last folder of a day.
    latest: str | None = None

    @property
    def first(self) -> date:
        """The first day."""
        return self.last - timedelta(days=self.days - 1)

    @property
    def reports(self) -> int:
        """The number of reports."""
        return sum(group.count for group in self.groups)

    def add(self, found: Iterable[Seen | Unreadable | None]) -> None:
        """Sort what `read_reports` yields into groups."""
        groups = Groups()
        for one in found:
            if isinstance(one, Seen):
                groups.add(one)
            elif one is not None:
                self.unreadable.append(one)
        self.groups = groups.sorted()

    def period(self) -> str:
        """Return the days as text."""
        if self.since is not None:
            return f"{self.since:%Y-%m-%d %H:00} to {self.last.isoformat()}"
        if self.days == 1:
            return self.last.isoformat()
        return f"{self.first.isoformat()} to {self.last.isoformat()}"


def latest_day(folder: str) -> str | None:
    """Return the last day with a folder, even an empty one."""
    return max(_days(folder), default=None)


def files(folder: str, last: date, days: int) -> list[str]:
    """Return the files of some days, the earliest day first.

    Args:
        folder: The repository.
        last: The last day, in UTC, as in the names of DateDirRepo's folders.
        days: The number of days.

    Raises:
        OSError: A folder cannot be read. A day may be missing, the repository may not.
    """
    os.scandir(folder).close()
    found: list[str] = []
    for before in reversed(range(days)):
        day = (last - timedelta(days=before)).isoformat()
        with suppress(FileNotFoundError), os.scandir(Path(folder, day)) as entries:
            found += sorted(
                f"{day}/{entry.name}"
                for entry in entries
                # Unfinished files end with .tmp.
                if not entry.name.endswith(".tmp") and entry.is_file()
            )
    return found


def read_reports(
    folder: str, names: Iterable[str], texts: tuple[str, ...] = Groups.TEXTS
) -> Iterator[Seen | Unreadable | None]:
    """Yield each report; None if its file was removed meanwhile.

    Args:
        folder: The repository.
        names: What `files` returned.
        texts: The texts to read of each report.
    """
    for name in names:
        path = Path(folder, name)
        try:
            body = path.read_bytes()
            found = wire.peek(body, texts)
            time = wire.peek_time(body, "time") or _written(path)
        except FileNotFoundError:  # somebody removed it
            yield None
        except OSError as error:
            yield Unreadable(name, error.strerror or str(error))
        except wire.Undecodable as error:
            yield Unreadable(name, str(error))
        else:
            yield Seen(found, time, name)


def _written(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)


def _days(folder: str | Path) -> list[str]:
    """Return the names of the folders of days, the oldest first."""
    return sorted(filter(_DAY.fullmatch, os.listdir(folder)))


def waiting(folder: Path) -> list[Path]:
    """Return the finished files of a folder of reports, the oldest day first.

    A day that cannot be read stands for its files: `resubmit` gives the reason.

    Raises:
        OSError: The folder cannot be read.
    """
    found: list[Path] = []
    for day in _days(folder):
        try:
            names = sorted(os.listdir(folder / day))
        except NotADirectoryError:
            continue
        except OSError:
            found.append(folder / day)
        else:
            found += [folder / day / name for name in names if name[-4:] != ".tmp"]
    return found


def find_reports(
    folder: str, part: str, news: Callable[[str], None] = lambda _: None
) -> Iterator[Stored]:
    """Find reports in a repository, the newest day first.

    A file need not be named after its report (oops-datedir-repo's are not). So the
    content is searched for the bytes of the id, and the id is read only if they match.

    Args:
        folder: The repository; it may be missing.
        part: A part of the id, or the start of the file's name.
        news: Called with the progress of the search.
    """
    wanted = clean_id(part).encode("utf-8", "surrogateescape")
    with suppress(OSError):
        for day in reversed(_days(folder)):
            news(day)
            for path in _whole_files(os.path.join(folder, day)):
                with suppress(OSError):
                    yield from _in_file(path, part, wanted)


def _whole_files(folder: str) -> Iterator[str]:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.endswith(".tmp"):  # unfinished
                yield entry.path


def _in_file(path: str, part: str, wanted: bytes) -> Iterator[Stored]:
    # os.open: most of the time goes into many small files.
    # O_NONBLOCK: a named pipe contains no report, and may have no writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        body = os.read(descriptor, os.fstat(descriptor).st_size + 1)
    finally:
        os.close(descriptor)
    if body.startswith(b"BZh"):
        with suppress(OSError, ValueError):
            body = bz2.decompress(body)
    name = os.path.basename(path)
    named = name.lower().startswith(wanted.decode("utf-8", "surrogateescape"))
    if not named and wanted not in body.lower():
        return
    with suppress(wire.Undecodable):
        body = as_bson(body)
        known = wire.peek(body, ("id", "type"))
        own = known.get("id") or name
        if named or has_id(own, part):
            time = wire.peek_time(body, "time")
            yield Stored(own, known.get("type", ""), time, body, path)


def as_bson(content: bytes) -> bytes:
    """Return a file's report as BSON; old files have RFC 822 headers instead.

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
