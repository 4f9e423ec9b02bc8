"""Receiver against a real RabbitMQ: nothing is lost, nothing ends it by mistake."""

from __future__ import annotations

import functools
import inspect
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import amqp
import kombu
import oops
import oops_amqp
import pytest

from oops_celery import Publisher, Receiver, Topology, wire
from oops_celery.dead_letters import park
from oops_celery.receiving import receiver
from tests.support import PATIENCE, Node, eventually

QUEUE = "received"
DEAD = "received.dead"
STOP = b"stop"

Factory = Callable[[], Any]


def amqp_factory(broker: Node, **options: Any) -> Factory:
    return functools.partial(amqp.Connection, host=broker.host, **options)


def kombu_factory(broker: Node, **options: Any) -> Factory:
    return functools.partial(kombu.Connection, broker.url, **options)


FACTORIES = {"amqp": amqp_factory, "kombu": kombu_factory}


@pytest.fixture
def node(any_node: Node) -> Iterator[Node]:
    """The node, with a queue that somebody else has made, as in oops-amqp's days."""
    with any_node.connect() as connection:
        connection.channel().queue_declare(QUEUE, durable=True, auto_delete=False)
    yield any_node
    with any_node.connect() as connection:
        connection.channel().queue_delete(QUEUE)
        connection.channel().queue_delete(DEAD)


@pytest.fixture(params=list(FACTORIES))
def factory(request: pytest.FixtureRequest, node: Node) -> Factory:
    return FACTORIES[request.param](node)


@pytest.fixture
def dead_queue(node: Node) -> None:
    with node.connect() as connection:
        connection.channel().queue_declare(DEAD, durable=True, auto_delete=False)


@pytest.fixture
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "RECEIVER_PAUSE", 0.2)
    monkeypatch.setattr(receiver, "POLL", 0.1)


class Keeper:
    """An operator's publisher: takes what `wants` says, and counts the tries."""

    def __init__(self) -> None:
        self.tries: Counter[Any] = Counter()
        self.taken: list[Any] = []
        self.texts: list[str] = []
        self.wants: Callable[[Any], bool] = lambda number: True
        self.answer: list[str] | Exception = []
        self.config = oops.Config()
        self.config.publisher = self.publish

    def publish(self, report: dict[str, Any]) -> list[str]:
        number = report["n"]
        self.tries[number] += 1
        if self.wants(number):
            self.taken.append(number)
            self.texts += [report["text"]] if "text" in report else []
            return ["kept"]
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def keeper() -> Keeper:
    return Keeper()


class Running:
    """A receiver at work in a thread."""

    def __init__(self, made: Receiver) -> None:
        self.receiver = made
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.receiver.run_forever()
        except Exception as error:
            self.error = error

    def stop(self) -> float:
        """End it; return the seconds that took."""
        started = time.monotonic()
        self.receiver.stopping = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return time.monotonic() - started


Start = Callable[..., Running]


@pytest.fixture
def start(keeper: Keeper) -> Iterator[Start]:
    started: list[Running] = []

    def start(connect: Factory) -> Running:
        before = len(started)
        started.append(Running(Receiver(keeper.config, connect, QUEUE)))
        eventually(lambda: started[before].receiver.channel is not None)
        return started[before]

    yield start
    for one in started:
        one.stop()
        assert one.error is None


def report(number: int) -> bytes:
    return wire.encode({"n": number}).body


def fill(node: Node, *bodies: bytes, **properties: Any) -> None:
    with node.connect() as connection:
        channel = connection.channel()
        for body in bodies:
            message = amqp.Message(body, delivery_mode=2, **properties)
            channel.basic_publish_confirm(message, "", QUEUE, mandatory=True)


def test_it_is_made_as_that_of_oops_amqp() -> None:
    ours, theirs = (
        list(inspect.signature(one).parameters)
        for one in (Receiver, oops_amqp.Receiver)
    )
    assert ours == theirs == ["config", "connection_factory", "queue_name"]
    made = Receiver("config", "factory", "q")
    theirs = vars(oops_amqp.Receiver("config", "factory", "q"))
    assert {name: getattr(made, name) for name in theirs} == theirs


def test_reports_of_any_publisher_are_taken(
    node: Node, factory: Factory, keeper: Keeper
) -> None:
    assert Publisher(factory, "", QUEUE)({"n": 1}) != []
    fill(node, report(2))
    body = wire.encode({"n": 3, "text": "café"}).body
    fill(node, body, content_encoding="latin-1", content_type="text/plain")
    fill(node, STOP, report(4))
    made = Receiver(keeper.config, factory, QUEUE)
    made.sentinel = STOP
    made.run_forever()
    assert keeper.taken == [1, 2, 3]
    assert keeper.texts == ["café"]
    assert made.stopping is True
    assert node.count(QUEUE) == 1  # what came after the sentinel


