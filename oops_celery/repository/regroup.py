"""Apply a newer rule of fingerprints to the reports that are stored.

No count changes: what a group loses, another one gets, in the same transaction. Counts
of reports that were removed go where the group's latest report goes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, select, tuple_, update

from oops_celery import wire
from oops_celery.repository.database import telling_why
from oops_celery.repository.fingerprint import RULE, Fingerprint, fingerprint
from oops_celery.repository.groups import HOUR
from oops_celery.repository.row import unpacked
from oops_celery.repository.rows import add_hours, insert_of
from oops_celery.repository.schema import group_day, group_hour, report, report_group
from oops_celery.repository.store import Repository

#: Reports that one transaction moves.
PAGE = 500

_group = report_group.c


class Regroup:
    """Moves reports into the groups of a rule. It may be killed, and done again.

    Workers may store reports meanwhile, if they have the same rule.

    Args:
        repository: The database; its tables are up to date.
        rule: The version of the rule.
        rule_of: The rule.
    """

    def __init__(
        self,
        repository: Repository,
        rule: int = RULE,
        rule_of: Callable[[Mapping[str, Any]], Fingerprint] = fingerprint,
    ) -> None:
        self._url = repository.url
        self._engine = repository.engine()
        self._rule = rule
        self._rule_of = rule_of

    def plan(self) -> tuple[int, int]:
        """Return how many groups and reports there are of older rules."""
        old = _group.rule < self._rule
        inside = select(_group.id).where(old)
        with telling_why(self._url), self._engine.begin() as connection:
            groups = select(func.count()).select_from(report_group).where(old)
            reports = select(func.count()).select_from(report)
            reports = reports.where(report.c.group_id.in_(inside))
            return (connection.scalar(groups) or 0, connection.scalar(reports) or 0)

    def run(self) -> Iterator[int]:
        """Do it; yield the number of reports that were read, part by part."""
        with telling_why(self._url), self._engine.begin() as connection:
            query = select(_group.id).where(_group.rule < self._rule)
            groups = list(connection.scalars(query.order_by(_group.id)))
        for number in groups:
            after: tuple[Any, Any] | None = None
            while True:
                with telling_why(self._url), self._engine.begin() as connection:
                    rows = self._page(connection, number, after)
                    if not rows:
                        self._end(connection, number)
                        break
                    self._move(connection, number, rows)
                after = (rows[-1].time, rows[-1].id)
                yield len(rows)

    def _page(
        self, connection: Connection, number: int, after: tuple[Any, Any] | None
    ) -> Sequence[Any]:
        columns = (report.c.id, report.c.time, report.c.value)
        query = select(*columns, report.c.body, report.c.compressed)
        query = query.where(report.c.group_id == number)
        if after is not None:
            query = query.where(
                tuple_(report.c.time, report.c.id)
                > tuple_(
                    bindparam("time", after[0], report.c.time.type),
                    bindparam("id", after[1], report.c.id.type),
                )
            )
        query = query.order_by(report.c.time, report.c.id).limit(PAGE)
        return list(connection.execute(query))

    def _move(self, connection: Connection, number: int, rows: Sequence[Any]) -> None:
        old = connection.execute(
            select(report_group).where(_group.id == number).with_for_update()
        ).one()
        by_key: dict[str, list[Any]] = defaultdict(list)
        prints: dict[str, Fingerprint] = {}
        for row in rows:
            fields = wire.decode(unpacked(row.body, row.compressed))
            found = self._rule_of(fields)
            if found.key != old.fingerprint:
                prints[found.key] = found
                by_key[found.key].append(row)
        hours: Counter[tuple[int, int]] = Counter()
        targets = []
        for key, members in sorted(by_key.items()):
            target = self._target(connection, old, prints[key], members)
            targets.append((target, members))
            for row in members:
                hour = int(row.time.timestamp()) // HOUR
                hours[target, hour] += 1
                hours[number, hour] -= 1
        for target, members in targets:
            keys = tuple_(report.c.id, report.c.time)
            connection.execute(
                update(report)
                .where(keys.in_([(row.id, row.time) for row in members]))
                .values(group_id=target)
            )
        _change(connection, number, -sum(len(members) for _, members in targets))
        for target, members in sorted(targets, key=lambda one: one[0]):
            last = max(members, key=lambda row: row.time)
            _take_in(connection, target, len(members), members[0].time, last)
        add_hours(connection, hours)

    def _target(
        self, connection: Connection, old: Any, found: Fingerprint, members: Any
    ) -> int:
        """Return the group of a fingerprint; a new one takes over the old one's state.

        One with another state is open: somebody should look at it.
        """
        insert = insert_of(connection.dialect.name)(report_group)
        last = members[-1]
        values = {
            "fingerprint": found.key,
            "rule": self._rule,
            "type": found.type,
            "topic": found.topic,
            "place": found.place,
            "value": found.value,
            "example_value": last.value,
            "example": last.id,
            "first_seen": members[0].time,
            "last_seen": last.time,
            "count": 0,
            "state": old.state,
            "resolved_at": old.resolved_at,
        }
        connection.execute(insert.values(values).on_conflict_do_nothing())
        target = connection.execute(
            select(_group.id, _group.state).where(_group.fingerprint == found.key)
        ).one()
        if target.state != old.state:
            opened = update(report_group).where(_group.id == target.id)
            connection.execute(opened.values(state="open", resolved_at=None))
        return int(target.id)

    def _end(self, connection: Connection, number: int) -> None:
        """Bring a group to an end whose reports were all read."""
        old = connection.execute(
            select(report_group).where(_group.id == number).with_for_update()
        ).one()
        stay = select(report.c.id).where(report.c.group_id == number).limit(1)
        target = connection.scalar(
            select(report.c.group_id).where(report.c.id == old.example).limit(1)
        )
        if target in (None, number) or connection.execute(stay).first() is not None:
            done = update(report_group).where(_group.id == number)
            connection.execute(done.values(rule=self._rule))
            return
        # What is left of it are the counts of reports that were removed.
        mine = group_hour.c.group_id == number
        left = {
            (target, one.hour): one.count
            for one in connection.execute(
                select(group_hour.c.hour, group_hour.c["count"].label("count")).where(
                    mine
                )
            )
            if one._mapping["count"]
        }
        add_hours(connection, Counter(left))
        _change(connection, target, old._mapping["count"])
        connection.execute(delete(group_hour).where(mine))
        connection.execute(delete(group_day).where(group_day.c.group_id == number))
        connection.execute(delete(report_group).where(_group.id == number))


def _change(connection: Connection, number: int, more: int) -> None:
    query = update(report_group).where(_group.id == number)
    connection.execute(query.values(count=_group["count"] + more))


def _take_in(
    connection: Connection, number: int, count: int, first: Any, last: Any
) -> None:
    """Count reports in a group, and its first and last."""
    known = connection.execute(
        select(_group.first_seen, _group.last_seen).where(_group.id == number)
    ).one()
    values: dict[str, Any] = {
        "count": _group["count"] + count,
        "first_seen": min(known.first_seen, first),
    }
    if last.time >= known.last_seen:
        values |= {"last_seen": last.time, "example": last.id}
    connection.execute(update(report_group).where(_group.id == number).values(**values))
