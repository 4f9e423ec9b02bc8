"""Erase reports, wherever they are: in the table, and as the example of a group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import Connection, delete, literal, select, tuple_, update

from oops_celery import wire
from oops_celery.repository.database import telling_why
from oops_celery.repository.groups import normalised
from oops_celery.repository.row import unpacked
from oops_celery.repository.schema import report, report_group
from oops_celery.repository.store import Repository

#: Reports that are read, or removed, at once.
PAGE = 200

_KEY = (report.c.id, report.c.time)


@dataclass(frozen=True)
class Where:
    """A field of a report, however deep, and a pattern for its value.

    Attributes:
        field: The key, in any case: ``username``. In lists of pairs, too.
        value: A pattern for the whole value as text, as of `fnmatch`; of a list, for
            one of its values.
    """

    field: str
    value: str

    @classmethod
    def parse(cls, condition: str) -> Where:
        """Read ``field=value``.

        Raises:
            ValueError: It is not of this form.
        """
        field, equals, value = condition.partition("=")
        if not (field.strip() and equals and value):
            raise ValueError(
                f"{condition!r} is not like username=ann or email=*@a.example"
            )
        return cls(field.strip().lower(), value)

    def matches(self, value: Any) -> bool:
        """Return whether a report has it."""
        if isinstance(value, Mapping):
            pairs: Iterable[Any] = value.items()
        elif isinstance(value, (list, tuple)):
            pairs = [
                one for one in value if isinstance(one, (list, tuple)) and len(one) == 2
            ]
            if any(self.matches(one) for one in value if isinstance(one, (list, dict))):
                return True
        else:
            return False
        return any(self._is(*pair) or self.matches(pair[1]) for pair in pairs)

    def _is(self, key: Any, value: Any) -> bool:
        if str(key).lower() != self.field:
            return False
        values = value if isinstance(value, (list, tuple)) else [value]
        return any(
            fnmatchcase(
                one.decode(errors="replace") if isinstance(one, bytes) else str(one),
                self.value,
            )
            for one in values
            if not isinstance(one, (Mapping, list, tuple))
        )


def matches(body: bytes, conditions: Iterable[Where]) -> bool:
    """Return whether a report meets all conditions; what is no report meets none."""
    try:
        fields = wire.decode(body)
    except wire.Undecodable:
        return False
    return all(one.matches(fields) for one in conditions)


class Erasure:
    """Erases reports from a database.

    Counts stay as they are: they say what happened.

    Args:
        repository: The database; its tables are up to date.
    """

    def __init__(self, repository: Repository) -> None:
        self._url = repository.url
        self._engine = repository.engine()

    def search(self, conditions: Iterable[Where]) -> Iterator[list[tuple[str, Any]]]:
        """Read every report; yield the id and time of those that match, in parts."""
        conditions = list(conditions)
        last: Any = None
        columns = (*_KEY, report.c.body, report.c.compressed)
        while True:
            query = select(*columns).order_by(report.c.time, report.c.id).limit(PAGE)
            if last is not None:
                query = query.where(
                    tuple_(report.c.time, report.c.id)
                    > tuple_(
                        literal(last.time, report.c.time.type),
                        literal(last.id, report.c.id.type),
                    )
                )
            with telling_why(self._url), self._engine.begin() as connection:
                rows = list(connection.execute(query))
            if not rows:
                return
            yield [
                (one.id, one.time)
                for one in rows
                if matches(unpacked(one.body, one.compressed), conditions)
            ]
            last = rows[-1]

    def find(self, report_id: str) -> list[tuple[str, Any]]:
        """Return the id and time of the reports with an id."""
        with telling_why(self._url), self._engine.begin() as connection:
            rows = connection.execute(select(*_KEY).where(report.c.id == report_id))
            return [(one.id, one.time) for one in rows]

    def erase(self, keys: list[tuple[str, Any]]) -> Iterator[int]:
        """Remove reports; yield how many, part by part."""
        for begin in range(0, len(keys), PAGE):
            part = keys[begin : begin + PAGE]
            with telling_why(self._url), self._engine.begin() as connection:
                chosen = tuple_(*_KEY).in_(part)
                query = delete(report).where(chosen).returning(report.c.group_id)
                groups = list(connection.scalars(query))
                _renew_examples(connection, set(groups), {one for one, _ in part})
            yield len(groups)

    def wipe(self) -> bool:
        """Overwrite what was removed, as far as the database can.

        Returns:
            Whether it is done; else somebody reads SQLite's file, and its ``-wal`` file
            has it until the next checkpoint that nobody hinders.
        """
        with telling_why(self._url), self._engine.connect() as connection:
            raw: Any = connection.connection.dbapi_connection
            if connection.dialect.name == "sqlite":
                raw.executescript("PRAGMA incremental_vacuum")
                checkpoint = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                return bool(checkpoint[0] == 0)
            raw.autocommit = True
            connection.exec_driver_sql("VACUUM report, report_group, dead_letter")
            return True


def _renew_examples(connection: Connection, groups: set[int], erased: set[str]) -> None:
    """Give groups another example than an erased report: their latest one, or none."""
    for number in sorted(groups):
        query = select(report.c.id, report.c.value).where(report.c.group_id == number)
        latest = connection.execute(
            query.order_by(report.c.time.desc()).limit(1)
        ).first()
        known = connection.scalar(
            select(report_group.c.example).where(report_group.c.id == number)
        )
        value = latest.value if latest else ""
        values = {"example_value": value, "value": normalised(value)}
        if known in erased:
            values["example"] = latest.id if latest else ""
        connection.execute(
            update(report_group).where(report_group.c.id == number).values(values)
        )
