"""Every question that commands and pages ask about stored reports."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import date, datetime, time, timedelta, timezone
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import Connection, func, literal, select, tuple_

from oops_celery.repository.database import Reader
from oops_celery.repository.groups import HOUR, Group, hour_start
from oops_celery.repository.reader import Overview, Stored
from oops_celery.repository.row import unpacked
from oops_celery.repository.schema import group_day, group_hour, report, report_group
from oops_celery.repository.search import (
    Neighbours,
    Summary,
    Wanted,
    beginning,
    beside,
    conditions,
)
from oops_celery.wire.ids import clean_id, is_whole

#: Most reports to find by a part of an id.
MOST_FOUND = 1000

#: Reports with their bodies that are read at once.
_PAGE = 200


class Reports(Reader):
    """The reports in a database: each method sees those of one moment."""

    def find(self, part: str) -> list[Stored]:
        """Return the report with an id; else those whose ids begin with a part of one.

        If there are none, those that have it anywhere, for which every id is read; not
        for a whole id of ours.

        Args:
            part: An id, or a part of one, as people paste it.

        Returns:
            The newest first, at most `MOST_FOUND`. If there are several ids, only that
            which is the part has its body; the others are empty.
        """
        whole = clean_id(part)
        with self._reading() as connection:
            if is_whole(whole) and (exact := _exact(connection, whole)):
                return [
                    Stored(
                        one.id,
                        one.type,
                        one.time,
                        unpacked(one.body, one.compressed),
                        self.name,
                    )
                    for one in exact
                ]
            found = _begin_with(connection, part)
            if not found and not (is_whole(whole) and whole.startswith("oops-")):
                found = _contain(connection, part)
            alone = len({one.id for one in found}) == 1
            return [
                Stored(
                    one.id,
                    one.type,
                    one.time,
                    _body(connection, one)
                    if alone or one.id == part or one.id.lower() == whole
                    else b"",
                    self.name,
                )
                for one in found
            ]

    def overview(
        self,
        last: date,
        days: int,
        since: datetime | None = None,
        by_hour: bool = True,
    ) -> Overview:
        """Return the groups of some days, the largest first.

        Args:
            last: The last day, in UTC.
            days: The number of days.
            since: Only reports of this hour and later.
            by_hour: Whether the counts are by hour; else by day, each at the first hour
                of its day, which costs less for many days.
        """
        overview = Overview(self.name, last, days)
        begin = datetime.combine(overview.first, time(), timezone.utc)
        end = begin + timedelta(days=days)
        if since is not None:
            overview.since = begin = hour_start(_hour(since))
            by_hour = True
        table, unit, size = group_hour, group_hour.c.hour, 1
        if not by_hour:
            table, unit, size = group_day, group_day.c.day, 24
        with self._reading() as connection:
            hours: dict[int, Counter[int]] = defaultdict(Counter)
            for number, moment, count in connection.execute(
                select(table).where(
                    unit >= _hour(begin) // size, unit < _hour(end) // size
                )
            ):
                hours[number][moment * size] = count
            for one in connection.execute(
                select(report_group).where(
                    report_group.c.last_seen >= begin, report_group.c.first_seen < end
                )
            ):
                if one.id in hours:
                    group = _group(one, hours[one.id], begin, end, size)
                    if one.last_seen >= end:
                        since = hour_start(max(hours[one.id]))
                        group.example = _latest(connection, one.id, since, end)
                    overview.groups.append(group)
            latest = connection.scalar(select(func.max(report_group.c.last_seen)))
            overview.latest = latest and latest.date().isoformat()
        overview.groups.sort(key=lambda group: (group.count, group.last), reverse=True)
        return overview

    def group(self, number: int, by_hour: bool = True) -> Group | None:
        """Return a group with all that was ever counted; None if there is none.

        Args:
            number: `Group.id`.
            by_hour: As of `overview`.
        """
        row = select(report_group).where(report_group.c.id == number)
        counts = select(group_hour.c.hour, group_hour.c["count"])
        counts = counts.where(group_hour.c.group_id == number)
        if not by_hour:
            counts = select(group_day.c.day * 24, group_day.c["count"])
            counts = counts.where(group_day.c.group_id == number)
        with self._reading() as connection:
            one = connection.execute(row).first()
            if one is None:
                return None
            hours = Counter[int]()
            for hour, count in connection.execute(counts):
                hours[hour] = count
        end = one.last_seen + timedelta(seconds=1)
        return _group(one, hours, one.first_seen, end, 1)

    def bodies(
        self,
        ids: Iterable[str] = (),
        kind: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Iterator[Stored]:
        """Yield reports with their bodies, the oldest first.

        Args:
            ids: Only these.
            kind: Only those whose exception's type matches this pattern (`fnmatch`).
            since: Only those since then.
            until: Only those before then.
        """
        columns = (*_INDEX, report.c.body, report.c.compressed)
        query = select(*columns).order_by(report.c.time, report.c.id).limit(_PAGE)
        if wanted := list(ids):
            query = query.where(report.c.id.in_(wanted))
        if since is not None:
            query = query.where(report.c.time >= since)
        if until is not None:
            query = query.where(report.c.time < until)
        seen: tuple[Any, ...] | None = None
        while True:
            page = query
            if seen is not None:
                after = tuple_(report.c.time, report.c.id) > tuple_(*seen)
                page = query.where(after)
            with self._reading() as connection:
                found = list(connection.execute(page))
            for one in found:
                if kind is None or fnmatchcase(one.type, kind):
                    body = unpacked(one.body, one.compressed)
                    yield Stored(one.id, one.type, one.time, body, self.name)
            if len(found) < _PAGE:
                return
            last = found[-1]
            seen = (
                literal(last.time, report.c.time.type),
                literal(last.id, report.c.id.type),
            )

    def search(
        self,
        wanted: Wanted,
        after: Summary | None = None,
        limit: int = 50,
    ) -> list[Summary]:
        """Return reports without their bodies, the newest first.

        Args:
            wanted: Which.
            after: The last one of the page before.
            limit: Most to return.
        """
        query = select(*_SUMMARY)
        if after is not None:
            query = query.where(
                tuple_(report.c.time, report.c.id)
                < tuple_(
                    literal(after.time, report.c.time.type),
                    literal(after.id, report.c.id.type),
                )
            )
        newest = (report.c.time.desc(), report.c.id.desc())
        query = query.order_by(*newest).limit(limit)
        # One query for each type: its index has them in the order of time.
        each = [replace(wanted, types=(one,)) for one in wanted.types] or [wanted]
        found: list[Summary] = []
        with self._reading() as connection:
            for one in each:
                rows = connection.execute(query.where(*conditions(one)))
                found += [Summary(*row) for row in rows]
        found.sort(key=lambda one: (one.time, one.id), reverse=True)
        return found[:limit]

    def types(self) -> list[str]:
        """Return the types of all groups, the latest first."""
        query = select(report_group.c.type).group_by(report_group.c.type)
        query = query.order_by(func.max(report_group.c.last_seen).desc())
        with self._reading() as connection:
            return list(connection.scalars(query))

    def neighbours(self, report_id: str, time: datetime) -> Neighbours | None:
        """Return what is beside a report in its group; None if it is not stored.

        Args:
            report_id: The report's id.
            time: Its time.
        """
        with self._reading() as connection:
            return beside(connection, report_id, time)

    def count(self) -> int:
        """Return the number of all reports that were ever stored."""
        with self._reading() as connection:
            return int(connection.scalar(select(func.sum(report_group.c.count))) or 0)


_INDEX = (report.c.id, report.c.type, report.c.time)
_SUMMARY = [report.c[name] for name in Summary._fields]


def _exact(connection: Connection, whole: str) -> list[Any]:
    query = select(*_INDEX, report.c.body, report.c.compressed)
    query = query.where(report.c.id == f"OOPS-{whole.removeprefix('oops-')}")
    return list(connection.execute(query.order_by(report.c.time.desc())))


def _begin_with(connection: Connection, part: str) -> list[Any]:
    begins = beginning(report.c.id, part)
    return [] if begins is None else _newest(connection, begins)


def _contain(connection: Connection, part: str) -> list[Any]:
    found = clean_id(part)
    return (
        _newest(connection, func.lower(report.c.id).contains(found, autoescape=True))
        if found
        else []
    )


def _newest(connection: Connection, condition: Any) -> list[Any]:
    query = select(*_INDEX).where(condition).order_by(report.c.time.desc())
    return list(connection.execute(query.limit(MOST_FOUND)))


def _body(connection: Connection, one: Any) -> bytes:
    query = select(report.c.body, report.c.compressed)
    query = query.where(report.c.id == one.id, report.c.time == one.time)
    return unpacked(*connection.execute(query).one())


def _hour(moment: datetime) -> int:
    return int(moment.timestamp()) // HOUR


def _group(
    one: Any, hours: Counter[int], begin: datetime, end: datetime, size: int
) -> Group:
    """Return a group as it was in a period; counts are all that is kept of others.

    Args:
        one: The group's row.
        hours: Its counts in the period.
        begin: The period's begin.
        end: The period's end.
        size: The hours of each count.
    """
    first, last = one.first_seen, one.last_seen
    if first < begin:
        first = hour_start(min(hours))
    if last >= end:
        last = hour_start(max(hours) + size) - timedelta(seconds=1)
    return Group(
        type=one.type,
        topic=one.topic,
        value=one.value,
        first=first,
        last=last,
        example=one.example,
        hours=hours,
        id=one.id,
        example_value=one.example_value,
        place=one.place,
        state=one.state,
        new=one.first_seen >= begin,
    )


def _latest(connection: Connection, group: int, since: datetime, end: datetime) -> str:
    """Return the id of a group's latest report before a time; empty if none is kept.

    Args:
        connection: Of the database.
        group: The group's number.
        since: Its last count, which tells PostgreSQL the one day to look at.
        end: The time.
    """
    query = select(report.c.id).where(report.c.group_id == group, report.c.time < end)
    query = query.order_by(report.c.time.desc()).limit(1)
    there = query.where(report.c.time >= since)
    return connection.scalar(there) or connection.scalar(query) or ""
