"""A queue that nacks what it is sent, as a new quorum queue without a leader does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import amqp
import kombu
import pytest

from oops_celery import Publisher, wire
from oops_celery.transport.link import Link
from tests.support import Node

FULL = {"x-max-length": 1, "x-overflow": "reject-publish"}


@pytest.fixture
def publisher(broker: Node) -> Iterator[Publisher]:
    """A publisher whose queue is full; RabbitMQ nacks each report."""
    with broker.connect() as connection:
        channel = connection.channel()
        channel.queue_delete("full")
        channel.queue_declare("full", arguments=FULL, auto_delete=False)
        channel.confirm_select()
        channel.basic_publish_confirm(amqp.Message("x"), "", "full")
    made = Publisher(lambda: kombu.Connection(broker.url), "", "full", timeout=60)
    yield made
    made.close()
    with broker.connect() as connection:
        connection.channel().queue_delete("full")


@pytest.fixture
def on_nack(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], Any]]:
    """What is done, one by one, each time that a link goes on after a nack."""
    steps: list[Callable[[], Any]] = []
    renew = Link.renew_channel

    def renew_channel(link: Link, timeout: float) -> None:
        if steps:
            steps.pop(0)()
        renew(link, timeout)

    monkeypatch.setattr(Link, "renew_channel", renew_channel)
    return steps


def purge(broker: Node) -> None:
    with broker.connect() as connection:
        connection.channel().queue_purge("full")


def test_a_report_waits_for_the_leader_of_a_new_queue(
    broker: Node, publisher: Publisher, on_nack: list[Callable[[], Any]]
) -> None:
    on_nack += [lambda: None, lambda: purge(broker)]
    assert publisher({"n": 1}) == [wire.encode({"n": 1}).id]
    assert on_nack == []


def test_many_reports_wait_for_the_leader_of_a_new_queue(
    broker: Node, publisher: Publisher, on_nack: list[Callable[[], Any]]
) -> None:
    on_nack.append(lambda: purge(broker))
    first, second = publisher.publish_many([{"n": 1}, {"n": 2}])
    assert first == [wire.encode({"n": 1}).id]
    assert second == []  # it holds one


def test_a_full_queue_is_waited_for_once(
    publisher: Publisher, on_nack: list[Callable[[], Any]]
) -> None:
    asked = [lambda: None] * 1000
    on_nack += asked
    assert publisher({"n": 1}) == []
    assert "nacked" in publisher.trouble
    on_nack[:] = asked
    assert publisher({"n": 2}) == []
    assert len(on_nack) == 999  # a new channel, for one try
