"""Write reports into the tables: each once, with its group and its hour."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import BindParameter, Connection, bindparam, case, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from oops_celery import wire
from oops_celery.repository.fingerprint import RULE
from oops_celery.repository.row import Row, unpacked
from oops_celery.repository.schema import group_day, group_hour, report, report_group


def store(connection: Connection, rows: Sequence[Row]) -> int:
    """Write reports; one that is there already changes nothing.

    Args:
        connection: In a transaction; the caller commits it.
        rows: Reports; PostgreSQL has a partition for each.

    Returns:
        The number of those that were not there.
    """
    # In the same order in every process: so none waits for one that waits for it.
    rows = sorted(_once(rows), key=lambda row: (row.id, row.time))
    rows = _without_known_timeless(connection, rows)
    if not rows:
        return 0
    groups = _groups(connection, rows)
    new = _insert(connection, rows, groups)
    others = [row for row in rows if (row.id, row.time) not in new]
    new |= _insert(connection, _different(connection, others), groups)
    _count(connection, new.values(), groups)
    return len(new)


def _once(rows: Sequence[Row]) -> Iterable[Row]:
    """Return each report once; a different one of the same id gets its own.

    As in the table, id and time tell reports apart; without a time of its own, the id.
    """
    seen: dict[tuple[str, datetime | None], Row] = {}
    for row in rows:
        time = row.time if row.has_time else None
        first = seen.setdefault((row.id, time), row)
        if first.digest != row.digest and not _same(first, row.body, row.compressed):
            other = _beside(row)
            seen.setdefault((other.id, time), other)
    return seen.values()


def _beside(row: Row) -> Row:
    return replace(row, id=f"{row.id}.{row.digest.hex()}")


def _same(row: Row, body: bytes, compressed: bool) -> bool:
    """Return whether two encodings are the same report."""
    return wire.decode(unpacked(row.body, row.compressed)) == wire.decode(
        unpacked(body, compressed)
    )


def _without_known_timeless(connection: Connection, rows: list[Row]) -> list[Row]:
    """Leave out reports without a time that are there: their row has another time."""
    timeless = [row for row in rows if not row.has_time]
    if not timeless:
        return rows
    if connection.dialect.name == "postgresql":
        lock = text("SELECT pg_advisory_xact_lock(hashtextextended(:id, 0))")
        for row in timeless:
            connection.execute(lock, {"id": row.id})
    stored = {
        one.id: one for one in _stored(connection, [*timeless, *map(_beside, timeless)])
    }
    new = [row for row in rows if row.has_time]
    for row in timeless:
        one = stored.get(row.id)
        if one is None:
            new.append(row)
        elif not _is_stored(row, one) and _beside(row).id not in stored:
            new.append(_beside(row))
    return new


def _stored(connection: Connection, rows: Iterable[Row]) -> Iterable[Any]:
    """Return what is stored under the ids of some reports."""
    columns = (report.c.id, report.c.time, report.c.digest)
    query = select(*columns, report.c.body, report.c.compressed)
    return connection.execute(query.where(report.c.id.in_([row.id for row in rows])))


def _is_stored(row: Row, stored: Any) -> bool:
    """Return whether a stored report is the same report."""
    if stored.digest == row.digest:
        return True
    return _same(row, stored.body, stored.compressed)


@cache
def insert_of(dialect: str) -> Any:
    """Return the function for a dialect's own insert, which has ON CONFLICT."""
    return {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect]


def _groups(connection: Connection, rows: Sequence[Row]) -> dict[str, int]:
    """Return the number of each report's group; make those that are missing."""
    by_key = {row.group.key: row for row in rows}
    found = _group_ids(connection, by_key)
    missing = sorted(by_key.keys() - found.keys())
    if missing:
        insert = insert_of(connection.dialect.name)
        connection.execute(
            insert(report_group).on_conflict_do_nothing(),
            [_new_group(by_key[key]) for key in missing],
        )
        found |= _group_ids(connection, missing)
    return found


def _group_ids(connection: Connection, keys: Iterable[str]) -> dict[str, int]:
    query = select(report_group.c.fingerprint, report_group.c.id)
    found = connection.execute(query.where(report_group.c.fingerprint.in_(list(keys))))
    return {one.fingerprint: one.id for one in found}


def _new_group(row: Row) -> dict[str, Any]:
    return {
        "fingerprint": row.group.key,
        "rule": RULE,
        "type": row.group.type,
        "topic": row.group.topic,
        "place": row.group.place,
        "value": row.group.value,
        "example_value": row.value,
        "example": row.id,
        "first_seen": row.time,
        "last_seen": row.time,
        "count": 0,
        "state": "open",
        "resolved_at": None,
    }


