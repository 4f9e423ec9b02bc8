"""Publisher against a real RabbitMQ: what arrives, and what comes back."""

from __future__ import annotations

import functools
import json
import logging
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import amqp
import kombu
import oops
import pytest

from oops_celery import Publisher, wire
from tests.support import Node, eventually

KNOWN = {"k": 1}
KNOWN_ID = "OOPS-f9082d518031065d1e948548a66a4a05"


@pytest.fixture
def queue(broker: Node) -> str:
    """An exchange ``there`` with a queue ``q``, made by somebody else."""
    with broker.connect() as connection:
        channel = connection.channel()
        channel.exchange_declare("there", "fanout", durable=True, auto_delete=False)
        channel.queue_declare("q", durable=True, auto_delete=False)
        channel.queue_purge("q")
        channel.queue_bind("q", "there")
    return "q"


def amqp_factory(broker: Node) -> Callable[[], amqp.Connection]:
    return functools.partial(
        amqp.Connection,
        host=broker.host,
        userid="guest",
        password="guest",
        virtual_host="/",
    )


@pytest.fixture
def publisher(broker: Node, queue: str) -> Iterator[Publisher]:
    made = Publisher(amqp_factory(broker), "there", "")
    yield made
    made.close()


def test_a_report_is_routed_under_the_id_that_is_returned(
    broker: Node, publisher: Publisher
) -> None:
    assert publisher(KNOWN) == [KNOWN_ID]
    (message,) = broker.messages("q")
    assert wire.decode(message.body) == {"k": 1, "id": KNOWN_ID}


def test_the_message_is_what_oops_amqp_sends_plus_a_celery_task(
    broker: Node, publisher: Publisher
) -> None:
    publisher({"type": "ValueError", "req_vars": {"password": "secret"}})
    (message,) = broker.messages("q")
    headers = message.headers
    assert message.properties["content_type"] == "application/bson"
    assert message.properties["content_encoding"] == "binary"
    assert message.properties["delivery_mode"] == 2
    assert message.properties["correlation_id"] == headers["id"]
    assert headers["task"] == "oops_celery.republish"
    assert headers["root_id"] == headers["id"]
    assert headers["argsrepr"] == "(ValueError)"
    assert "secret" not in repr(message.properties)


@pytest.mark.parametrize("kind", ["amqp", "kombu"])
def test_the_connection_factories_of_oops_amqp_work(
    broker: Node, queue: str, kind: str
) -> None:
    factory = amqp_factory(broker)
    if kind == "kombu":
        factory = functools.partial(kombu.Connection, broker.url)
    old_style = Publisher(
        connection_factory=factory, exchange_name="there", routing_key=""
    )
    assert old_style(KNOWN) == old_style(KNOWN) == [KNOWN_ID]
    assert len(broker.messages("q")) == 2


def test_the_connection_factory_may_be_exchanged(broker: Node, queue: str) -> None:
    nowhere = functools.partial(amqp.Connection, host="127.0.0.1:1")
    publisher = Publisher(nowhere, "there", "")
    assert publisher.connection_factory is nowhere
    assert publisher(KNOWN) == []
    publisher = Publisher(nowhere, "there", "")
    publisher.connection_factory = amqp_factory(broker)
    assert publisher(KNOWN) == [KNOWN_ID]


def test_the_receiver_of_oops_amqp_reads_it(
    broker: Node, publisher: Publisher, old_python: Path
) -> None:
    config = oops.Config()
    config.publisher = publisher
    ids = config.publish(config.create({"topic": "page"}))
    broker.publish("q", b"stop")
    program = f"""
import functools, amqp, oops, oops_amqp
config = oops.Config()
config.publisher = lambda report: print(report["id"], report["topic"]) or [1]
factory = functools.partial(amqp.Connection, host={broker.host!r})
receiver = oops_amqp.Receiver(config, factory, "q")
receiver.sentinel = b"stop"
receiver.run_forever()
"""
    done = subprocess.run(
        [old_python, "-c", program],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f"{ids[0]} page\n", "")


