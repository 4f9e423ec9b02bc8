"""A link that is opened before the report is stored: the page says where it is."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import kombu
import pytest

import oops_celery
from oops_celery import FolderPublisher, Publisher
from tests.support import Node, Worker, eventually
from tests.support.postgresql import PostgreSQL
from tests.web.conftest import NOBODY, Serve
from tests.web.serving import a_report
from tests.web.test_pages import text_of

#: Refuses every report.
REFUSING = """
import oops

def publish(report):
    raise OSError("the disk is full")

config = oops.Config()
config.publisher = publish
"""


@pytest.fixture
def broker(rabbitmq: Node) -> Node:
    rabbitmq.clean()
    return rabbitmq


def publish(broker: Node) -> str:
    """Publish a report as an application does; return its id."""
    connect = partial(kombu.Connection, broker.url)
    (report_id,) = Publisher(connect, "oopses", "", timeout=60)(a_report(0))
    return report_id


def test_a_worker_that_was_stopped(
    serve: Serve, sqlite: str, broker: Node, tmp_path: Path
) -> None:
    worker = Worker(tmp_path, broker.url, OOPS_REPOSITORY=sqlite)
    worker.stop()
    pages = serve(sqlite, RABBITMQ_URL=broker.url)
    report_id = publish(broker)
    answer = pages.get(f"/{report_id}")
    assert answer.status_code == 404
    assert answer.headers["refresh"] == "3"
    text = text_of(answer.text)
    assert "Queued: 1 report in queue oopses ; no worker takes them" in text
    # It becomes the report.
    worker.restart()
    eventually(lambda: pages.get(f"/{report_id}").status_code == 200)
    page = pages.get(f"/{report_id}")
    assert "refresh" not in page.headers
    assert "not sold: 0" in text_of(page.text)
    worker.stop()


def test_a_repository_that_refuses(
    serve: Serve, sqlite: str, broker: Node, tmp_path: Path
) -> None:
    (tmp_path / "refusing.py").write_text(REFUSING)
    worker = Worker(tmp_path, broker.url, OOPS_CONFIG="refusing:config")
    pages = serve(sqlite, RABBITMQ_URL=broker.url)
    report_id = publish(broker)
    eventually(lambda: broker.count("oopses.retry.1") == 1)
    waits = "Waiting for a retry until about "
    text = eventually(
        lambda: (
            shown
            if waits in (shown := text_of(pages.get(f"/{report_id}").text))
            else None
        )
    )
    assert "1 report in queue oopses.retry.1" in text
    worker.kill()


def test_a_database_that_is_away(serve: Serve, broker: Node, tmp_path: Path) -> None:
    """The worker's database is the pages' as well: they say where the report waits."""
    server = PostgreSQL()
    try:
        server.start()
        database = server.database()
        worker = Worker(tmp_path, broker.url, OOPS_REPOSITORY=database)
        pages = serve(database, RABBITMQ_URL=broker.url)
        server.kill()
        report_id = publish(broker)
        text = eventually(
            lambda: (
                shown
                if "Waiting for a retry"
                in (shown := text_of(pages.get(f"/{report_id}").text))
                else None
            )
        )
        assert "The database cannot be read now" in text
        assert pages.get("/health").json()["database"] != "ok"
        server.start()
        eventually(lambda: pages.get(f"/{report_id}").status_code == 200)
        worker.kill()
    finally:
        server.clean_up()


def test_a_report_that_was_parked(
    serve: Serve, sqlite: str, broker: Node, tmp_path: Path
) -> None:
    (tmp_path / "refusing.py").write_text(REFUSING)
    worker = Worker(
        tmp_path,
        broker.url,
        OOPS_CONFIG="refusing:config",
        OOPS_MAX_RETRIES="0",
        OOPS_REPOSITORY=sqlite,
        OOPS_FILE_DEAD_LETTERS="false",
    )
    pages = serve(sqlite, RABBITMQ_URL=broker.url)
    report_id = publish(broker)
    eventually(lambda: broker.count("oopses.dead") == 1)
    parked = "Dead: 1 message in queue oopses.dead"
    eventually(lambda: parked in text_of(pages.get(f"/{report_id}").text))
    worker.stop()
    # Filed, it is shown with its reason.
    files = Worker(tmp_path, broker.url, OOPS_REPOSITORY=sqlite)
    eventually(lambda: pages.get(f"/{report_id}").status_code == 200)
    assert "OSError: the disk is full" in text_of(pages.get(f"/{report_id}").text)
    files.stop()


def test_a_report_in_the_spool_is_shown(
    serve: Serve, sqlite: str, tmp_path: Path
) -> None:
    """RabbitMQ is away: the application's fallback has it."""
    pages = serve(sqlite, OOPS_SPOOL=str(tmp_path / "spool"))
    (report_id,) = FolderPublisher(str(tmp_path / "spool"))(a_report(0))
    answer = pages.get(f"/{report_id}")
    text = text_of(answer.text)
    assert "Spooled: its program could not send it yet" in text
    assert "nothing listens there" in text
    assert "not sold: 0" in text
    assert answer.headers["refresh"] == "3"


def test_an_id_that_nobody_made_is_not_asked_for_again(
    serve: Serve, sqlite: str
) -> None:
    answer = serve(sqlite).get("/coffee")
    assert answer.status_code == 404
    assert "refresh" not in answer.headers
    assert "No id has that part" in text_of(answer.text)


@pytest.mark.parametrize("url", ["https://oops.example", "https://example/oops/"])
def test_the_address_of_a_report(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from oops_celery.settings import links

    monkeypatch.setenv("OOPS_WEB_URL", url)
    links._base.cache_clear()
    try:
        assert oops_celery.url("OOPS-a/b") == f"{url.rstrip('/')}/OOPS-a%2Fb"
        monkeypatch.setenv("OOPS_WEB_URL", "")
        links._base.cache_clear()
        assert oops_celery.url("OOPS-1") is None
    finally:
        links._base.cache_clear()


def test_show_names_the_page(sqlite: str, serve: Serve, tmp_path: Path) -> None:
    import subprocess
    import sys

    from tests.support import environment
    from tests.web.serving import store

    serve(sqlite)
    (report_id,) = store(sqlite, a_report(0))
    done = subprocess.run(
        [sys.executable, "-m", "oops_celery.cli", "show", report_id],
        env=environment(
            OOPS_REPOSITORY=sqlite,
            OOPS_WEB_URL="https://o.example",
            RABBITMQ_URL=NOBODY,
        ),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"page: https://o.example/{report_id}\n" in done.stdout
