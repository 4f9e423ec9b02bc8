"""PostgreSQL's table for each day of reports."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, timedelta, timezone

from sqlalchemy import Connection, Engine, text

from oops_celery.repository.row import Row

#: Of PostgreSQL: held by the one that makes a partition.
_LOCK = 0x6F6F7074


class Partitions:
    """The tables of days: each is made when the first report of the day comes."""

    def __init__(self) -> None:
        self._known: set[date] = set()

    def forget(self) -> None:
        """Look again: somebody may have dropped one."""
        self._known.clear()

    def make(self, engine: Engine, rows: Iterable[Row]) -> None:
        """Make what is missing for some reports."""
        self.make_days(engine, {row.time.date() for row in rows})

    def make_days(self, engine: Engine, days: set[date]) -> None:
        """Make what is missing for some days, and for tomorrow."""
        if engine.dialect.name != "postgresql" or days <= self._known:
            return
        tomorrow = datetime.now(timezone.utc).date() + timedelta(days=1)
        with engine.begin() as connection:
            lock = text("SELECT pg_advisory_xact_lock(:lock)")
            connection.execute(lock, {"lock": _LOCK})
            for day in sorted(days | {tomorrow}):
                _make_partition(connection, day)
        self._known |= days


def name_of(day: date) -> str:
    """Return the name of the table of a day."""
    return f"report_{day:%Y%m%d}"


def _make_partition(connection: Connection, day: date) -> None:
    name = name_of(day)
    if connection.scalar(text("SELECT to_regclass(:name)"), {"name": name}) is None:
        # Attached rather than made as a partition: that would wait for every
        # transaction that reads or writes reports, and they for it.
        end = day + timedelta(days=1)
        like = "LIKE report INCLUDING DEFAULTS INCLUDING STORAGE"
        connection.execute(text(f"CREATE TABLE {name} ({like})"))
        connection.execute(
            text(
                f"ALTER TABLE report ATTACH PARTITION {name}"
                f" FOR VALUES FROM ('{day} 00:00+00') TO ('{end} 00:00+00')"
            )
        )