def test_an_own_id_is_kept_only_when_it_is_inherited(
    broker: Node, publisher: Publisher, queue: str
) -> None:
    assert publisher({"id": "mine", "k": 1}) == [KNOWN_ID]
    inheriting = Publisher(amqp_factory(broker), "there", "", inherit_id=True)
    assert inheriting({"id": "mine", "k": 1}) == ["mine"]
    assert inheriting({"id": "", "k": 1}) == [KNOWN_ID]
    ids = [wire.decode(message.body)["id"] for message in broker.messages("q")]
    assert ids == [KNOWN_ID, "mine", KNOWN_ID]


def test_a_report_that_is_too_large_is_not_sent(
    broker: Node, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    small = Publisher(amqp_factory(broker), "there", "", max_size=100)
    assert small({"v": "x" * 100}) == []
    assert "is not published: it has" in caplog.text
    assert small({"v": "x"}) != []
    assert len(broker.messages("q")) == 1


def test_a_large_report_arrives(broker: Node, publisher: Publisher) -> None:
    ids = publisher({"v": "x" * 10_000_000})
    (message,) = broker.messages("q")
    assert [wire.decode(message.body)["id"]] == ids


def test_nothing_is_declared_over_a_connection_factory(broker: Node) -> None:
    publish = Publisher(amqp_factory(broker), "oopses", "")
    assert publish(KNOWN) == []
    with broker.connect() as connection, pytest.raises(amqp.NotFound):
        connection.channel().exchange_declare("oopses", "fanout", passive=True)


# Refusals: the broker works, and does not take the report. Then [], and no waiting.


def test_an_exchange_that_does_not_exist(
    broker: Node, caplog: pytest.LogCaptureFixture
) -> None:
    publish = Publisher(amqp_factory(broker), "nowhere", "")
    assert publish(KNOWN) == []
    assert publish(KNOWN) == []
    assert caplog.text.count("reports are not published") == 1
    assert "no exchange 'nowhere'" in caplog.text
    with broker.connect() as connection:
        channel = connection.channel()
        channel.exchange_declare("nowhere", "fanout", auto_delete=False)
        channel.queue_declare("q", durable=True, auto_delete=False)
        channel.queue_bind("q", "nowhere")
    assert publish(KNOWN) == [KNOWN_ID]
    with broker.connect() as connection:
        connection.channel().exchange_delete("nowhere")


def test_an_exchange_that_is_bound_to_nothing(
    broker: Node, publisher: Publisher
) -> None:
    with broker.connect() as connection:
        connection.channel().queue_unbind("q", "there")
    assert publisher(KNOWN) == []
    with broker.connect() as connection:
        connection.channel().queue_bind("q", "there")
    assert publisher(KNOWN) == [KNOWN_ID]


def test_a_full_queue_that_rejects(broker: Node) -> None:
    with broker.connect() as connection:
        channel = connection.channel()
        channel.exchange_declare("there", "fanout", durable=True, auto_delete=False)
        arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare(
            "full", durable=True, auto_delete=False, arguments=arguments
        )
        channel.queue_delete("q")
        channel.queue_bind("full", "there")
        try:
            publish = Publisher(amqp_factory(broker), "there", "")
            results = [publish({"k": number}) for number in range(5)]
            assert results[0] != []
            assert results[-1] == []
            channel.queue_purge("full")
            assert publish(KNOWN) == [KNOWN_ID]
        finally:
            channel.queue_delete("full")


def test_a_nack_costs_a_channel_and_no_connection(broker: Node) -> None:
    """RabbitMQ 3.10 may nack for ever what a channel sends: see test_cluster."""
    connections = []

    def connect() -> amqp.Connection:
        connections.append(amqp.Connection(host=broker.host))
        return connections[-1]

    with broker.connect() as connection:
        channel = connection.channel()
        arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare(
            "full", durable=True, auto_delete=False, arguments=arguments
        )
        try:
            publish = Publisher(connect, "", "full")
            used = []
            while publish({"k": len(used)}):
                used.append(connections[0].channels[1])
            nacked = connections[0].channels[1]
            assert used  # the queue was not full yet: the same channel
            assert all(one is nacked for one in used)
            channel.queue_purge("full")
            assert publish(KNOWN) == [KNOWN_ID]
            assert list(connections[0].channels) == [0, 1]  # the old one is closed
            assert connections[0].channels[1] is not nacked
            assert len(connections) == 1
        finally:
            channel.queue_delete("full")


def test_unconfirmed_reports_arrive_as_well(broker: Node, queue: str) -> None:
    fast = Publisher(amqp_factory(broker), "there", "", confirm=False)
    ids = [fast({"k": number})[0] for number in range(100)]
    assert len(set(ids)) == 100
    eventually(lambda: broker.count("q") == 100)


# By default it goes through the app of oops_celery, which declares the topology.

PROGRAM = """
    import json, oops, oops_celery
    config = oops.Config()
    config.publisher = oops_celery.publisher
    print(json.dumps(config.publish(config.create())))
"""


def test_the_ready_made_publisher_declares_the_topology(
    broker: Node, run: Callable[..., str]
) -> None:
    (report_id,) = json.loads(run(PROGRAM))
    (message,) = broker.messages("oopses")
    assert message.headers["id"] == report_id
    assert message.headers["task"] == "oops_celery.republish"
    for queue in ("oopses.retry.1", "oopses.retry.2", "oopses.retry.3", "oopses.dead"):
        assert broker.count(queue) == 0


def test_the_first_report_of_a_process_imports_nothing(
    broker: Node, run: Callable[..., str]
) -> None:
    """What it needs is imported before: a failing request must not wait for that."""
    out = run(
        """
        import sys, oops_celery
        publisher = oops_celery.publisher
        before = set(sys.modules)
        assert publisher({"k": 1})
        more = {"pydantic", "oops_celery.topology.document"} & set(sys.modules)
        late = {name for name in set(sys.modules) - before if "oops" in name}
        print(sorted(more | late))
        """
    )
    assert out == "[]\n"
    assert broker.count("oopses.retry.3") == 0  # it has declared all of it


def test_what_is_refused_keeps_nothing_else_from_being_declared(
    broker: Node, run: Callable[..., str]
) -> None:
    """All is declared at once; when something is refused, one by one."""
    with broker.connect() as connection:
        channel = connection.channel()
        channel.exchange_declare("oopses", "direct", durable=True, auto_delete=False)
    program = "import logging; logging.basicConfig(filename='log');" + PROGRAM.strip()
    run(program.replace("\n    ", "\n"))
    for queue in ("oopses", "oopses.retry.1", "oopses.retry.3", "oopses.dead"):
        assert broker.count(queue) == (1 if queue == "oopses" else 0)


def test_a_topology_that_the_broker_refuses_does_not_keep_reports_back(
    broker: Node, run: Callable[..., str]
) -> None:
    with broker.connect() as connection:
        channel = connection.channel()
        channel.exchange_declare("oopses", "fanout", durable=True, auto_delete=False)
        channel.queue_declare("oopses", durable=True, auto_delete=False)
        channel.queue_bind("oopses", "oopses")
    program = "import logging; logging.basicConfig(filename='log');" + PROGRAM.strip()
    assert json.loads(run(program.replace("\n    ", "\n"))) != []
    assert broker.count("oopses") == 1


def test_another_celery_app_carries_the_reports(
    broker: Node, run: Callable[..., str]
) -> None:
    out = run(
        f"""
        import celery, oops_celery
        app = celery.Celery("mine", broker={broker.url!r})
        publish = oops_celery.Publisher(app)
        print(publish({{"k": 1}}), app is celery.current_app._get_current_object())
        """,
        RABBITMQ_URL="amqp://localhost:1/",
    )
    assert out == f"['{KNOWN_ID}'] True\n"
    assert broker.count("oopses") == 1


# Many at a time.


def test_threads(broker: Node, run: Callable[..., str]) -> None:
    """32 threads with 100 reports each: all arrive, and no id twice."""
    assert run(THREADS) == "3200\n"
    assert len({m.headers["id"] for m in broker.messages("oopses")}) == 3200


THREADS = """
    import threading, oops_celery
    ids = []
    def work(number):
        for i in range(100):
            ids.extend(oops_celery.publisher({"thread": number, "i": i}))
    threads = [threading.Thread(target=work, args=(n,)) for n in range(32)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print(len(set(ids)))
"""


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
@pytest.mark.filterwarnings("ignore:eventlet")
def test_green_threads(broker: Node, run: Callable[..., str], library: str) -> None:
    patch = {
        "gevent": "from gevent import monkey; monkey.patch_all()",
        "eventlet": "import eventlet; eventlet.monkey_patch()",
    }[library]
    assert run(patch + THREADS.replace("\n    ", "\n")) == "3200\n"
    assert len({m.headers["id"] for m in broker.messages("oopses")}) == 3200


@pytest.mark.parametrize("patch", ["", "from gevent import monkey; monkey.patch_all()"])
def test_a_fork_after_first_use(
    broker: Node, run: Callable[..., str], patch: str
) -> None:
    """Parent and child publish 200 each, at the same time: 400 arrive."""
    program = """
import os, sys, oops_celery
assert oops_celery.publisher({"first": 1})
child = os.fork()
who = "parent" if child else "child"
ids = [i for n in range(200) for i in oops_celery.publisher({who: n})]
assert len(set(ids)) == 200, (who, len(ids))
if not child:
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert oops_celery.publisher({"last": 1})
"""
    run(patch + program)
    assert len({m.headers["id"] for m in broker.messages("oopses")}) == 402


def test_the_childs_end_leaves_the_parents_connection_alone(
    broker: Node, run: Callable[..., str]
) -> None:
    program = """
        import gc, os, oops_celery
        assert oops_celery.publisher({"first": 1})
        link = oops_celery.publisher._sender._idle[-1]
        child = os.fork()
        if not child:
            gc.collect()
            raise SystemExit(0)
        os.waitpid(child, 0)
        assert oops_celery.publisher({"last": 1})
        assert oops_celery.publisher._sender._idle[-1] is link
    """
    run(program)


def test_a_program_that_ends_says_goodbye_to_the_broker(
    broker: Node, run: Callable[..., str]
) -> None:
    run(PROGRAM)
    log = broker.log()
    assert "closing AMQP connection" in log
    assert (
        "client unexpectedly closed TCP connection" not in log[log.rindex("accept") :]
    )


def test_importing_opens_nothing(tmp_path: Any, run: Callable[..., str]) -> None:
    """No connection, no file read, no thread, and no library but the standard one."""
    out = run(
        """
        import sys, threading
        before = set(sys.modules)
        import oops_celery
        print(threading.active_count(), sorted(
            {m.partition(".")[0] for m in set(sys.modules) - before}
            & {"celery", "kombu", "yaml", "pydantic", "bson"}))
        """,
        RABBITMQ_URL="nonsense",
        OOPS_TOPOLOGY="missing.yml",
    )
    assert out == "1 []\n"


def test_the_repr_holds_no_password(broker: Node, queue: str) -> None:
    text = repr(Publisher(functools.partial(kombu.Connection, broker.url), "e", "k"))
    assert text == "<Publisher to exchange 'e', routing key 'k'>"


logging.getLogger("oops_celery").setLevel(logging.INFO)
