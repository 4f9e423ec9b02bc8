"""Copy a whole database into another one: from SQLite to PostgreSQL, or back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import Engine, Table, delete, func, select, text, tuple_
from sqlalchemy.exc import IntegrityError

from oops_celery.errors import RepositoryError
from oops_celery.repository.database import check, engine_of, telling_why
from oops_celery.repository.partitions import Partitions
from oops_celery.repository.rows import insert_of
from oops_celery.repository.schema import (
    dead_letter,
    job,
    metadata,
    report,
    report_group,
)
from oops_celery.repository.store import Repository
from oops_celery.settings.repository_url import without_password

#: Rows that one transaction copies.
PAGE = 500

#: Tables whose first column is a number that the database chooses.
_NUMBERED = (report_group, dead_letter)


class Copy:
    """Copies every table. It may be killed, and done again: then it goes on.

    No worker may store into the first database meanwhile.

    Args:
        source: The URL of the database, from `repository_url.check`.
        target: That of the other one, which is empty, or has a part of this copy.

    Raises:
        RepositoryError: One cannot be used; by each method, too.
    """

    def __init__(self, source: str, target: str) -> None:
        if source == target:
            raise RepositoryError(f"{without_password(source)} is copied to itself")
        self._source, self._target = source, target
        self._reads = engine_of(source, writes=False)
        with telling_why(source), self._reads.begin() as connection:
            check(connection, source)
        repository = Repository(target)
        repository.upgrade()
        self._writes: Engine = repository.engine()
        self._partitions = Partitions()
        self._tables = [one for one in metadata.sorted_tables if one is not job]
        #: In the other database while it is not whole.
        self._mark = f"copy of {without_password(source)}"

    def total(self) -> int:
        """Return the number of rows of the database."""
        return sum(self._counts(self._source, self._reads).values())

    def run(self) -> Iterator[int]:
        """Copy; yield the number of rows, part by part, with those of an earlier copy.

        Raises:
            RepositoryError: The other database has something else.
        """
        self._begin()
        for table in self._tables:
            yield from self._copy(table)
        with telling_why(self._target), self._writes.begin() as connection:
            if connection.dialect.name == "postgresql":
                for table in _NUMBERED:
                    column = next(iter(table.primary_key))
                    following = f"coalesce(max({column.name}), 0) + 1"
                    connection.execute(
                        text(
                            "SELECT setval(pg_get_serial_sequence(:table, :column), "
                            f"{following}, false) FROM {table.name}"
                        ),
                        {"table": table.name, "column": column.name},
                    )
            connection.execute(delete(job).where(job.c.name == self._mark))

    def differences(self) -> dict[str, tuple[int, int]]:
        """Return the tables that have other numbers of rows, and both numbers."""
        here = self._counts(self._source, self._reads)
        there = self._counts(self._target, self._writes)
        return {
            name: (number, there[name])
            for name, number in here.items()
            if number != there[name]
        }

    def _counts(self, url: str, engine: Engine) -> dict[str, int]:
        with telling_why(url), engine.begin() as connection:
            return {
                table.name: connection.scalar(select(func.count()).select_from(table))
                or 0
                for table in self._tables
            }

    def _begin(self) -> None:
        name = without_password(self._target)
        with telling_why(self._target), self._writes.begin() as connection:
            marks = set(
                connection.scalars(
                    select(job.c.name).where(job.c.name.like("copy of %"))
                )
            )
            others = [
                table.name
                for table in self._tables
                if connection.execute(select(table).limit(1)).first() is not None
            ]
            if self._mark in marks:
                return
            if others:
                what = f"a {marks.pop()}" if marks else f"rows in {', '.join(others)}"
                raise RepositoryError(
                    f"{name} has {what}: copy into an empty database; "
                    "to add reports to it, use export and import"
                )
            row = {"name": self._mark, "begun": datetime.now(timezone.utc)}
            connection.execute(job.insert().values(row))

    def _copy(self, table: Table) -> Iterator[int]:
        keys = list(table.primary_key)
        order = [one.desc() for one in keys]
        with telling_why(self._target), self._writes.begin() as connection:
            newest = select(*keys).order_by(*order).limit(1)
            last: Any = connection.execute(newest).first()
            number = select(func.count()).select_from(table)
            yield connection.scalar(number) or 0
        insert = insert_of(self._writes.dialect.name)(table)
        while True:
            query = select(table).order_by(*keys).limit(PAGE)
            if last is not None:
                query = query.where(tuple_(*keys) > _values(keys, last))
            with telling_why(self._source), self._reads.begin() as connection:
                rows = list(connection.execute(query))
            if not rows:
                return
            try:
                with telling_why(self._target):
                    if table is report:
                        days = {row.time.date() for row in rows}
                        self._partitions.make_days(self._writes, days)
                    with self._writes.begin() as connection:
                        connection.execute(insert, [dict(row._mapping) for row in rows])
            except IntegrityError as error:
                name = without_password(self._target)
                raise RepositoryError(f"{name} is written by others: {error}") from None
            last = tuple(rows[-1]._mapping[one] for one in keys)
            yield len(rows)


def _values(keys: list[Any], values: Any) -> Any:
    from sqlalchemy import literal

    return tuple_(
        *(literal(value, key.type) for key, value in zip(keys, values, strict=True))
    )
