"""Which reports a search wants, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, literal, or_, select, tuple_

from oops_celery.repository.schema import report
from oops_celery.wire.ids import clean_id

#: After every character that an id may have.
_LAST = "\U0010ffff"


@dataclass(frozen=True)
class Wanted:
    """Which reports; all that is given must hold.

    Attributes:
        group: The number of their group.
        types: The exception's types: one of them.
        topic: The topic.
        reporter: The reporter.
        value: A part of the exception's value, in any case.
        since: Only those since then.
        until: Only those before then.
    """

    group: int | None = None
    types: tuple[str, ...] = ()
    topic: str | None = None
    reporter: str | None = None
    value: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class Neighbours(NamedTuple):
    """The reports beside one in its group; None where there is none.

    Attributes:
        group_id: The group's number.
        before: The id of the one before.
        after: The id of the one after.
    """

    group_id: int
    before: str | None
    after: str | None


class Summary(NamedTuple):
    """A report as it stands in the index."""

    id: str
    time: datetime
    group_id: int
    type: str
    topic: str
    reporter: str
    value: str
    size: int


def conditions(wanted: Wanted) -> list[Any]:
    """Return the conditions of a query."""
    found = [
        report.c[name] == value
        for name, value in (
            ("group_id", wanted.group),
            ("topic", wanted.topic),
            ("reporter", wanted.reporter),
        )
        if value is not None
    ]
    if wanted.types:
        found.append(report.c.type.in_(wanted.types))
    if wanted.value is not None:
        part = wanted.value.lower()
        inside = func.lower(report.c.value).contains(part, autoescape=True)
        found.append(inside)
    if wanted.since is not None:
        found.append(report.c.time >= wanted.since)
    if wanted.until is not None:
        found.append(report.c.time < wanted.until)
    return found


def beginning(column: Any, part: str) -> Any:
    """Return the condition that an id begins with a part of one, for an index.

    Args:
        column: The ids.
        part: As people paste it.

    Returns:
        The condition; None if the part is empty.
    """
    bare = clean_id(part).removeprefix("oops-")
    begins = {part.strip(), f"OOPS-{bare}" if bare else "", bare} - {""}
    ranges = [(column >= one) & (column < one + _LAST) for one in begins]
    return or_(*ranges) if ranges else None


def beside(connection: Connection, report_id: str, time: datetime) -> Neighbours | None:
    """Return what is beside a report in its group; None if it is not stored."""
    query = select(report.c.group_id)
    query = query.where(report.c.id == report_id, report.c.time == time)
    group = connection.scalar(query)
    if group is None:
        return None
    columns = (report.c.time, report.c.id)
    order = tuple_(*columns)
    here = tuple_(
        literal(time, report.c.time.type), literal(report_id, report.c.id.type)
    )
    there = select(report.c.id).where(report.c.group_id == group).limit(1)
    before = there.where(order < here).order_by(*(one.desc() for one in columns))
    after = there.where(order > here).order_by(*columns)
    return Neighbours(group, connection.scalar(before), connection.scalar(after))
