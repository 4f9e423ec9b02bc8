"""The benchmark's million reports are stored as any others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Table, select

from benchmarks.reading import GROUPS, fill, rows
from oops_celery import wire
from oops_celery.repository import schema
from oops_celery.repository.queries import Reports
from oops_celery.repository.store import Repository

COUNT = 300


def test_filled_is_as_stored(database: str, tmp_path: Path) -> None:
    """As if each report had been stored alone."""
    fill(database, COUNT, lambda _: None)
    other = Repository(f"sqlite:///{tmp_path}/other.db")
    other.upgrade()
    with Reports(database) as reports:
        bodies = [one.body for one in reports.bodies()]
    assert len(bodies) == COUNT
    for body in bodies:
        other.keep(wire.decode(body), body)
    assert tables(Repository(database)) == tables(other)


def tables(repository: Repository) -> dict[str, list[Any]]:
    """Return all rows, with fingerprints for the numbers of groups.

    A group's real value is that of any report of the first batch: here, whether it is.
    """
    found: dict[str, list[Any]] = {}
    with repository.engine().connect() as connection:

        def select_all(table: Table) -> list[dict[str, Any]]:
            return [dict(one) for one in connection.execute(select(table)).mappings()]

        groups = select_all(schema.report_group)
        keys = {one["id"]: one["fingerprint"] for one in groups}
        reports = select_all(schema.report)
        values = {(keys[one["group_id"]], one["value"]) for one in reports}
        for one in groups:
            one["example_value"] = (one["fingerprint"], one["example_value"]) in values
            assert one["example_value"]
            del one["id"]
        found["report_group"] = groups
        found["report"] = reports
        for table in (schema.group_hour, schema.group_day):
            found[table.name] = select_all(table)
    for rows_ in found.values():
        for one in rows_:
            if "group_id" in one:
                one["group_id"] = keys[one["group_id"]]
        rows_.sort(key=lambda one: str(sorted(one.items())))
    return found


def test_it_is_what_the_page_says() -> None:
    made = list(rows(2000))
    assert 0.7 < sum(row.size for row in made) / len(made) / 1024 < 1.3
    assert GROUPS * 0.7 < len({row.group.key for row in made}) <= GROUPS
    assert len({row.time.date() for row in made}) >= 29
    assert len({row.id for row in made}) == 2000