def test_a_filtered_report_is_acknowledged(node: Node, keeper: Keeper) -> None:
    keeper.config.filters.append(lambda report: True)
    fill(node, report(1), STOP)
    made = Receiver(keeper.config, amqp_factory(node), QUEUE)
    made.sentinel = STOP
    made.run_forever()
    assert keeper.taken == []
    assert node.count(QUEUE) == 0


def test_stopping_ends_it_within_a_second(factory: Factory, start: Start) -> None:
    running = start(factory)
    time.sleep(0.3)
    assert running.stop() < 20  # and what a busy machine adds
    assert running.receiver.connection is not None


# Refused: the publisher raises, or returns no id.


@pytest.mark.usefixtures("short_pause")
@pytest.mark.parametrize("answer", [[], RuntimeError("disk full"), SystemExit(3)])
def test_a_refused_report_is_tried_again_while_others_go_on(
    node: Node,
    start: Start,
    keeper: Keeper,
    answer: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    keeper.answer = answer
    keeper.wants = lambda number: number != 0
    if isinstance(answer, SystemExit):
        keeper.config.publisher = lambda report: keeper.publish(report) or exit(3)
    fill(node, report(0), *map(report, range(1, 51)))
    started = time.monotonic()
    start(amqp_factory(node))
    eventually(lambda: len(keeper.taken) == 50)
    eventually(lambda: keeper.tries[0] >= 3)
    tries = keeper.tries[0]
    assert tries <= (time.monotonic() - started) / receiver.RECEIVER_PAUSE + 1
    assert f"{wire.encode({'n': 0}).id} of queue received is not taken" in caplog.text
    keeper.wants = lambda number: True
    eventually(lambda: len(keeper.taken) == 51)
    assert set(Counter(keeper.taken).values()) == {1}
    eventually(lambda: node.count(QUEUE) == 0)


@pytest.mark.usefixtures("short_pause")
def test_many_refused_reports_do_not_keep_back_the_others(
    node: Node, start: Start, keeper: Keeper
) -> None:
    bad = 3 * receiver.PREFETCH
    keeper.wants = lambda number: number >= bad
    fill(node, *map(report, range(bad + 5)))
    running = start(amqp_factory(node))
    eventually(lambda: len(keeper.taken) == 5)
    eventually(lambda: all(keeper.tries[number] >= 2 for number in range(bad)))
    running.stop()
    bodies = {message.body for message in node.messages(QUEUE)}
    assert bodies == set(map(report, range(bad)))


@pytest.mark.usefixtures("short_pause")
def test_a_refused_report_goes_back_as_it_came(
    node: Node, factory: Factory, start: Start, keeper: Keeper
) -> None:
    keeper.wants = lambda number: False
    fill(
        node,
        report(0),
        content_type="application/bson",
        correlation_id="its id",
        priority=3,
        expiration="60000",  # it would be lost by that: the copy has none
        application_headers={"task": "its task", "x-delivery-count": 7},
    )
    running = start(factory)
    eventually(lambda: keeper.tries[0] >= 2)
    running.stop()
    (message,) = node.messages(QUEUE)
    assert message.body == report(0)
    assert message.headers == {"task": "its task"}
    expected = {
        "content_type": "application/bson",
        "correlation_id": "its id",
        "priority": 3,
        "delivery_mode": 2,
    }
    assert expected.items() <= message.properties.items()
    assert "expiration" not in message.properties


@pytest.mark.usefixtures("short_pause")
def test_a_report_that_cannot_be_sent_again_stays_in_hand(
    node: Node, start: Start, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a user who may only read."""
    node.ctl("add_user", "reader", "secret")
    node.ctl("set_permissions", "reader", "^$", "^$", ".*")
    try:
        keeper.wants = lambda number: number == 1
        fill(node, report(0), report(1))
        running = start(amqp_factory(node, userid="reader", password="secret"))
        eventually(lambda: keeper.tries[0] >= 3)
        assert keeper.taken == [1]
        assert "a message cannot go to the end of queue received" in caplog.text
        running.stop()
        assert node.count(QUEUE) == 1
        keeper.wants = lambda number: True
        start(amqp_factory(node, userid="reader", password="secret"))
        eventually(lambda: keeper.taken == [1, 0])
    finally:
        node.ctl("delete_user", "reader")


# Undecodable.

GARBAGE = (b"", b"garbage", b"\x05\x00\x00\x00\x01", b"\xff" * 100)


@pytest.mark.usefixtures("dead_queue")
def test_garbage_is_parked(
    node: Node,
    factory: Factory,
    start: Start,
    keeper: Keeper,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fill(node, *GARBAGE, report(1), application_headers={"from": "somebody"})
    start(factory)
    eventually(lambda: keeper.taken == [1])
    parked = node.messages(DEAD)
    # py-amqp gives an empty body as text.
    assert [message.body or b"" for message in parked] == list(GARBAGE)
    headers = parked[1].headers
    assert headers["from"] == "somebody"
    assert headers[park.QUEUE] == QUEUE
    assert headers[park.REASON].startswith("undecodable: not a BSON document: 7")
    assert "parked a message of queue received in received.dead" in caplog.text
    assert node.count(QUEUE) == 0


def test_the_default_topology_has_where_to_park(broker: Node, keeper: Keeper) -> None:
    with kombu.Connection(broker.url) as connection:
        assert Topology.load().declare(connection.channel) == []
    broker.publish("oopses", b"garbage")
    broker.publish("oopses", STOP)
    made = Receiver(keeper.config, amqp_factory(broker), "oopses")
    made.sentinel = STOP
    made.run_forever()
    assert [message.body for message in broker.messages("oopses.dead")] == [b"garbage"]


@pytest.mark.usefixtures("short_pause")
def test_garbage_that_cannot_be_parked_stays_in_the_queue(
    node: Node, start: Start, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    fill(node, *GARBAGE, *map(report, range(20)))
    started = time.monotonic()
    running = start(amqp_factory(node))
    eventually(lambda: len(keeper.taken) == 20)
    lines = "declare a queue received.dead for such messages"
    eventually(lambda: caplog.text.count(lines) > 2 * len(GARBAGE))
    tries = caplog.text.count(lines)
    rounds = (time.monotonic() - started) / receiver.RECEIVER_PAUSE + 1
    assert tries <= len(GARBAGE) * rounds
    running.stop()
    bodies = sorted(message.body or b"" for message in node.messages(QUEUE))
    assert bodies == sorted(GARBAGE)


# The broker.


@pytest.mark.restarts
def test_a_restart_in_the_middle_loses_nothing(
    node: Node, factory: Factory, start: Start, keeper: Keeper
) -> None:
    """Report 50 is at work while RabbitMQ restarts, and others are on their way."""
    fill(node, *map(report, range(100)))
    half, back = threading.Event(), threading.Event()

    def wait(number: int) -> bool:
        if number == 50:
            half.set()
            back.wait(PATIENCE)
        return True

    keeper.wants = wait
    running = start(factory)
    assert half.wait(PATIENCE)
    eventually(lambda: node.count(QUEUE) == 50 - receiver.PREFETCH)
    node.restart()
    back.set()
    eventually(lambda: set(keeper.taken) == set(range(100)))
    eventually(lambda: node.count(QUEUE) == 0)
    running.stop()
    assert node.count(QUEUE) == 0
    # Its acknowledgement, and perhaps some just before it, did not arrive.
    twice = {number for number, count in Counter(keeper.taken).items() if count > 1}
    assert {50} <= twice <= set(range(51))


@pytest.mark.usefixtures("short_pause")
def test_what_is_held_when_the_connection_is_lost_is_held_once(
    node: Node, start: Start, keeper: Keeper
) -> None:
    def lose(number: int) -> bool:
        if number == 1 and keeper.tries[1] == 1:
            running.receiver.connection.transport.sock.close()
        return number == 1

    keeper.wants = lose
    running = start(amqp_factory(node))
    fill(node, report(0), report(1))
    eventually(lambda: keeper.taken == [1, 1])
    eventually(lambda: keeper.tries[0] >= 5)
    running.stop()
    assert [message.body for message in node.messages(QUEUE)] == [report(0)]


def test_a_connection_that_is_lost_in_silence_is_replaced(
    node: Node, factory: Factory, keeper: Keeper
) -> None:
    class Careless(Receiver):
        def handle_report(self, message: amqp.Message) -> None:
            with suppress(OSError):
                super().handle_report(message)

    def lose(number: int) -> bool:
        if keeper.tries[number] == 1:
            made.channel.connection.transport.sock.close()
        return True

    keeper.wants = lose
    made = Careless(keeper.config, factory, QUEUE)
    running = Running(made)
    fill(node, report(1))
    try:
        eventually(lambda: keeper.taken == [1, 1])
    finally:
        running.stop()


def test_a_lost_channel_is_replaced(node: Node, start: Start, keeper: Keeper) -> None:
    """As when a message was unacknowledged for longer than RabbitMQ allows."""
    connections = []

    def connect() -> amqp.Connection:
        connections.append(amqp.Connection(host=node.host))
        return connections[-1]

    def spoil(number: int) -> bool:
        if len(connections) == 1:
            running.receiver.channel.basic_ack(999)  # closes the channel
        return True

    keeper.wants = spoil
    running = start(connect)
    fill(node, report(1), report(2))
    eventually(lambda: len(connections) == 2 and 2 in keeper.taken)
    assert set(keeper.taken) == {1, 2}


@pytest.mark.parametrize("kind", list(FACTORIES))
def test_it_gives_up_without_a_broker(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert receiver.GIVE_UP_AFTER == 120
    monkeypatch.setattr(receiver, "GIVE_UP_AFTER", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    connect = {
        "amqp": lambda: amqp.Connection(host=f"127.0.0.1:{port}"),
        "kombu": lambda: kombu.Connection(f"amqp://127.0.0.1:{port}//"),
    }[kind]
    started = time.monotonic()
    with pytest.raises(receiver.CONNECTION_ERRORS, match="refused"):
        Receiver(oops.Config(), connect, QUEUE).run_forever()
    assert 0.5 <= time.monotonic() - started < 60
    assert caplog.text.count("queue received cannot be received from") == 1


def test_it_counts_from_the_last_connection(
    node: Node, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many short interruptions are not one long one."""
    monkeypatch.setattr(receiver, "GIVE_UP_AFTER", 0.3)
    tries = []

    def connect() -> amqp.Connection:
        tries.append(1)
        if len(tries) % 2:
            raise ConnectionResetError("one interruption")
        return amqp.Connection(host=node.host)

    def lose(number: int) -> bool:
        if len(tries) < 12:
            made.connection.transport.sock.close()
        return True

    keeper.wants = lose
    made = Receiver(keeper.config, connect, QUEUE)
    made.sentinel = STOP
    fill(node, report(1), STOP)
    made.run_forever()
    assert len(tries) == 12  # 6 interruptions of 0.1 s
    assert node.count(QUEUE) == 0


def test_stopping_ends_it_without_a_broker_too(keeper: Keeper) -> None:
    def connect() -> None:
        raise ConnectionRefusedError("no broker")

    running = Running(Receiver(keeper.config, connect, QUEUE))
    eventually(lambda: running.receiver.went_bad)
    assert running.stop() < 20
    assert running.error is None


def test_a_missing_queue_is_raised_at_once(factory: Factory, keeper: Keeper) -> None:
    with pytest.raises(amqp.NotFound, match="no queue 'nosuch'"):
        Receiver(keeper.config, factory, "nosuch").run_forever()


def test_a_wrong_password_is_raised_at_once(node: Node, keeper: Keeper) -> None:
    wrong = node.url.replace("guest@", "wrong@")
    for connect in (
        amqp_factory(node, password="wrong"),
        functools.partial(kombu.Connection, wrong),
    ):
        with pytest.raises(amqp.AccessRefused):
            Receiver(keeper.config, connect, QUEUE).run_forever()


def test_a_frozen_broker_does_not_keep_it_from_stopping(
    node: Node, factory: Factory, start: Start
) -> None:
    running = start(factory)
    eventually(lambda: running.receiver.channel.callbacks)  # it receives
    thaw = node.pause()
    try:
        assert running.stop() < 20
    finally:
        thaw()


def test_heartbeats(
    node: Node, start: Start, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    """An idle connection is kept; a broker that falls silent is noticed."""
    caplog.set_level(logging.INFO, "oops_celery")
    connections = []

    def connect() -> amqp.Connection:
        connections.append(amqp.Connection(host=node.host, heartbeat=2))
        return connections[-1]

    start(connect)
    time.sleep(5)  # RabbitMQ closes a connection that is silent for two heartbeats
    fill(node, report(1))
    eventually(lambda: keeper.taken == [1])
    assert len(connections) == 1
    thaw = node.pause()
    try:
        eventually(lambda: "queue received cannot be received from" in caplog.text)
    finally:
        thaw()
    fill(node, report(2))
    eventually(lambda: keeper.taken == [1, 2])
    assert "queue received is received from again" in caplog.text
