"""A database is copied whole into another one, killed or not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from oops_celery.dead_letters.filing import Filing
from oops_celery.dead_letters.letter import Content
from oops_celery.errors import RepositoryError
from oops_celery.repository import copy as copying
from oops_celery.repository import schema
from oops_celery.repository.copy import Copy
from oops_celery.repository.queries import Reports
from oops_celery.repository.store import Repository
from tests.support.postgresql import PostgreSQL

BEGIN = datetime(2026, 11, 1, tzinfo=timezone.utc)
TABLES = ("report", "report_group", "group_hour", "group_day", "dead_letter")


def fill(url: str, number: int = 60) -> None:
    repository = Repository(url)
    for each in range(number):
        repository.publish(
            {
                "id": f"OOPS-{each}",
                "type": f"E{each % 7}",
                "value": "é" * (each % 3 * 400),
                "time": BEGIN + timedelta(hours=5 * each),
            }
        )
        Filing(repository).file(
            Content(b"\0order", {"id": f"{each}", "n": each}, {}), "orders.dead"
        )


def content(url: str) -> dict[str, list[Any]]:
    repository = Repository(url)
    with repository.engine().connect() as connection:
        return {
            name: sorted(
                tuple(bytes(one) if isinstance(one, memoryview) else one for one in row)
                for row in connection.execute(select(schema.metadata.tables[name]))
            )
            for name in TABLES
        }


@pytest.fixture
def two(tmp_path: Path, postgresql: PostgreSQL) -> Callable[[str], tuple[str, str]]:
    """Make the URLs of two databases, the first one filled."""

    def make(kinds: str) -> tuple[str, str]:
        urls = {
            "sqlite": f"sqlite:///{tmp_path}/a.db",
            "sqlite2": f"sqlite:///{tmp_path}/b.db",
            "postgresql": postgresql.database(),
            "postgresql2": postgresql.database(),
        }
        source, target = (urls[kind] for kind in kinds.split(" to "))
        fill(source)
        return source, target

    return make


@pytest.fixture(autouse=True)
def short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "PAGE", 10)


@pytest.mark.parametrize(
    "kinds",
    [
        "sqlite to postgresql",
        "postgresql to sqlite",
        "sqlite to sqlite2",
        "postgresql to postgresql2",
    ],
)
def test_everything_is_there(two: Callable[[str], tuple[str, str]], kinds: str) -> None:
    source, target = two(kinds)
    work = Copy(source, target)
    assert sum(work.run()) == work.total()
    assert work.differences() == {}
    assert content(target) == content(source)
    # It goes on as a database of its own.
    repository = Repository(target)
    repository.publish({"type": "New", "id": "OOPS-new"})
    Filing(repository).file(Content(b"order", {"id": "new"}, {}), "orders.dead")
    numbers = [row[0] for row in content(target)["dead_letter"]]
    assert sorted(numbers) == list(range(1, 62))
    with Reports(target) as reports:
        assert reports.count() == 61
        assert [one.id for one in reports.find("OOPS-new")] == ["OOPS-new"]


@pytest.mark.parametrize("after", [1, 4, 9, 14])
def test_killed_and_done_again(
    two: Callable[[str], tuple[str, str]], after: int
) -> None:
    source, target = two("sqlite to postgresql")
    list(islice(Copy(source, target).run(), after))
    work = Copy(source, target)
    assert sum(work.run()) == work.total()
    assert work.differences() == {}
    assert content(target) == content(source)


def test_what_has_something_else_is_left_alone(
    two: Callable[[str], tuple[str, str]], tmp_path: Path
) -> None:
    source, target = two("sqlite to sqlite2")
    with pytest.raises(RepositoryError, match="is copied to itself"):
        Copy(source, source)
    fill(target, 3)
    before = content(target)
    with pytest.raises(RepositoryError, match=r"b\.db has rows in .*report.*: copy"):
        list(Copy(source, target).run())
    assert content(target) == before
    third = f"sqlite:///{tmp_path}/c.db"
    list(islice(Copy(source, third).run(), 3))
    with pytest.raises(RepositoryError, match=r"c\.db has a copy of sqlite:.*a\.db: "):
        list(Copy(target, third).run())
    with pytest.raises(RepositoryError, match=r"none\.db is not there"):
        Copy(f"sqlite:///{tmp_path}/none.db", third)
