"""``oops_celery.testing``: an application's reports, collected without a broker."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import oops
import pytest

import oops_celery
from oops_celery import wire
from oops_celery.testing import CollectingPublisher, collect
from tests.support import environment

#: An application, and its tests as its developers write them.
SHOP = """
import logging
import oops, oops_celery
config = oops.Config()
config.publisher = oops_celery.publisher
config.on_create.append(oops_celery.scrub)
def checkout(token):
    try:
        1 / 0
    except ZeroDivisionError as error:
        info = (type(error), error, error.__traceback__)
        report = config.create({"exc_info": info, "req_vars": {"token": token}})
        return config.publish(report)
"""
TESTS = """
import shop
def test_a_failing_checkout_is_reported(oops_reports):
    (id,) = shop.checkout("s3cr3t")
    (report,) = oops_reports
    assert report["type"] == "ZeroDivisionError"
    assert report["id"] == id
    assert "s3cr3t" not in str(report)
def test_each_test_has_its_own(oops_reports):
    assert oops_reports == []
"""


def test_the_fixture_is_there_without_a_broker(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "test_shop.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=environment(RABBITMQ_URL="amqp://127.0.0.1:1/"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_the_plugin_alone_imports_neither_celery_nor_kombu() -> None:
    code = (
        "import sys, oops_celery.testing.fixtures; "
        "print({'celery', 'kombu', 'bson'} & set(sys.modules))"
    )
    out = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert out == "set()\n"


@pytest.fixture
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oops_celery.app.connection_for_write", refuse)


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("a connection is made")


def test_every_publisher_of_the_process_is_collected(no_broker: None) -> None:
    with collect() as reports:
        assert oops_celery.publisher({"n": 1}) == [wire.encode({"n": 1}).id]
        assert oops_celery.Publisher(refuse)({"n": 2}) != []
        many = list(oops_celery.Publisher().publish_many([{"n": 3}, {"n": 4}]))
    assert [report["n"] for report in reports] == [1, 2, 3, 4]
    assert [[report["id"]] for report in reports[2:]] == many


def test_reports_of_other_threads_are_collected(no_broker: None) -> None:
    with collect() as reports:
        thread = threading.Thread(target=oops_celery.publisher, args=({"n": 1},))
        thread.start()
        thread.join()
    assert [report["n"] for report in reports] == [1]


def test_the_innermost_block_collects(no_broker: None) -> None:
    with collect() as outer:
        with collect() as inner:
            oops_celery.publisher({"n": 1})
        oops_celery.publisher({"n": 2})
    assert [report["n"] for report in inner] == [1]
    assert [report["n"] for report in outer] == [2]


def test_after_the_block_reports_are_sent_again() -> None:
    sent: list[Any] = []

    def connect() -> Any:
        sent.append("a connection")
        raise ConnectionRefusedError

    publish = oops_celery.Publisher(connect, timeout=5)
    with collect():
        assert publish({"n": 1}) != []
    assert sent == []
    assert publish({"n": 1}) == []
    assert sent != []


def test_what_a_worker_would_get_is_collected() -> None:
    """Values that BSON cannot hold are texts; the report itself is not changed."""
    publish = CollectingPublisher(inherit_id=True)
    config = oops.Config()
    config.publisher = publish
    report = {"id": "mine", "v": {1}}
    assert config.publish(report) == ["mine"]
    assert publish.reports == [{"id": "mine", "v": "{1}"}]
    assert report["v"] == {1}
    assert list(publish.publish_many([{"id": "next"}])) == [["next"]]


def test_failing_tasks_of_an_app_are_collected(no_broker: None) -> None:
    from celery import Celery, signals

    app = Celery("shop", set_as_current=False)
    config = oops.Config()
    config.publisher = oops_celery.publisher
    oops_celery.report_failures(app, config)
    app.conf.task_always_eager = True

    @app.task
    def fail() -> None:
        raise ValueError("no stock")

    with collect() as reports:
        fail.delay()
    assert [report["value"] for report in reports] in (["no stock"], []), reports
    assert signals.task_failure is not None