def _insert(
    connection: Connection, rows: Sequence[Row], groups: Mapping[str, int]
) -> dict[tuple[str, datetime], Row]:
    """Insert reports; return those that were not there, by id and time."""
    if not rows:
        return {}
    by_key = {(row.id, row.time): row for row in rows}
    values = [
        {
            "id": row.id,
            "time": row.time,
            "group_id": groups[row.group.key],
            "type": row.type,
            "topic": row.topic,
            "reporter": row.reporter,
            "value": row.value,
            "digest": row.digest,
            "size": row.size,
            "compressed": row.compressed,
            "body": row.body,
        }
        for row in rows
    ]
    if connection.dialect.name == "postgresql":
        columns = {name: [one[name] for one in values] for name in values[0]}
        done = connection.execute(_INSERT_ARRAYS, columns)
    else:
        done = connection.execute(_INSERT, values)
    return {(one.id, one.time): by_key[one.id, one.time] for one in done}


_INSERT = (
    sqlite.insert(report).on_conflict_do_nothing().returning(report.c.id, report.c.time)
)
#: One array for each column: a statement that is the same for any number of reports is
#: parsed and planned once. Twice as fast as a row of values for each.
_INSERT_ARRAYS = text(
    """
    INSERT INTO report (id, time, group_id, type, topic, reporter, value, digest, size,
        compressed, body)
    SELECT * FROM unnest(CAST(:id AS text[]), CAST(:time AS timestamptz[]),
        CAST(:group_id AS bigint[]), CAST(:type AS text[]), CAST(:topic AS text[]),
        CAST(:reporter AS text[]), CAST(:value AS text[]), CAST(:digest AS bytea[]),
        CAST(:size AS integer[]), CAST(:compressed AS boolean[]),
        CAST(:body AS bytea[]))
    ON CONFLICT DO NOTHING
    RETURNING id, time
    """
).columns(report.c.id, report.c.time)


def _different(connection: Connection, rows: Sequence[Row]) -> list[Row]:
    """Return the reports whose id and time another one has, with their own ids."""
    if not rows:
        return []
    stored = {(one.id, one.time): one for one in _stored(connection, rows)}
    return [
        _beside(row) for row in rows if not _is_stored(row, stored[row.id, row.time])
    ]


def _count(
    connection: Connection, rows: Iterable[Row], groups: Mapping[str, int]
) -> None:
    """Count new reports in their groups and hours."""
    by_group: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        by_group[groups[row.group.key]].append(row)
    if not by_group:
        return
    changes, hours = [], Counter[tuple[int, int]]()
    for number, members in sorted(by_group.items()):
        last = max(members, key=lambda row: row.time)
        changes.append(
            {
                "number": number,
                "more": len(members),
                "first": min(row.time for row in members),
                "last": last.time,
                "latest": last.id,
            }
        )
        hours.update((number, row.hour) for row in members)
    connection.execute(_UPDATE, changes)
    add_hours(connection, hours)


def add_hours(connection: Connection, hours: Mapping[tuple[int, int], int]) -> None:
    """Add to the counts of groups by hour, and by day."""
    if not hours:
        return
    days: Counter[tuple[int, int]] = Counter()
    for (number, hour), count in hours.items():
        days[number, hour // 24] += count
    for table, unit, counts in ((group_hour, "hour", hours), (group_day, "day", days)):
        insert = insert_of(connection.dialect.name)(table)
        connection.execute(
            insert.on_conflict_do_update(
                index_elements=["group_id", unit],
                set_={"count": table.c["count"] + insert.excluded["count"]},
            ),
            [
                {"group_id": number, unit: moment, "count": count}
                for (number, moment), count in sorted(counts.items())
            ],
        )


_old = report_group.c
_first = bindparam("first", type_=_old.first_seen.type)
_last = bindparam("last", type_=_old.last_seen.type)
_latest: BindParameter[str] = bindparam("latest")
#: A resolved group opens again when its failure comes back.
_UPDATE = (
    update(report_group)
    .where(_old.id == bindparam("number"))
    .values(
        count=_old.count + bindparam("more"),
        first_seen=case((_first < _old.first_seen, _first), else_=_old.first_seen),
        last_seen=case((_last > _old.last_seen, _last), else_=_old.last_seen),
        example=case((_last >= _old.last_seen, _latest), else_=_old.example),
        state=case(
            ((_old.state == "resolved") & (_last > _old.resolved_at), "regressed"),
            else_=_old.state,
        ),
    )
)
