"""A newer rule of fingerprints: reports move between groups, and no count changes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from itertools import islice
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from oops_celery.repository import regroup as regrouping
from oops_celery.repository import schema
from oops_celery.repository.fingerprint import RULE, Fingerprint, fingerprint
from oops_celery.repository.regroup import Regroup
from oops_celery.repository.store import Repository

BEGIN = datetime(2026, 11, 1, tzinfo=timezone.utc)


def by_topic(report: Mapping[str, Any]) -> Fingerprint:
    """Group by topic alone, except for E0, whose groups stay."""
    known = fingerprint(report)
    if known.type == "E0":
        return known
    return known._replace(key=f"topic {known.topic}", place="", value="")


@pytest.fixture
def repository(database: str, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setattr(regrouping, "PAGE", 20)
    made = Repository(database)
    chance = random.Random(1)
    for number in range(200):
        made.publish(
            {
                "id": f"OOPS-{number}",
                "type": f"E{number % 5}",
                "topic": f"t{chance.randrange(3)}",
                "value": f"user {number}",
                "time": BEGIN + timedelta(minutes=17 * number),
            }
        )
    return made


def rows(repository: Repository, table: Any) -> list[Any]:
    with repository.engine().connect() as connection:
        return list(connection.execute(select(table)))


def hours(repository: Repository) -> Counter[int]:
    found: Counter[int] = Counter()
    for row in rows(repository, schema.group_hour):
        found[row.hour] += row._mapping["count"]
    return +found


def check(repository: Repository, total: int = 200) -> dict[str, Any]:
    """Check that every count is right; return the groups by fingerprint."""
    groups = {row.id: row for row in rows(repository, schema.report_group)}
    reports = rows(repository, schema.report)
    assert {row.group_id for row in reports} <= groups.keys()
    stored = Counter(row.group_id for row in reports)
    by_group: Counter[int] = Counter()
    for row in rows(repository, schema.group_hour):
        by_group[row.group_id] += row._mapping["count"]
    for number, group in groups.items():
        count = group._mapping["count"]
        assert count == by_group[number] >= stored[number]
        times = [row.time for row in reports if row.group_id == number]
        if times and count == len(times):
            assert (group.first_seen, group.last_seen) == (min(times), max(times))
            (latest,) = [row for row in reports if row.id == group.example]
            assert (latest.group_id, latest.time) == (number, max(times))
    assert by_group.total() == total
    by_day: Counter[tuple[int, int]] = Counter()
    for row in rows(repository, schema.group_hour):
        by_day[row.group_id, row.hour // 24] += row._mapping["count"]
    assert +by_day == +Counter(
        {
            (row.group_id, row.day): row._mapping["count"]
            for row in rows(repository, schema.group_day)
        }
    )
    return {row.fingerprint: row for row in groups.values()}


def test_reports_move_and_no_count_changes(repository: Repository) -> None:
    before = hours(repository)
    work = Regroup(repository, RULE + 1, by_topic)
    groups, reports = work.plan()
    assert reports == 200
    assert list(work.run()) != []
    found = check(repository)
    kept = {row.fingerprint for row in found.values() if row.type == "E0"}
    assert set(found) == {"topic t0", "topic t1", "topic t2", *kept}
    assert len(kept) == 3
    assert {row.rule for row in found.values()} == {RULE + 1}
    assert hours(repository) == before
    assert groups == 15
    assert work.plan() == (0, 0)
    assert list(work.run()) == []


@pytest.mark.parametrize("after", [1, 3, 8])
def test_killed_and_done_again_is_the_same(repository: Repository, after: int) -> None:
    before = hours(repository)
    list(islice(Regroup(repository, RULE + 1, by_topic).run(), after))
    check(repository)
    list(Regroup(repository, RULE + 1, by_topic).run())
    found = check(repository)
    assert {row.fingerprint for row in found.values() if row.type != "E0"} == {
        f"topic t{number}" for number in range(3)
    }
    assert hours(repository) == before


def test_counts_of_removed_reports_go_with_the_latest(repository: Repository) -> None:
    before = hours(repository)
    with repository.engine().begin() as connection:
        gone = [f"OOPS-{number}" for number in range(150)]
        connection.execute(delete(schema.report).where(schema.report.c.id.in_(gone)))
    list(Regroup(repository, RULE + 1, by_topic).run())
    found = check(repository)
    assert len([row for row in found.values() if row.type != "E0"]) == 3
    assert hours(repository) == before


def test_states_are_taken_over(repository: Repository) -> None:
    def set_state(state: str, *conditions: Any) -> None:
        with repository.engine().begin() as connection:
            connection.execute(
                update(schema.report_group).where(*conditions).values(state=state)
            )

    topic, kind = schema.report_group.c.topic, schema.report_group.c.type
    set_state("muted", topic == "t0", kind != "E0")
    set_state("muted", topic == "t1", kind == "E1")
    list(Regroup(repository, RULE + 1, by_topic).run())
    found = check(repository)
    assert found["topic t0"].state == "muted"  # all of them were
    assert found["topic t1"].state == "open"
    assert found["topic t2"].state == "open"


def test_a_group_without_reports_stays(repository: Repository) -> None:
    with repository.engine().begin() as connection:
        connection.execute(delete(schema.report))
    list(Regroup(repository, RULE + 1, by_topic).run())
    found = check(repository)
    assert len(found) == 15
    assert {row.rule for row in found.values()} == {RULE + 1}
