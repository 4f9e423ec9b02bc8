"""Searching for reports, and what people say of groups."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, time, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import Engine, delete, event, select, text

from oops_celery.repository import schema
from oops_celery.repository.queries import Reports
from oops_celery.repository.search import Summary, Wanted
from oops_celery.repository.states import set_state
from oops_celery.repository.store import Repository

NOON = datetime(2026, 11, 20, 12, tzinfo=timezone.utc)


@pytest.fixture
def repository(database: str) -> Repository:
    made = Repository(database)
    for number in range(40):
        made.publish(
            {
                "id": f"OOPS-{number:02}",
                "type": f"E{number % 2}",
                "topic": f"t{number % 3}",
                "reporter": f"r{number % 4}",
                "value": f"100% of Item_{number}",
                "time": NOON + timedelta(hours=6 * (number // 2)),
            }
        )
    return made


def test_each_condition_holds(repository: Repository, database: str) -> None:
    def ids(**conditions: Any) -> list[int]:
        with Reports(database) as reports:
            found = reports.search(Wanted(**conditions), limit=100)
        return [int(one.id[5:]) for one in found]

    everything = list(range(39, -1, -1))
    assert ids() == everything
    assert ids(types=("E1",)) == [one for one in everything if one % 2]
    assert ids(topic="t2", reporter="r1") == [
        one for one in everything if one % 3 == 2 and one % 4 == 1
    ]
    assert ids(value="100% of item_3") == [39, 38, 37, 36, 35, 34, 33, 32, 31, 30, 3]
    assert ids(value="item%3") == []  # no wildcards
    assert ids(since=NOON + timedelta(hours=108)) == [39, 38, 37, 36]
    assert ids(until=NOON + timedelta(hours=6), types=("E0",)) == [0]
    assert ids(types=("E",)) == []


def test_pages_have_each_report_once(repository: Repository, database: str) -> None:
    with Reports(database) as reports:
        found: list[Summary] = []
        while page := reports.search(Wanted(), found[-1] if found else None, limit=7):
            found += page
    assert [one.id for one in found] == [f"OOPS-{one:02}" for one in range(39, -1, -1)]
    assert found[0].size > 50
    assert found[0].time == NOON + timedelta(hours=6 * 19)


def test_a_group_and_its_state(repository: Repository, database: str) -> None:
    with Reports(database) as reports:
        group = reports.search(Wanted(types=("E1",)))[0].group_id
        members = reports.search(Wanted(group=group), limit=100)
    assert {one.type for one in members} == {"E1"}

    def state() -> str:
        query = select(schema.report_group.c.state)
        query = query.where(schema.report_group.c.id == group)
        with repository.engine().connect() as connection:
            return str(connection.scalar(query))

    for one in ("muted", "resolved", "open"):
        assert set_state(repository, group, one)
        assert state() == one
    assert set_state(repository, group, "resolved")
    again = {"type": "E1", "topic": members[0].topic, "value": members[0].value}
    repository.publish({**again, "time": datetime.now(timezone.utc) + timedelta(0, 1)})
    assert state() == "regressed"
    assert not set_state(repository, 10**6, "open")
    with pytest.raises(ValueError, match="'closed' is not one of open, resolved"):
        set_state(repository, group, "closed")


def test_a_group_has_all_that_was_counted(
    repository: Repository, database: str
) -> None:
    with Reports(database) as reports:
        number = reports.search(Wanted(types=("E1",), topic="t2"))[0].group_id
        group = reports.group(number)
        assert reports.group(10**6) is None
        days = reports.overview(NOON.date() + timedelta(days=4), 5).groups
    assert group is not None
    assert (group.id, group.type, group.topic) == (number, "E1", "t2")
    assert (group.count, group.state) == (6, "open")
    assert (group.example, group.example_value) == ("OOPS-35", "100% of Item_5")
    assert group.first == NOON + timedelta(hours=12)
    assert group.last == NOON + timedelta(hours=6 * 17)
    (same,) = [one for one in days if one.id == number]
    assert (same.hours, same.example_value) == (group.hours, group.example_value)


WHOLE = "OOPS-" + "0" * 32

#: What is asked, and the conditions that an index must answer: in the plan of SQLite,
#: and in that of PostgreSQL.
ASKED: dict[str, tuple[Callable[[Reports], Any], str, str]] = {
    "an id": (lambda r: r.find(WHOLE), "(id=?)", "Cond: (id = "),
    "a part of an id": (lambda r: r.find("OOPS-1"), "(id>? AND id<?)", "((id >= "),
    "days": (
        lambda r: r.overview(NOON.date(), 30, by_hour=False),
        "(day>? AND day<?)",
        "((day >= ",
    ),
    "hours": (lambda r: r.overview(NOON.date(), 1), "(hour>? AND", "((hour >= "),
    "an example of a past day": (
        lambda r: r.overview(NOON.date(), 1),
        "(group_id=? AND time",
        "((group_id = ",
    ),
    "the newest": (lambda r: r.search(Wanted()), "report_time", "_time_idx"),
    "the next page": (
        lambda r: r.search(Wanted(), r.search(Wanted(), limit=3)[-1]),
        "report_time (time<?)",
        'Cond: ("time" <= ',
    ),
    "of a group": (
        lambda r: r.search(Wanted(group=1)),
        "(group_id=?)",
        "Cond: (group_id = ",
    ),
    "a group": (
        lambda r: r.group(1),
        "group_hour_1 (group_id=?)",
        "Cond: (group_id = ",
    ),
}


def test_every_question_uses_an_index(repository: Repository, database: str) -> None:
    """As the database plans the statements that are really sent."""
    is_sqlite = database.startswith("sqlite")
    for what, (ask, sqlite, postgresql) in ASKED.items():
        plan = planned(repository, database, ask)
        expected = sqlite if is_sqlite else postgresql
        assert any(expected in line for line in plan), (what, plan)
        for line in plan:
            assert "Seq Scan on" not in line, (what, plan)
            # The newest are the first of an index; else it is read from begin to end.
            newest = what in ("the newest", "the next page") and "report_time" in line
            assert newest or not line.startswith("SCAN"), (what, plan)


def test_the_example_of_a_past_day(repository: Repository, database: str) -> None:
    """It is looked for in that day; if that was pruned, before it."""
    day = NOON.date() + timedelta(days=2)

    def ask(reports: Reports) -> list[str]:
        return sorted(one.example for one in reports.overview(day, 1).groups)

    plan = planned(repository, database, ask)
    if not database.startswith("sqlite"):
        assert len([line for line in plan if "_group_id_time_idx" in line]) == 1, plan
    with Reports(database) as reports:
        assert ask(reports) == [f"OOPS-{one:02}" for one in range(14, 20)]
        begin = datetime.combine(day, time(), timezone.utc)
        old = delete(schema.report).where(schema.report.c.time >= begin)
        repository.write(lambda connection: connection.execute(old))
        assert ask(reports) == [f"OOPS-{one:02}" for one in range(6, 12)]
        repository.write(lambda connection: connection.execute(delete(schema.report)))
        assert ask(reports) == [""] * 6


def planned(
    repository: Repository, database: str, ask: Callable[[Reports], Any]
) -> list[str]:
    """Return the plans of all statements about reports that a question sends."""
    sent: dict[str, Any] = {}

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if re.search(r"\sFROM (report|group_)", statement):
            sent[statement] = parameters

    event.listen(Engine, "before_cursor_execute", note)
    try:
        with Reports(database) as reports:
            ask(reports)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    with repository.engine().connect() as connection:
        explain = "EXPLAIN QUERY PLAN"
        if connection.dialect.name == "postgresql":
            explain = "EXPLAIN"
            # Only where no index can be used, a table is read from begin to end.
            connection.execute(text("SET enable_seqscan = off"))
        return [
            str(row[-1])
            for statement, parameters in sent.items()
            for row in connection.exec_driver_sql(f"{explain} {statement}", parameters)
        ]


def test_a_whole_id_that_is_not_there_costs_no_look_at_every_id(
    repository: Repository, database: str
) -> None:
    inside = f"web-1-{WHOLE[5:]}"
    repository.publish({"id": inside})
    with Reports(database) as reports:
        assert reports.find(WHOLE) == []
        # Without the prefix it may be a part of somebody else's.
        assert [one.id for one in reports.find(f"{WHOLE[5:]}.")] == [inside]
