"""Remove old reports: by their age, by the size of the database, by group.

Of a group that is open, or came back, the first and the newest report stay. Counts
stay as they are: they say what happened, not what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    delete,
    false,
    func,
    literal,
    or_,
    select,
    text,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite

from oops_celery.repository.database import telling_why
from oops_celery.repository.partitions import name_of as partition
from oops_celery.repository.schema import job, report, report_group
from oops_celery.repository.store import Repository

#: Reports that one transaction removes.
PAGE = 1000

#: How often workers do this.
EVERY = timedelta(hours=1)

#: Milliseconds that PostgreSQL waits for those that read a day that is dropped; then it
#: is tried again, so that nobody waits behind it.
LOCK_TIMEOUT = 2000

_JOB = "prune"


@dataclass(frozen=True)
class Limits:
    """What is kept; 0 is no limit.

    Attributes:
        days: Days of the report's time, today included.
        bytes: Of the database's tables and indexes on disk.
        per_group: Reports of a group, the newest.
    """

    days: int = 0
    bytes: int = 0
    per_group: int = 0


class Retention:
    """Removes what is beyond the limits.

    Args:
        repository: The database.
        limits: What is kept.
    """

    def __init__(self, repository: Repository, limits: Limits) -> None:
        self._url = repository.url
        self._limits = limits
        self._engine: Engine = repository.engine()
        self._is_postgresql = self._engine.dialect.name == "postgresql"
        #: Reports that stay, by id and time.
        self._stays: set[tuple[str, datetime]] = set()

    def is_due(self) -> bool:
        """Return whether nobody did this for an hour, and note that it is begun now."""
        now = datetime.now(timezone.utc)
        insert = (postgresql if self._is_postgresql else sqlite).insert(job)
        claim = insert.values(name=_JOB, begun=now).on_conflict_do_update(
            index_elements=["name"],
            set_={"begun": now},
            where=job.c.begun < now - EVERY,
        )
        with self._begin() as connection:
            return connection.execute(claim.returning(job.c.name)).first() is not None

    def size(self) -> int:
        """Return the bytes of the database's tables and indexes."""
        with self._begin() as connection:
            if self._is_postgresql:
                sizes = text(
                    "SELECT sum(pg_total_relation_size(oid)) FROM pg_class"
                    " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
                )
                return int(connection.scalar(sizes) or 0)
            pages, free, size = (
                int(connection.exec_driver_sql(f"PRAGMA {name}").scalar() or 0)
                for name in ("page_count", "freelist_count", "page_size")
            )
            return (pages - free) * size

    def plan(self) -> int:
        """Return how many reports are older than ``days``, or too many of a group."""
        oldest, most = self._oldest(), self._limits.per_group
        with self._begin() as connection:
            self._stays = _staying(connection)
            rank = func.row_number().over(
                partition_by=report.c.group_id, order_by=report.c.time.desc()
            )
            ranked = select(*_KEY, rank.label("rank")).subquery()
            beyond = [ranked.c.time < oldest] if oldest else []
            beyond += [ranked.c.rank > most] if most else []
            query = select(ranked.c.id, ranked.c.time).where(or_(false(), *beyond))
            return sum(
                (one.id, one.time) not in self._stays
                for one in connection.execute(query)
            )

    def run(self) -> Iterator[int]:
        """Remove them; yield the number that was removed, part by part."""
        with self._begin() as connection:
            self._stays = _staying(connection)
        if (oldest := self._oldest()) is not None:
            if self._is_postgresql:
                for day in self._days():
                    if day < oldest.date():
                        yield self._shrink(day, 0)
            else:
                yield from self._oldest_first(report.c.time < oldest)
        if self._limits.per_group:
            yield from self._by_group(self._limits.per_group)
        if self._limits.bytes:
            yield from self._by_size(self._limits.bytes)
        if not self._is_postgresql:
            self._give_back()

    def _oldest(self) -> datetime | None:
        if not self._limits.days:
            return None
        today = datetime.now(timezone.utc).date()
        first = today - timedelta(days=self._limits.days - 1)
        return datetime.combine(first, time(), timezone.utc)

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        with telling_why(self._url), self._engine.begin() as connection:
            yield connection

    def _by_group(self, most: int) -> Iterator[int]:
        newest = report.c.time.desc()
        with self._begin() as connection:
            groups = list(connection.scalars(select(report_group.c.id)))
        for group in groups:
            mine = report.c.group_id == group
            with self._begin() as connection:
                query = select(report.c.time).where(mine).order_by(newest)
                last = connection.scalar(query.offset(most - 1).limit(1))
            if last is not None:
                yield from self._oldest_first(mine, report.c.time < last)

    def _oldest_first(
        self, *conditions: Any, page: Callable[[], int] = lambda: PAGE
    ) -> Iterator[int]:
        """Remove the oldest reports first, a page at a time; yield the numbers."""
        after: list[Any] = []
        while True:
            query = select(*_KEY).where(*conditions, *after)
            query = query.order_by(report.c.time, report.c.id).limit(page())
            with self._begin() as connection:
                keys = [(one.id, one.time) for one in connection.execute(query)]
                gone = [key for key in keys if key not in self._stays]
                if gone:
                    chosen = tuple_(*_KEY).in_(gone)
                    connection.execute(delete(report).where(chosen))
            if not keys:
                return
            yield len(gone)
            last_id, last_time = keys[-1]
            after = [
                tuple_(report.c.time, report.c.id)
                > tuple_(
                    literal(last_time, report.c.time.type),
                    literal(last_id, report.c.id.type),
                )
            ]

    def _by_size(self, most: int) -> Iterator[int]:
        if self._is_postgresql:
            for day in self._days():
                if (over := self.size() - most) <= 0:
                    return
                number, size = self._measure(day)
                share = max(1 - over / size, 0) if size else 0
                yield self._shrink(day, int(number * share))
            return
        with self._begin() as connection:
            number = connection.scalar(select(func.count()).select_from(report)) or 0
        share = self.size() / max(number, 1)

        def page() -> int:
            return max(min(int((self.size() - most) / share), PAGE), 1)

        pages = self._oldest_first(page=page)
        while self.size() > most:
            removed = next(pages, None)
            if removed is None:  # all that is left stays
                break
            yield removed

    def _give_back(self) -> None:
        """Give what is free in SQLite's file back to the file system."""
        with telling_why(self._url), self._engine.connect() as connection:
            raw: Any = connection.connection.dbapi_connection
            # Not `execute`, which would give back one page.
            raw.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint")

    # PostgreSQL's partitions.

    def _days(self) -> list[date]:
        """Return the days that have a partition, the oldest first."""
        query = text("SELECT relname FROM pg_class WHERE relname ~ '^report_[0-9]{8}$'")
        with self._begin() as connection:
            names = sorted(connection.scalars(query))
        return [datetime.strptime(one[-8:], "%Y%m%d").date() for one in names]

    def _measure(self, day: date) -> tuple[int, int]:
        """Return the number of reports of a day, and their bytes."""
        name = partition(day)
        with self._begin() as connection:
            number = connection.scalar(text(f"SELECT count(*) FROM {name}"))
            size = text("SELECT pg_total_relation_size(CAST(:name AS regclass))")
            return int(number or 0), int(connection.scalar(size, {"name": name}) or 0)

    def _shrink(self, day: date, keep: int) -> int:
        """Keep the newest reports of a day, and those that stay; drop the others.

        The partition is emptied and filled again, or dropped: that takes no longer for
        many reports, and gives the disk back at once.
        """
        name = partition(day)
        here = [key for key in self._stays if key[1].date() == day]
        with self._begin() as connection:
            connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT}"))
            connection.execute(text(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE"))
            before = connection.scalar(text(f"SELECT count(*) FROM {name}")) or 0
            connection.execute(
                text(
                    f"CREATE TEMP TABLE kept ON COMMIT DROP AS SELECT * FROM {name}"
                    " WHERE id IN (SELECT unnest(CAST(:ids AS text[])))"
                    f" UNION SELECT * FROM (SELECT * FROM {name}"
                    " ORDER BY time DESC LIMIT :keep) AS newest"
                ),
                {"ids": [one for one, _ in here], "keep": keep},
            )
            kept = connection.scalar(text("SELECT count(*) FROM kept")) or 0
            if kept:
                connection.execute(text(f"TRUNCATE {name}"))
                connection.execute(text(f"INSERT INTO {name} SELECT * FROM kept"))
            else:
                connection.execute(text(f"ALTER TABLE report DETACH PARTITION {name}"))
                connection.execute(text(f"DROP TABLE {name}"))
        return int(before - kept)


_KEY = (report.c.id, report.c.time)


def _staying(connection: Connection) -> set[tuple[str, datetime]]:
    """Return the first and the newest report of each group that is open."""
    open_ = select(report_group.c.id).where(
        report_group.c.state.in_(["open", "regressed"])
    )
    stays = set()
    for group in list(connection.scalars(open_)):
        query = select(*_KEY).where(report.c.group_id == group).limit(1)
        for order in (report.c.time, report.c.time.desc()):
            one = connection.execute(query.order_by(order)).first()
            if one is not None:
                stays.add((one.id, one.time))
    return stays
