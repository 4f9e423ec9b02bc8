"""Old reports go, by age, by size and by group; what was counted stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from oops_celery import wire
from oops_celery.repository import schema
from oops_celery.repository.retention import Limits, Retention
from oops_celery.repository.store import Repository, stored_together
from tests.support import Node, Worker, environment, eventually

#: Noon: so that no test goes on over midnight by much.
TODAY = datetime.now(timezone.utc).replace(hour=12, minute=0, second=0, microsecond=0)
DAYS = 30
A_DAY = 20
KINDS = 4


def fill(url: str, days: int = DAYS, a_day: int = A_DAY, size: int = 0) -> Repository:
    """Store reports of some days, today included, of `KINDS` groups."""
    repository = Repository(url)
    repository.upgrade()
    for day in range(days):
        with stored_together() as batch:
            for n in range(a_day):
                body = wire.encode(
                    {
                        "type": f"E{n % KINDS}",
                        "time": TODAY - timedelta(days=day, minutes=n),
                        "text": os.urandom(size).hex(),
                    }
                ).body
                repository.keep(wire.decode(body), body)
        batch.store()
    return repository


def kept(repository: Repository) -> list[Any]:
    query = select(schema.report.c.id, schema.report.c.time, schema.report.c.type)
    with repository.engine().connect() as connection:
        return list(connection.execute(query.order_by(schema.report.c.time)))


def counted(repository: Repository) -> tuple[int, int]:
    with repository.engine().connect() as connection:
        sums = (schema.group_hour.c.count, schema.report_group.c.count)
        hours, groups = (connection.scalar(select(func.sum(one))) for one in sums)
    return int(hours), int(groups)


def prune(repository: Repository, **limits: int) -> int:
    retention = Retention(repository, Limits(**limits))
    planned = retention.plan() if "bytes" not in limits else None
    removed = sum(retention.run())
    assert planned in (None, removed)
    return removed


def test_by_age(database: str) -> None:
    repository = fill(database)
    prune(repository, days=7)
    first = (TODAY - timedelta(days=6)).date()
    rows = kept(repository)
    old = [row for row in rows if row.time.date() < first]
    assert len(rows) - len(old) == 7 * A_DAY
    assert sorted(row.type for row in old) == [f"E{n}" for n in range(KINDS)]
    assert all(row.time.date() == old[0].time.date() for row in old)  # the first ones
    assert counted(repository) == (DAYS * A_DAY, DAYS * A_DAY)
    assert prune(repository, days=7) == 0


def test_groups_that_are_resolved_or_muted_keep_nothing(database: str) -> None:
    repository = fill(database)
    with repository.engine().begin() as connection:
        for kind, state in (("E0", "resolved"), ("E1", "muted")):
            group = schema.report_group
            connection.execute(
                group.update().where(group.c.type == kind).values(state=state)
            )
    prune(repository, days=7)
    first = (TODAY - timedelta(days=6)).date()
    old = {row.type for row in kept(repository) if row.time.date() < first}
    assert old == {"E2", "E3"}


def test_by_group(database: str) -> None:
    repository = fill(database)
    prune(repository, per_group=10)
    rows = kept(repository)
    for number in range(KINDS):
        mine = [row.time for row in rows if row.type == f"E{number}"]
        assert len(mine) == 11  # and the first
    assert counted(repository) == (DAYS * A_DAY, DAYS * A_DAY)


def test_by_size(database: str) -> None:
    repository = fill(database, size=4000)
    before = Retention(repository, Limits()).size()
    limit = before // 2
    assert prune(repository, bytes=limit) > 0
    after = Retention(repository, Limits()).size()
    assert limit * 0.95 < after <= limit
    rows = kept(repository)
    newest = rows[-1].time
    assert newest == TODAY
    assert counted(repository) == (DAYS * A_DAY, DAYS * A_DAY)
    assert prune(repository, bytes=limit) == 0


def test_the_file_of_sqlite_shrinks(tmp_path: Path) -> None:
    file = tmp_path / "oopses.db"
    repository = fill(f"sqlite:///{file}", size=4000)
    repository.engine().dispose()
    before = file.stat().st_size
    prune(repository, bytes=before // 2)
    repository.engine().dispose()
    assert before * 0.45 < file.stat().st_size <= before * 0.5


def test_a_report_of_a_day_that_was_dropped_is_stored_again(database: str) -> None:
    """Another process made its partition, and believes it is there."""
    repository = fill(database)
    prune(Repository(database), days=7)
    with repository.engine().begin() as connection:
        connection.execute(schema.report_group.update().values(state="muted"))
    prune(Repository(database), days=7)
    body = wire.encode({"type": "late", "time": TODAY - timedelta(days=20)}).body
    for _ in range(2):  # the worker tries it again by itself
        try:
            repository.keep(wire.decode(body), body)
            break
        except Exception:
            continue
    assert kept(repository)[0].type == "late"


def test_while_reports_are_stored(database: str) -> None:
    repository = fill(database)
    removed = 0
    for number, part in enumerate(Retention(repository, Limits(days=7)).run()):
        body = wire.encode({"type": "new", "n": number, "time": TODAY}).body
        Repository(database).keep(wire.decode(body), body)
        removed += part
    assert removed > 0
    assert len([row for row in kept(repository) if row.type == "new"]) == number + 1


def test_it_is_due_once_an_hour(database: str) -> None:
    fill(database, days=1)
    assert Retention(Repository(database), Limits(days=1)).is_due()
    other = Repository(database)
    assert not Retention(other, Limits(days=1)).is_due()
    with other.engine().begin() as connection:
        earlier = datetime.now(timezone.utc) - timedelta(minutes=61)
        connection.execute(schema.job.update().values(begun=earlier))
    assert Retention(other, Limits(days=1)).is_due()


# -- The command, and the worker ------------------------------------------------------


def call(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "oops_celery.cli", "prune", *arguments],
        env=environment(**environ),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command(database: str) -> None:
    repository = fill(database)
    total = DAYS * A_DAY
    done = call("--repository", database, "--days", "7", "--dry-run", "--json")
    planned = json.loads(done.stdout)["would_remove"]
    assert len(kept(repository)) == total
    done = call("--json", OOPS_REPOSITORY=database, OOPS_KEEP_DAYS="7")
    assert json.loads(done.stdout)["removed"] == planned > 0
    assert len(kept(repository)) == total - planned
    done = call("--repository", database, "--per-group", "10")
    assert "reports removed" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "environ", "told"),
    [
        ([], {"OOPS_REPOSITORY": "sqlite:///x.db"}, "nothing to limit"),
        (["--days", "-1"], {"OOPS_REPOSITORY": "sqlite:///x.db"}, "-1"),
        (["--days", "7"], {"OOPS_REPOSITORY": "./oopses"}, "is a folder"),
        (
            ["--days", "7"],
            {"OOPS_REPOSITORY": "sqlite:///x.db", "OOPS_KEEP_BYTES": "2GB"},
            "OOPS_KEEP_BYTES='2GB' (environment): must be a whole number of bytes",
        ),
    ],
)
def test_wrong_usage(
    arguments: list[str],
    environ: dict[str, str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call(*arguments, **environ)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_does_it(
    broker: Node, worker: Callable[..., Worker], database: str, pool: str
) -> None:
    repository = fill(database)
    started = worker(
        *("-P", pool, "-c", "1"), OOPS_REPOSITORY=database, OOPS_KEEP_DAYS="7"
    )
    eventually(lambda: "reports removed" in started.text())
    assert len(kept(repository)) == 7 * A_DAY + KINDS
    started.stop()
    assert started.process.returncode == 0
    assert "Traceback" not in started.text()


def test_a_folder_has_no_limits(
    broker: Node, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    started = worker("-c", "1", OOPS_KEEP_DAYS="7")
    assert "have no effect on a folder" in started.text()


def test_a_day_of_many_is_dropped_at_once(postgresql: Any) -> None:
    """Its time does not grow with the reports of the day, as that of DELETE would."""
    repository = Repository(postgresql.database())
    repository.upgrade()
    day = TODAY - timedelta(days=3)
    body = wire.encode({"type": "E", "time": day}).body
    repository.keep(wire.decode(body), body)
    with repository.engine().begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO report SELECT id || n, time + n * interval '1 ms', group_id,"
            " type, topic, reporter, value, digest, size, compressed, body"
            " FROM report, generate_series(1, 100000) AS n"
        )
    begun = time.monotonic()
    assert sum(Retention(repository, Limits(days=1)).run()) == 99_999
    print(f"{time.monotonic() - begun:.2f} s")  # noqa: T201 - with pytest -s
    assert len(kept(repository)) == 2
