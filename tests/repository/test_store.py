"""Reports in the database: as they came, once, counted, whatever fails."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import traceback
from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import bson
import oops
import pytest
import sqlalchemy
from hypothesis import given
from sqlalchemy import select

import oops_celery
from oops_celery import wire
from oops_celery.errors import Away, RepositoryError, SettingsError, WrongSchema
from oops_celery.receiving.receive import receive
from oops_celery.repository import database as databases
from oops_celery.repository import schema
from oops_celery.repository.queries import Reports
from oops_celery.repository.row import Row, unpacked
from oops_celery.repository.store import Repository, stored_together
from tests.support.reports import STRANGE, reports

NOON = datetime(2026, 11, 26, 12, tzinfo=timezone.utc)


@pytest.fixture
def repository(database: str) -> Repository:
    made = Repository(database)
    made.upgrade()
    return made


def encoded(**fields: Any) -> tuple[dict[str, Any], bytes]:
    body = wire.encode({"type": "E", "time": NOON, **fields}).body
    return wire.decode(body), body


def all_rows(repository: Repository, table: Any) -> list[Any]:
    with repository.engine().connect() as connection:
        return list(connection.execute(select(table)))


def counts(repository: Repository) -> tuple[int, int, int]:
    """Return the reports stored, those counted in groups, and those in hours.

    Those in days are as many as those in hours.
    """
    days = {
        (row.group_id, row.day): row._mapping["count"]
        for row in all_rows(repository, schema.group_day)
    }
    by_hour: Counter[tuple[int, int]] = Counter()
    for row in all_rows(repository, schema.group_hour):
        by_hour[row.group_id, row.hour // 24] += row._mapping["count"]
    assert by_hour == days
    return (
        len(all_rows(repository, schema.report)),
        sum(row.count for row in all_rows(repository, schema.report_group)),
        sum(row.count for row in all_rows(repository, schema.group_hour)),
    )


def test_the_bytes_are_kept_as_they_came(repository: Repository) -> None:
    # Not as PyMongo would encode the dict: int64 where int32 is enough.
    body = bson.encode({"id": "OOPS-1", "n": bson.int64.Int64(1), "text": "x" * 3000})
    assert repository.keep(wire.decode(body), body) == ["OOPS-1"]
    (row,) = all_rows(repository, schema.report)
    assert unpacked(row.body, row.compressed) == body
    assert row.compressed
    assert len(row.body) < len(body) == row.size


def test_a_second_delivery_changes_nothing(repository: Repository) -> None:
    report, body = encoded(value="x")
    for _ in range(3):
        assert repository.keep(report, body) == [report["id"]]
    with stored_together() as batch:
        repository.keep(report, body)
        repository.keep(report, body)
    batch.store()
    assert counts(repository) == (1, 1, 1)


def test_a_second_delivery_without_a_time_changes_nothing(
    repository: Repository,
) -> None:
    body = wire.encode({"type": "E"}).body
    for _ in range(3):
        repository.keep(wire.decode(body), body)
    assert counts(repository) == (1, 1, 1)


@pytest.mark.parametrize("time", [NOON, None])
def test_another_report_with_the_same_id_is_kept_beside_it(
    repository: Repository, time: datetime | None
) -> None:
    for _ in range(2):
        for value in ("one", "two"):
            report = {"id": "X", "value": value, **({"time": time} if time else {})}
            repository.keep(report, bson.encode(report))
    rows = all_rows(repository, schema.report)
    assert {row.value for row in rows} == {"one", "two"}
    assert len({row.id for row in rows}) == 2
    assert all(row.id.startswith("X") for row in rows)
    assert counts(repository) == (2, 2, 2)


def test_one_id_with_two_times_is_two_rows_in_one_batch_or_in_two(
    repository: Repository,
) -> None:
    reports = [{"id": "X", "time": NOON + timedelta(days=n)} for n in range(2)]
    with stored_together() as batch:
        for report in reports:
            repository.keep(report, bson.encode(report))
    batch.store()
    for report in reports:
        repository.keep(report, bson.encode(report))
    assert counts(repository) == (2, 2, 2)


def test_the_same_report_in_another_encoding_is_once(repository: Repository) -> None:
    report = {"id": "X", "time": NOON, "n": 1}
    for number in (1, bson.int64.Int64(1)):
        body = bson.encode({**report, "n": number})
        repository.keep(wire.decode(body), body)
    assert counts(repository) == (1, 1, 1)


def test_groups_and_hours(repository: Repository) -> None:
    with stored_together() as batch:
        for minutes, kind in ((0, "A"), (59, "A"), (60, "A"), (0, "B")):
            report, body = encoded(type=kind, time=NOON + timedelta(minutes=minutes))
            repository.keep(report, body)
    assert counts(repository) == (0, 0, 0)
    batch.store()
    groups = {row.type: row for row in all_rows(repository, schema.report_group)}
    assert groups["A"].count == 3
    assert groups["A"].first_seen == NOON
    assert groups["A"].last_seen == NOON + timedelta(hours=1)
    assert groups["B"].count == 1
    hour = int(NOON.timestamp()) // 3600
    found = {
        (row.group_id, row.hour): row.count
        for row in all_rows(repository, schema.group_hour)
    }
    a, b = groups["A"].id, groups["B"].id
    assert found == {(a, hour): 2, (a, hour + 1): 1, (b, hour): 1}


def test_a_resolved_group_comes_back(repository: Repository) -> None:
    def state() -> str:
        (row,) = all_rows(repository, schema.report_group)
        return str(row.state)

    repository.keep(*encoded(n=1))
    with repository.engine().begin() as connection:
        connection.execute(
            schema.report_group.update().values(
                state="resolved", resolved_at=NOON + timedelta(hours=1)
            )
        )
    repository.keep(*encoded(n=2))  # from before: it waited somewhere
    assert state() == "resolved"
    repository.keep(*encoded(n=3, time=NOON + timedelta(hours=2)))
    assert state() == "regressed"


@given(reports)
def test_any_report_is_a_row(anything: dict[str, Any]) -> None:
    body = wire.encode(anything).body
    row = Row.of(wire.decode(body), body, body)
    assert unpacked(row.body, row.compressed) == body


@pytest.mark.parametrize("strange", STRANGE)
def test_strange_reports(repository: Repository, strange: str) -> None:
    report = STRANGE[strange]
    assert repository.publish(report) == [wire.encode(report).id]
    assert counts(repository) == (1, 1, 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "a\0b"},
        {"id": "x" * 5000},
        {"id": "".join(map(chr, range(0x4E00, 0x4E00 + 3000)))},
        {"id": "ünïcode 🙂"},
        {"id": 17},
        {"id": ""},
        {"type": "a\0b", "topic": 3, "value": {"a": [1]}, "reporter": b"x"},
        {"time": datetime(1, 1, 1)},
        {"time": datetime(9999, 12, 31, 23, 59, 59)},
        {"time": "yesterday"},
        {"time": datetime(2026, 1, 1)},
        {"value": "x" * 1_000_000},
    ],
)
def test_strange_fields(repository: Repository, fields: dict[str, Any]) -> None:
    body = bson.encode({"id": "X", **fields})
    for _ in range(2):
        assert repository.keep(wire.decode(body), body)
    assert counts(repository) == (1, 1, 1)


def test_it_is_an_oops_publisher_among_others(repository: Repository) -> None:
    ids: list[str] = []

    def other(report: dict[str, Any]) -> list[str]:
        ids.append(report["id"])
        return [report["id"]]

    config = oops.Config()
    config.publisher = oops.publish_to_many(repository.publish, other)
    returned = config.publish(config.create({"type": "E"}))
    assert set(returned) == set(ids)
    assert [row.id for row in all_rows(repository, schema.report)] == ids


def test_behind_a_config_the_bytes_are_kept_unless_it_changes_the_report(
    repository: Repository,
) -> None:
    config = oops.Config()
    config.publisher = repository.publish
    body = bson.encode({"id": "A", "n": bson.int64.Int64(1)})
    receive(config, body)
    (row,) = all_rows(repository, schema.report)
    assert unpacked(row.body, row.compressed) == body

    config.filters.append(lambda report: report.pop("secret", None) and None)
    body = bson.encode({"id": "B", "secret": "s3cret"})
    for _ in range(2):
        receive(config, body)
    row = next(row for row in all_rows(repository, schema.report) if row.id == "B")
    assert wire.decode(unpacked(row.body, row.compressed)) == {"id": "B"}
    assert counts(repository) == (2, 2, 2)


def test_a_batch_is_one_transaction(repository: Repository) -> None:
    good, bad = encoded(n=1), encoded(n=2)
    with stored_together() as batch:
        repository.keep(*good)
        repository.keep(*bad)
    (_, row) = batch._rows[1]
    object.__setattr__(row, "type", None)
    with pytest.raises(RepositoryError) as raised:
        batch.store()
    assert counts(repository) == (0, 0, 0)
    assert "\n" not in str(raised.value)


def test_many_threads(repository: Repository) -> None:
    def publish(number: int) -> None:
        for n in range(10):
            repository.keep(*encoded(n=n if number % 2 else n + 1000 * number))

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts(repository) == (40, 40, 40)


def _publish(url: str, number: int) -> None:
    repository = Repository(url)
    for begin in range(0, 64, 16):
        with stored_together() as batch:
            for n in range(begin, begin + 16):
                repository.keep(*encoded(n=n, type=f"E{n % 3}"))
                repository.keep(*encoded(n=n, type=f"F{n % 5}", by=number))
        batch.store()


def test_many_processes_at_an_empty_database(database: str) -> None:
    """They all make the tables, and store half the same, half different reports."""
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_publish, args=(database, n)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert counts(Repository(database)) == (256, 256, 256)


def test_a_forked_process_has_its_own_connection(repository: Repository) -> None:
    repository.keep(*encoded(n=1))
    child = os.fork()
    if child == 0:
        try:
            repository.keep(*encoded(n=2))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    repository.keep(*encoded(n=3))
    assert counts(repository) == (3, 3, 3)


def test_an_upgrade_counts_by_day_what_was_counted_by_hour(
    repository: Repository,
) -> None:
    for number in range(30):
        time = NOON + timedelta(hours=5 * number)
        repository.keep(*encoded(n=number, type=f"E{number % 3}", time=time))
    before = counts(repository)
    with repository.engine().begin() as connection:
        connection.execute(sqlalchemy.text("DROP TABLE group_day"))
        connection.execute(sqlalchemy.text("DROP INDEX report_type_time"))
        connection.execute(
            sqlalchemy.text("UPDATE alembic_version SET version_num = '0003'")
        )
    assert repository.upgrade() == "0003"
    assert counts(repository) == before == (30, 30, 30)


def test_the_tables_are_those_of_the_migrations(database: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    Repository(database).upgrade()
    with databases.engine_of(database).begin() as connection:
        context = MigrationContext.configure(connection)
        differences = [
            one
            for one in compare_metadata(context, schema.metadata)
            if not getattr(one[1], "name", "").startswith("report_2")  # a day's
        ]
    assert differences == []
    scripts = ScriptDirectory(str(databases._MIGRATIONS))
    assert scripts.get_current_head() == schema.HEAD


def test_a_newer_schema_is_a_clear_error(repository: Repository) -> None:
    with repository.engine().begin() as connection:
        connection.execute(
            sqlalchemy.text("UPDATE alembic_version SET version_num = '9999'")
        )
    for use in (repository.upgrade, lambda: Reports(repository.url).find("x")):
        with pytest.raises(WrongSchema, match=r"newer .*: upgrade oops-celery"):
            use()


@pytest.mark.parametrize(
    "url",
    [
        "oopses",
        "",
        "sqlite:",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///x/",
        "mysql://u:s3cret@h/x",
        "postgresql://u:s3cret@h/x",
        "postgresql+psycopg://u:s3cret@h",
        "postgresql+psycopg://u:s3cret@h:port/x",
    ],
)
def test_a_url_of_another_kind(url: str) -> None:
    with pytest.raises(SettingsError, match="sqlite:///FILE") as raised:
        Repository(url)
    assert "s3cret" not in str(raised.value)


def test_a_database_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    repository = Repository("postgresql+psycopg://u:s3cret@127.0.0.1:1/x")
    report, body = encoded(value="private")
    frames: list[int] = []
    for _ in range(3):
        with pytest.raises(Away, match=r"127\.0\.0\.1:1/x") as raised:
            repository.keep(report, body)
        assert "s3cret" not in str(raised.value)
        assert "private" not in str(raised.value)
        assert "\n" not in str(raised.value)
        # As a new error each time: a failure's traceback goes along with its report.
        frames.append(len(traceback.extract_tb(raised.value.__traceback__)))
    assert frames[2] <= frames[1] + 1
    (line,) = [one for one in caplog.records if one.levelname == "WARNING"]
    assert "the repository is away" in line.getMessage()


def test_sqlite_waits_for_the_disk_and_is_for_its_group_alone(tmp_path: Path) -> None:
    repository = Repository(f"sqlite:///{tmp_path}/oopses.db")
    os.umask(previous := os.umask(0))
    assert previous >= 0
    repository.keep(*encoded())
    with repository.engine().connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        for path in tmp_path.glob("oopses.db*"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o640, path


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    file = tmp_path / "oopses.db"
    file.write_bytes(b"x" * 5000)
    with pytest.raises(RepositoryError, match="not a database"):
        Repository(f"sqlite:///{file}").keep(*encoded())
    assert file.read_bytes() == b"x" * 5000


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(Away, match=r"missing/oopses\.db: "):
        Repository(f"sqlite:///{tmp_path}/missing/oopses.db").keep(*encoded())


def test_a_network_file_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oops_celery.settings import repository_url

    table = f"30 1 0:5 / / rw - ext4 d rw\n31 30 0:6 / {tmp_path} rw - nfs4 h:/x rw\n"
    fake = tmp_path / "mountinfo"
    fake.write_text(table)
    monkeypatch.setattr(repository_url, "MOUNTS", fake)
    with pytest.raises(RepositoryError, match=r"network file system.*nfs4"):
        Repository(f"sqlite:///{tmp_path}/oopses.db").keep(*encoded())


def test_another_writer_is_waited_for(tmp_path: Path) -> None:
    repository = Repository(f"sqlite:///{tmp_path}/oopses.db")
    repository.upgrade()
    other = sqlite3.connect(
        tmp_path / "oopses.db", isolation_level=None, check_same_thread=False
    )
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.5, lambda: other.execute("COMMIT"))
    timer.start()
    repository.keep(*encoded())
    timer.join()
    assert counts(repository) == (1, 1, 1)


def test_it_is_a_public_name() -> None:
    assert oops_celery.Repository is Repository


@pytest.mark.parametrize("package", ["sqlalchemy", "zstandard", "alembic"])
def test_a_missing_package_is_named(package: str, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "import oops_celery\n"
        f"oops_celery.Repository('sqlite:///{tmp_path}/x.db').publish({{}})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "needs SQLAlchemy, Alembic and zstandard: pip install" in done.stderr


def test_a_missing_psycopg_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "find_spec", lambda _: None)
    with pytest.raises(
        RepositoryError, match=r"needs psycopg: pip install .*postgresql"
    ):
        Repository("postgresql+psycopg://u@h/x").upgrade()
