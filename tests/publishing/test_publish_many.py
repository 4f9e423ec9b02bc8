"""Many reports with many confirms in flight: what holds for one holds for each."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import kombu
import pytest

import oops_celery
from oops_celery import Publisher, wire
from tests.support import Node


@pytest.fixture
def publisher(broker: Node) -> Iterator[Publisher]:
    with kombu.Connection(broker.url) as connection:
        assert oops_celery.Topology.load().declare(connection.channel) == []
    made = Publisher(lambda: kombu.Connection(broker.url), "oopses", "", timeout=60)
    yield made
    made.close()


def queued(broker: Node) -> list[str]:
    return [
        message.properties["correlation_id"] for message in broker.messages("oopses")
    ]


def test_each_report_gets_what_a_call_would_return(
    broker: Node, publisher: Publisher
) -> None:
    reports = [{"n": n} for n in range(3000)]
    returned = list(publisher.publish_many(reports))
    assert returned == [[wire.encode(report).id] for report in reports]
    assert queued(broker) == [one for (one,) in returned]


def test_the_answers_come_in_order_and_none_is_missing(publisher: Publisher) -> None:
    publisher.max_size = 1000
    large = {"large": "x" * 2000}
    reports = [large, {"n": 1}, large, large, {"n": 2}, large]
    returned = list(publisher.publish_many(reports))
    assert [len(ids) for ids in returned] == [0, 1, 0, 0, 1, 0]
    assert returned[1] == [wire.encode({"n": 1}).id]


def test_the_same_report_twice_and_none_at_all(
    broker: Node, publisher: Publisher
) -> None:
    first, second = publisher.publish_many([{"k": 1}, {"k": 1}])
    assert first == second == ["OOPS-f9082d518031065d1e948548a66a4a05"]
    assert list(publisher.publish_many([])) == []
    assert len(queued(broker)) == 2


def test_no_more_than_a_window_is_taken_ahead(publisher: Publisher) -> None:
    taken = []

    def reports() -> Iterator[dict[str, int]]:
        for n in range(5000):
            taken.append(n)
            yield {"n": n}

    answers = publisher.publish_many(reports())
    next(answers)
    assert len(taken) <= 1001
    answers.close()
    assert publisher({"after": 1})  # the connection in use then is not used again


@pytest.mark.parametrize("exchange", ["missing", "amq.headers"])
def test_what_no_queue_takes_is_told(broker: Node, exchange: str) -> None:
    publisher = Publisher(
        lambda: kombu.Connection(broker.url), exchange, "", timeout=60
    )
    returned = list(publisher.publish_many({"n": n % 10} for n in range(2500)))
    assert returned == [[]] * 2500


def test_what_the_queue_refuses_is_told(broker: Node) -> None:
    with broker.connect() as connection:
        channel = connection.channel()
        channel.queue_declare(
            "small",
            exclusive=True,
            arguments={"x-max-length": 5, "x-overflow": "reject-publish"},
        )
        publisher = Publisher(
            lambda: kombu.Connection(broker.url), "", "small", timeout=60
        )
        returned = list(publisher.publish_many({"n": n} for n in range(300)))
        kept = channel.queue_declare("small", passive=True).message_count
        assert len(returned) == 300
        assert sum(map(len, returned)) == kept < 300


@pytest.mark.restarts
def test_nothing_is_lost_when_the_broker_restarts(
    broker: Node, publisher: Publisher
) -> None:
    """Each id that came back is there; each that did not come back was told."""

    def reports() -> Iterator[dict[str, int]]:
        for n in range(20_000):
            yield {"n": n}
            if n == 2000:
                restart.start()
            if n > 2000:
                time.sleep(0.0003)

    restart = threading.Thread(target=broker.restart)
    returned = list(publisher.publish_many(reports()))
    restart.join()
    assert len(returned) == 20_000
    sent = {one for ids in returned for one in ids}
    assert len(sent) > 1000
    assert sent <= set(queued(broker))


def test_without_a_broker_it_ends_soon(tmp_path: Path) -> None:
    publisher = Publisher(lambda: kombu.Connection("amqp://127.0.0.1:9/"), "oopses", "")
    started = time.monotonic()
    assert list(publisher.publish_many({"n": n} for n in range(500))) == [[]] * 500
    assert time.monotonic() - started < 30


def test_a_broker_that_does_not_confirm_is_given_up(
    broker: Node, publisher: Publisher
) -> None:
    publisher = Publisher(lambda: kombu.Connection(broker.url), "oopses", "", timeout=1)
    assert publisher({"n": 0})
    thaw = broker.pause()
    started = time.monotonic()
    try:
        assert list(publisher.publish_many({"n": n} for n in range(50))) == [[]] * 50
        assert time.monotonic() - started < 25  # 50 s, were each to wait
    finally:
        thaw()


def test_other_transports() -> None:
    publisher = Publisher(lambda: kombu.Connection("memory://"), "", "many")
    returned = list(publisher.publish_many({"n": n} for n in range(5)))
    assert [len(ids) for ids in returned] == [1] * 5
