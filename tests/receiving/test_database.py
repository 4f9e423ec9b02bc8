"""The worker keeps reports in a database: durably, together, whatever is killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import kombu
import pytest
from sqlalchemy import func, select

from oops_celery import Publisher, wire
from oops_celery.repository import schema
from oops_celery.repository.queries import Reports
from oops_celery.repository.store import Repository
from tests.support import QUICK_TOPOLOGY, Node, Worker, environment, eventually
from tests.support.postgresql import PostgreSQL

StartWorker = Callable[..., Worker]


@pytest.fixture
def publish(broker: Node) -> Callable[[int], list[str]]:
    """Publish some reports; return their ids."""
    publisher = Publisher(
        lambda: kombu.Connection(broker.url), "oopses", "", timeout=60
    )

    def publish_all(count: int, **fields: Any) -> list[str]:
        now = datetime.now(timezone.utc)
        found: list[str] = []
        for number in range(count):
            report = {"type": f"E{number % 7}", "n": number, "time": now, **fields}
            found += publisher(report)
        return found

    return publish_all


@pytest.fixture
def quick(tmp_path: Path) -> dict[str, str]:
    """Settings with short retries."""
    (tmp_path / "topology.yml").write_text(QUICK_TOPOLOGY)
    return {"OOPS_TOPOLOGY": str(tmp_path / "topology.yml")}


def stored(url: str) -> tuple[int, int, int]:
    """Return the reports stored, and those counted in groups and in hours."""
    repository = Repository(url)
    with repository.engine().connect() as connection:
        numbers = (
            connection.scalar(select(func.count()).select_from(schema.report)),
            connection.scalar(select(func.sum(schema.report_group.c.count))),
            connection.scalar(select(func.sum(schema.group_hour.c.count))),
        )
    repository.engine().dispose()
    return tuple(int(number or 0) for number in numbers)  # type: ignore[return-value]


def publish_before(worker: Worker, publish: Any, number: int) -> list[str]:
    """Publish reports while the worker is down: it has declared the queue."""
    worker.stop()
    sent: list[str] = publish(number)
    assert len(sent) == number
    worker.restart()
    return sent


def count(url: str) -> int:
    return stored(url)[0]


def show(part: str, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "oops_celery.cli", "show", part],
        env=environment(**environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_each_report_is_a_row(
    broker: Node, worker: StartWorker, publish: Any, database: str, pool: str
) -> None:
    started = worker("-P", pool, "-c", "2", OOPS_REPOSITORY=database)
    sent = publish(100)
    eventually(lambda: count(database) == 100)
    assert stored(database) == (100, 100, 100)
    eventually(lambda: broker.count("oopses") == 0)
    with Reports(database) as reports:
        for one in sent[::10]:
            for part in (
                one,
                one[5:13],
                f"{one}.",
                one[5:].upper(),
                f"https://x/{one}",
            ):
                (found,) = reports.find(part)
                assert found.id == one
                assert wire.decode(found.body)["id"] == one
        # The end of an id is not in an index, and is found nevertheless.
        assert [found.id for found in reports.find(sent[0][-12:])] == [sent[0]]
    assert sent[3] in show(sent[3][5:13], OOPS_REPOSITORY=database)
    started.stop()
    assert started.process.returncode == 0
    assert "Traceback" not in started.text()


def test_two_workers_in_two_folders(
    broker: Node, publish: Any, postgresql: PostgreSQL, tmp_path: Path
) -> None:
    """Both start at the same time, with an empty database."""
    database = postgresql.database()
    workers = []
    try:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            options = ("-n", f"{name}@%h", "-c", "2")
            workers.append(
                Worker(tmp_path / name, broker.url, *options, OOPS_REPOSITORY=database)
            )
        publish(1000)
        eventually(lambda: count(database) == 1000)
        assert stored(database) == (1000, 1000, 1000)
        for one in workers:
            eventually(lambda one=one: "succeeded" in one.text())
            assert "Traceback" not in one.text()
    finally:
        for one in workers:
            one.kill()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["pool process", "worker"])
def test_kill_in_the_middle_loses_nothing(
    broker: Node, worker: StartWorker, publish: Any, database: str, victim: str
) -> None:
    started = worker("-c", "2", OOPS_REPOSITORY=database)
    sent = publish_before(started, publish, 5000)
    for part in range(1, 4):
        eventually(lambda part=part: count(database) > part * 500)
        if victim == "worker":
            started.kill()
            started.restart()
        else:
            started.kill_pool()
    eventually(lambda: count(database) == 5000)
    eventually(lambda: broker.count("oopses") == 0)
    assert stored(database) == (5000, 5000, 5000)
    assert len(set(sent)) == 5000
    assert broker.count("oopses.dead") == 0


@pytest.mark.slow
def test_postgresql_is_killed_and_comes_back(
    broker: Node, worker: StartWorker, publish: Any, quick: dict[str, str]
) -> None:
    server = PostgreSQL()
    try:
        server.start()
        database = server.database()
        started = worker("-c", "2", OOPS_REPOSITORY=database, **quick)
        publish_before(started, publish, 2000)
        eventually(lambda: count(database) > 200)
        server.kill()
        eventually(lambda: "the repository is away" in started.text())
        publish(200, later=True)
        server.start()
        eventually(lambda: count(database) == 2200)
        eventually(lambda: "the repository is back" in started.text())
        assert stored(database) == (2200, 2200, 2200)
        assert broker.count("oopses.dead") == 0
        assert "Traceback" not in started.text()
    finally:
        server.clean_up()


def test_a_file_of_sqlite_goes_away_and_comes_back(
    broker: Node,
    worker: StartWorker,
    publish: Any,
    quick: dict[str, str],
    tmp_path: Path,
) -> None:
    """Its folder is missing, as when a disk is not mounted."""
    database = f"sqlite:///{tmp_path}/data/oopses.db"
    (tmp_path / "data").mkdir()
    started = worker("-c", "2", OOPS_REPOSITORY=database, **quick)
    publish(200)
    eventually(lambda: count(database) == 200)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    started.kill_pool()  # they have the file open
    publish(200, later=True)
    eventually(lambda: "the repository is away" in started.text())
    (tmp_path / "elsewhere").rename(tmp_path / "data")
    eventually(lambda: count(database) == 400)
    assert stored(database) == (400, 400, 400)
    assert broker.count("oopses.dead") == 0


@pytest.mark.slow
def test_a_report_that_kills_its_process_takes_none_with_it(
    broker: Node, worker: StartWorker, publish: Any, database: str, tmp_path: Path
) -> None:
    """Those before it in its batch were not written yet: they are done again."""
    (tmp_path / "deadly.py").write_text(
        "import os, oops, oops_celery\n"
        f"repository = oops_celery.Repository({database!r})\n"
        "def keep(report):\n"
        "    if report.get('deadly'): os._exit(9)\n"
        "    return repository.publish(report)\n"
        "config = oops.Config()\n"
        "config.publisher = keep\n"
    )
    started = worker("-c", "2", OOPS_CONFIG="deadly:config", PYTHONPATH=str(tmp_path))
    started.stop()
    for number in range(10):
        publish(30, part=number)
        publish(1, part=number, deadly=number == 5)
    started.restart()
    eventually(lambda: broker.count("oopses.dead") == 1)
    eventually(lambda: count(database) == 309)
    assert stored(database) == (309, 309, 309)


def test_a_schema_of_a_newer_version_ends_the_start(
    broker: Node, worker: StartWorker, database: str
) -> None:
    repository = Repository(database)
    repository.upgrade()
    with repository.engine().begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    started = worker(OOPS_REPOSITORY=database)
    assert started.process.wait() == 1
    assert "was upgraded by a newer oops-celery" in started.text()
    assert "Traceback" not in started.text()
