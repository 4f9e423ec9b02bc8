"""A broker in trouble: the publisher answers in time, never raises, and recovers."""

from __future__ import annotations

import functools
import socket
import threading
import time
from collections.abc import Callable, Iterator

import amqp
import kombu
import oops
import pytest

from oops_celery import Publisher
from tests.support import Node, eventually, start_node

REPORT = {"k": 1}
REPORT_ID = "OOPS-f9082d518031065d1e948548a66a4a05"

#: Seconds: the publisher's timeout of 5, and what a busy machine adds.
LIMIT = 20.0

#: Seconds that are none: a wait for the broker takes as long as its timeout.
NOTHING = 3.0


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A node of its own, to be frozen and starved."""
    server = start_node()
    made = Node(server)
    with made.connect() as connection:
        channel = connection.channel()
        channel.exchange_declare("oopses", "fanout", durable=True, auto_delete=False)
        channel.queue_declare("q", durable=True, auto_delete=False)
        channel.queue_bind("q", "oopses")
    yield made
    server.cleanUp()


def publisher(url: str) -> Publisher:
    return Publisher(functools.partial(kombu.Connection, url), "oopses", "")


def plain_publisher(node: Node) -> Publisher:
    """Over py-amqp as most programs use it: without any timeout of its own."""
    return Publisher(functools.partial(amqp.Connection, host=node.host), "oopses", "")


def takes(publish: Publisher) -> float:
    """Publish in vain; return the seconds that took."""
    started = time.monotonic()
    assert publish(REPORT) == []
    return time.monotonic() - started


def assert_costs_nothing_more(publish: Publisher) -> None:
    slowest = max(takes(publish) for _ in range(20))
    assert slowest < NOTHING


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_no_broker(closed_port: int) -> None:
    publish = publisher(f"amqp://guest:guest@127.0.0.1:{closed_port}//")
    assert takes(publish) < LIMIT
    assert_costs_nothing_more(publish)


def test_no_broker_costs_nothing_later_either(closed_port: int) -> None:
    """Now and then a report asks again; a refused connection takes no time."""
    publish = publisher(f"amqp://guest:guest@127.0.0.1:{closed_port}//")
    takes(publish)
    for _ in range(10):
        time.sleep(0.1)
        assert takes(publish) < NOTHING


def test_a_port_that_never_answers(silent_port: int) -> None:
    publish = publisher(f"amqp://guest:guest@127.0.0.1:{silent_port}//")
    assert takes(publish) < LIMIT
    assert_costs_nothing_more(publish)


def test_a_port_that_never_answers_over_plain_amqp(silent_port: int) -> None:
    factory = functools.partial(amqp.Connection, host=f"127.0.0.1:{silent_port}")
    publish = Publisher(factory, "oopses", "")
    assert takes(publish) < LIMIT


def test_a_port_that_never_answers_tls(silent_port: int) -> None:
    publish = publisher(f"amqps://guest:guest@127.0.0.1:{silent_port}//")
    assert takes(publish) < LIMIT


def test_a_factory_that_never_comes_back() -> None:
    never = threading.Event()
    publish = Publisher(never.wait, "oopses", "", timeout=0.5)
    assert takes(publish) < LIMIT
    never.set()


def test_a_factory_that_raises() -> None:
    def factory() -> None:
        raise RuntimeError("no configuration")

    publish = Publisher(factory, "oopses", "")
    assert takes(publish) < LIMIT


def test_wrong_password(node: Node) -> None:
    publish = publisher(node.url.replace("guest@", "wrong@"))
    assert takes(publish) < LIMIT


def test_the_password_is_in_no_log_line(
    closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    takes(publisher(f"amqp://guest:s3cr3t@127.0.0.1:{closed_port}//"))
    assert "reports are not published" in caplog.text
    assert "s3cr3t" not in caplog.text


def recovers(publish: Publisher) -> None:
    eventually(lambda: publish(REPORT) == [REPORT_ID])


@pytest.mark.parametrize("make", [plain_publisher, lambda n: publisher(n.url)])
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_a_frozen_broker(
    node: Node, make: Callable[[Node], Publisher], used: bool
) -> None:
    publish = make(node)
    if used:
        assert publish(REPORT) == [REPORT_ID]
    thaw = node.pause()
    try:
        assert takes(publish) < LIMIT
        assert_costs_nothing_more(publish)
    finally:
        thaw()
    recovers(publish)


def test_a_large_report_to_a_frozen_broker(node: Node) -> None:
    """More than the buffers of the network hold: writing itself must not hang."""
    publish = plain_publisher(node)
    assert publish(REPORT) == [REPORT_ID]
    thaw = node.pause()
    try:
        started = time.monotonic()
        assert publish({"v": "x" * 14_000_000}) == []
        assert time.monotonic() - started < LIMIT
    finally:
        thaw()
    recovers(publish)


def test_many_threads_and_a_frozen_broker(node: Node) -> None:
    publish = plain_publisher(node)
    assert publish(REPORT) == [REPORT_ID]
    thaw = node.pause()
    seconds: list[float] = []
    threads = [
        threading.Thread(target=lambda: seconds.append(takes(publish)))
        for _ in range(16)
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        thaw()
    assert len(seconds) == 16
    assert max(seconds) < LIMIT
    recovers(publish)


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_a_memory_alarm(node: Node, used: bool) -> None:
    publish = plain_publisher(node)
    if used:
        assert publish(REPORT) == [REPORT_ID]
    node.ctl("set_vm_memory_high_watermark", "0.0000001")
    try:
        assert takes(publish) < LIMIT
    finally:
        node.ctl("set_vm_memory_high_watermark", "0.8")
    recovers(publish)


def test_a_restart_between_two_reports(node: Node) -> None:
    """Nobody notices: the lost connection is replaced within the same call."""
    publish = plain_publisher(node)
    assert publish(REPORT) == [REPORT_ID]
    node.restart()
    assert publish(REPORT) == [REPORT_ID]


def test_connections_closed_by_an_operator(node: Node) -> None:
    publish = publisher(node.url)
    assert publish(REPORT) == [REPORT_ID]
    node.ctl("close_all_connections", "maintenance")
    assert publish(REPORT) == [REPORT_ID]


def test_a_broker_that_was_away(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """Two lines in the log: that it stopped, and that it goes on."""
    caplog.set_level("INFO", "oops_celery")
    publish = plain_publisher(node)
    assert publish(REPORT) == [REPORT_ID]
    node.ctl("stop_app")
    try:
        for _ in range(50):
            assert takes(publish) < LIMIT
    finally:
        node.ctl("start_app")
    recovers(publish)
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("oops_celery")]
    assert len(ours) == 2
    assert ours[0].startswith("reports are not published: ")
    assert ours[1] == "reports are published again"


def test_the_next_publisher_gets_it(closed_port: int) -> None:
    kept: list[dict[str, object]] = []
    fallback = oops.publish_with_fallback(
        publisher(f"amqp://127.0.0.1:{closed_port}//"),
        lambda report: kept.append(report) or ["fallback"],
    )
    assert fallback(dict(REPORT)) == ["fallback"]
    assert kept == [REPORT]


def test_each_of_several_hosts_is_tried(node: Node, closed_port: int) -> None:
    dead = f"amqp://guest:guest@127.0.0.1:{closed_port}/"
    urls = [dead, dead.replace("127.0.0.1", "[::1]"), node.url]
    publish = Publisher(functools.partial(kombu.Connection, urls), "oopses", "")
    assert publish(REPORT) == [REPORT_ID]


def test_a_forked_child_asks_again_by_itself(
    silent_port: int, run: Callable[..., str]
) -> None:
    """The thread that looks for the broker does not come along through a fork."""
    program = """
import os, oops_celery
assert oops_celery.publisher({"k": 1}) == []
child = os.fork()
if not child:
    oops_celery.publisher({"k": 1})
    prober = oops_celery.publisher._health._prober
    os._exit(0 if prober.is_alive() else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    run(program, RABBITMQ_URL=f"amqp://127.0.0.1:{silent_port}/")


def test_a_broker_that_is_back_is_used_at_once(node: Node) -> None:
    """As oops-amqp does it: the first report after a restart is published."""
    publish = plain_publisher(node)
    node.ctl("stop_app")
    try:
        assert publish(REPORT) == []
    finally:
        node.ctl("start_app")
    assert publish(REPORT) == [REPORT_ID]
