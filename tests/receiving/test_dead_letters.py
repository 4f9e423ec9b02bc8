"""The worker takes dead letters into the database, and loses none of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from oops_celery import wire
from oops_celery.dead_letters.letters import Choice, Letters
from oops_celery.errors import RepositoryError
from tests.support import PACKAGED, Node, Worker, eventually
from tests.support.parking import DEAD, Parking, make_report, many
from tests.support.postgresql import PostgreSQL

StartWorker = Callable[..., Worker]


def filed(url: str) -> list[str]:
    """Return the ids of the dead letters in a database."""
    try:
        with Letters(url) as letters:
            return [letter.id for letter in letters.choose(Choice())]
    except RepositoryError:  # no worker has made it yet
        return []


@pytest.fixture
def parking(broker: Node) -> Any:
    parking = Parking(broker)  # into the queue alone
    yield parking
    parking.close()


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_each_dead_letter_is_a_row(
    parking: Parking, worker: StartWorker, database: str, pool: str
) -> None:
    ids = parking.park(*many(100))
    parking.park_body(b"garbage", message_id="no-report")
    started = worker("-P", pool, "-c", "2", OOPS_REPOSITORY=database)
    eventually(lambda: len(filed(database)) == 101)
    assert sorted(filed(database)) == sorted([*ids, "no-report"])
    eventually(lambda: parking.broker.count(DEAD) == 0)
    (more,) = parking.park(make_report(KeyError("a")))
    eventually(lambda: more in filed(database))
    with Letters(database) as letters:
        ((letter, content),) = letters.contents(letters.find(more))
    assert letter.reason == "NotTaken: disk full"
    assert letter.queue == DEAD
    assert wire.decode(content.body)["id"] == more
    assert content.headers["task"] == "oops_celery.republish"
    assert content.properties["content_type"] == "application/bson"
    started.stop()
    assert started.process.returncode == 0
    assert "Traceback" not in started.text()


def test_a_message_that_python_cannot_read_is_filed(
    parking: Parking, worker: StartWorker, tmp_path: Path, monkeypatch: Any
) -> None:
    url = f"sqlite:///{tmp_path}/oopses.db"
    # A time that Python does not have, in a header.
    monkeypatch.setattr("amqp.serialization.calendar.timegm", lambda _: 10**14)
    parking.broker.publish(
        DEAD, b"far", application_headers={"far": datetime(2020, 1, 1)}
    )
    monkeypatch.undo()
    worker(OOPS_REPOSITORY=url)
    eventually(lambda: len(filed(url)) == 1)
    with Letters(url) as letters:
        ((_, content),) = letters.contents(letters.choose(Choice()))
    assert content.body == b"far"
    assert list(content.headers) == ["oops-unreadable"]


def test_they_can_be_left_alone(
    parking: Parking, worker: StartWorker, tmp_path: Path
) -> None:
    parking.park(make_report(KeyError("a")))
    url = f"sqlite:///{tmp_path}/oopses.db"
    started = worker(OOPS_REPOSITORY=url, OOPS_FILE_DEAD_LETTERS="false")
    parking.broker.publish("oopses", wire.encode({"type": "E"}).body)
    eventually(lambda: "succeeded" in started.text())
    assert "file_dead_letter[" not in started.text()
    assert parking.broker.count(DEAD) == 1
    assert filed(url) == []
    started.kill()
    wrong = worker(OOPS_REPOSITORY=url, OOPS_FILE_DEAD_LETTERS="perhaps")
    assert wrong.process.wait(60) != 0
    assert "OOPS_FILE_DEAD_LETTERS='perhaps' (environment): must be" in wrong.text()


def test_other_queues_are_filed_if_the_topology_says_so(
    broker: Node, worker: StartWorker, tmp_path: Path
) -> None:
    (tmp_path / "t.yml").write_text(
        PACKAGED.read_text()
        + "  - {queue: orders.dead, file_dead_letters: true}\n"
        + "  - {queue: other.dead}\n"
    )
    url = f"sqlite:///{tmp_path}/oopses.db"
    try:
        worker(OOPS_REPOSITORY=url, OOPS_TOPOLOGY="t.yml")
        for queue in ("orders.dead", "other.dead"):
            broker.publish(queue, b"order", message_id=queue)
        eventually(lambda: filed(url) == ["orders.dead"])
        with Letters(url) as letters:
            assert letters.counts() == {"orders.dead": 1}
        assert broker.count("other.dead") == 1
    finally:
        with broker.connect() as connection:
            for queue in ("orders.dead", "other.dead"):
                connection.channel().queue_delete(queue)


def test_a_queue_of_reports_is_no_queue_of_dead_letters(
    broker: Node, worker: StartWorker, tmp_path: Path
) -> None:
    text = PACKAGED.read_text().replace(
        "- queue: oopses\n", "- queue: oopses\n    file_dead_letters: true\n", 1
    )
    assert "file_dead_letters" in text
    (tmp_path / "t.yml").write_text(text)
    started = worker(
        OOPS_TOPOLOGY="t.yml", OOPS_REPOSITORY=f"sqlite:///{tmp_path}/o.db"
    )
    assert started.process.wait(60) != 0
    assert "queue 'oopses' has file_dead_letters: true, and another" in started.text()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["pool process", "worker"])
def test_kill_in_the_middle_loses_and_doubles_nothing(
    parking: Parking, worker: StartWorker, database: str, victim: str
) -> None:
    ids = parking.park(*many(3000))
    started = worker("-c", "2", OOPS_REPOSITORY=database)
    for killed in range(3):
        before = len(filed(database))
        if before == 3000:
            assert killed  # else nothing was tested
            break
        eventually(lambda before=before: len(filed(database)) > before)
        if victim == "worker":
            started.kill()
            started.restart()
        else:
            started.kill_pool()
    eventually(lambda: len(filed(database)) == 3000)
    eventually(lambda: parking.broker.count(DEAD) == 0)
    assert sorted(filed(database)) == sorted(ids)


def test_while_the_database_is_away_they_stay_in_the_queue(
    parking: Parking, worker: StartWorker, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    url = f"sqlite:///{folder}/oopses.db"
    started = worker("-c", "1", OOPS_REPOSITORY=url)
    folder.rename(tmp_path / "gone")
    ids = parking.park(*many(20))
    # Each is tried again and again.
    eventually(lambda: started.text().count("it is filed later") >= 60)
    assert filed(url) == []
    # Held, and not given back each time: RabbitMQ counts that.
    started.kill()
    eventually(lambda: parking.broker.count(DEAD) == 20)
    (message,) = parking.broker.messages(DEAD)[:1]
    assert message.headers.get("x-delivery-count", 0) <= 1
    assert len(ids) == 20


def test_they_are_filed_when_the_database_is_back(
    parking: Parking, worker: StartWorker, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    url = f"sqlite:///{folder}/oopses.db"
    started = worker("-c", "1", OOPS_REPOSITORY=url)
    folder.rename(tmp_path / "gone")
    ids = parking.park(*many(20))
    eventually(lambda: "it is filed later" in started.text())
    (tmp_path / "gone").rename(folder)
    eventually(lambda: sorted(filed(url)) == sorted(ids))
    eventually(lambda: parking.broker.count(DEAD) == 0)
    assert "the repository is away" in started.text()


@pytest.mark.slow
def test_a_postgresql_that_comes_later(parking: Parking, worker: StartWorker) -> None:
    server = PostgreSQL()
    try:
        server.start()
        url = server.database()
        server.kill()
        ids = parking.park(*many(50))
        started = worker("-c", "1", OOPS_REPOSITORY=url)
        eventually(lambda: "it is filed later" in started.text())
        server.start()
        eventually(lambda: sorted(filed(url)) == sorted(ids))
    finally:
        server.clean_up()


def test_a_letter_that_was_delivered_often_is_sent_anew(
    parking: Parking, worker: StartWorker, tmp_path: Path
) -> None:
    """RabbitMQ 4 drops a message of a quorum queue after 20 deliveries."""
    (dead,) = parking.park(make_report(KeyError("a")))
    with parking.broker.connect() as connection:
        for _ in range(12):
            channel = connection.channel()
            eventually(lambda channel=channel: channel.basic_get(DEAD))
            channel.close()
        eventually(lambda: parking.broker.count(DEAD) == 1)
    url = f"sqlite:///{tmp_path}/oopses.db"
    started = worker("-c", "1", OOPS_REPOSITORY=url)
    eventually(lambda: filed(url) == [dead])
    assert f"again at the end of {DEAD}" in started.text()
    eventually(lambda: parking.broker.count(DEAD) == 0)


def test_a_missing_queue_is_said_and_taken_from_later(
    broker: Node, worker: StartWorker, tmp_path: Path
) -> None:
    (tmp_path / "t.yml").write_text(
        PACKAGED.read_text()
        + "  - {queue: late.dead, passive: true, file_dead_letters: true}\n"
    )
    url = f"sqlite:///{tmp_path}/oopses.db"
    started = worker(OOPS_REPOSITORY=url, OOPS_TOPOLOGY="t.yml")
    eventually(lambda: "queue late.dead, for the consumer" in started.text())
    with broker.connect() as connection:
        connection.channel().queue_declare("late.dead", durable=True, auto_delete=False)
        try:
            broker.publish("late.dead", b"order", message_id="order-1")
            eventually(lambda: filed(url) == ["order-1"])
        finally:
            connection.channel().queue_delete("late.dead")


def test_two_workers_file_each_letter_once(
    parking: Parking, postgresql: PostgreSQL, tmp_path: Path
) -> None:
    database = postgresql.database()
    ids = parking.park(*many(1000))
    workers = []
    try:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            options = ("-n", f"{name}@%h", "-c", "2")
            url = parking.broker.url
            workers.append(
                Worker(tmp_path / name, url, *options, OOPS_REPOSITORY=database)
            )
        eventually(lambda: len(filed(database)) == 1000)
        assert sorted(filed(database)) == sorted(ids)
        for one in workers:
            assert "Traceback" not in one.text()
    finally:
        for one in workers:
            one.kill()


def test_a_lost_connection_loses_and_doubles_nothing(
    parking: Parking, worker: StartWorker, database: str
) -> None:
    ids = parking.park(*many(2000))
    worker("-c", "2", OOPS_REPOSITORY=database)
    eventually(lambda: len(filed(database)) > 0)
    parking.broker.ctl("close_all_connections", "test")
    eventually(lambda: len(filed(database)) == 2000)
    assert sorted(filed(database)) == sorted(ids)
    eventually(lambda: parking.broker.count(DEAD) == 0)
