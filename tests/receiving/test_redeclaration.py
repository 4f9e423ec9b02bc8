"""When the worker declares again what the broker refused. The rest: test_dispatcher."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import kombu
import pytest

from oops_celery.receiving.redeclaration import Redeclaration, RefusedDeclarations
from oops_celery.topology.model import Topology
from tests.support import Node

TOPOLOGY = Topology.parse("""
queues:
  - queue: work
    x_message_ttl: 5000
    bindings: [{exchange: notify, routing_key: a}]
""")


class Timer:
    """Remembers what is to be called, and after how many seconds."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self._waiting: deque[tuple[Any, Any]] = deque()

    def call_after(self, seconds: float, call: Any, args: Any) -> None:
        self.pauses.append(seconds)
        self._waiting.append((call, args))

    def tick(self) -> None:
        call, args = self._waiting.popleft()
        call(*args)


@pytest.fixture
def consumer(broker: Node) -> Iterator[Any]:
    """A consumer whose queue is different at the broker, and its exchange not there."""
    with broker.connect() as connection:
        channel = connection.channel()
        channel.exchange_delete("notify")
        channel.queue_delete("work")
        channel.queue_declare("work", durable=True, auto_delete=False)
    with kombu.Connection(broker.url) as connection:
        refused = RefusedDeclarations(TOPOLOGY)
        refused.note(TOPOLOGY.declare(connection.channel))
        yield SimpleNamespace(
            app=SimpleNamespace(topology=TOPOLOGY),
            connection=connection,
            refused=refused,
            timer=Timer(),
            call_soon=lambda function, *args: function(*args),
        )
    with broker.connect() as connection:
        connection.channel().exchange_delete("notify")
        connection.channel().queue_delete("work")


def test_each_refusal_is_known_once_however_often_it_is_tried(consumer: Any) -> None:
    found = {("queue", 406), ("binding", 404)}
    step = Redeclaration(consumer)
    step.start(consumer)
    for _ in range(5):
        consumer.timer.tick()
        assert len(consumer.refused.now) == 2
        assert {(each.kind, each.code) for each in consumer.refused.now} == found
    assert consumer.timer.pauses == [1, 2, 4, 8, 8, 8]


def test_a_difference_alone_is_not_tried_again(broker: Node, consumer: Any) -> None:
    step = Redeclaration(consumer)
    step.start(consumer)
    with broker.connect() as connection:
        connection.channel().exchange_declare("notify", "direct", auto_delete=False)
    consumer.timer.tick()
    assert [each.code for each in consumer.refused.now] == [406]
    assert consumer.timer.pauses == [1]


def test_a_connection_that_was_lost_is_left_alone(consumer: Any) -> None:
    step = Redeclaration(consumer)
    step.start(consumer)
    before = consumer.refused.now
    consumer.connection.close()
    consumer.timer.tick()
    assert consumer.refused.now is before
    assert consumer.timer.pauses == [1]
