"""What a broker refuses is a problem of that one thing, whatever it closes by it."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import amqp
import kombu
import pytest

from oops_celery.topology import declare
from oops_celery.topology.model import Topology
from tests.support import PACKAGED, Node, Worker, environment, eventually
from tests.support.refusing import (
    BASIC_CONSUME,
    EXCHANGE_DECLARE,
    QUEUE_BIND,
    QUEUE_DECLARE,
    Refusing,
)

StartWorker = Callable[..., Worker]

#: Ten things, of which any may be refused; and those of the reports.
TEN = """
exchanges:
  - exchange: oopses
    type: fanout
  - exchange: NAME.x1
  - exchange: NAME.x2
    type: topic
queues:
  - queue: oopses
    x_dead_letter_exchange: ""
    x_dead_letter_routing_key: NAME.q1
    bindings: [{exchange: oopses}]
  - queue: NAME.q1
    bindings: [{exchange: NAME.x1, routing_key: k}]
  - queue: NAME.q2
    bindings: [{exchange: NAME.x2, routing_key: "#"}]
  - queue: NAME.q3
    x_queue_type: quorum
  - queue: NAME.q4
    exclusive: true
  - queue: NAME.q5
    x_max_length: 7
"""

PUBLISH = """
    import oops_celery
    for _ in range(3):
        print(*oops_celery.publisher({"k": 1}))
"""
PUBLISHED = "OOPS-f9082d518031065d1e948548a66a4a05\n" * 3


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has closed a connection of this process."""
    monkeypatch.setattr(declare, "CLOSED", {})
    monkeypatch.setattr("oops_celery.topology.model.CLOSED", declare.CLOSED)


@pytest.fixture
def refusing(broker: Node) -> Iterator[Refusing]:
    proxy = Refusing(broker.port)
    yield proxy
    proxy.close()


@pytest.fixture
def name(broker: Node) -> Iterator[str]:
    """What all names of a test begin with; nothing is left of them."""
    name = f"r{uuid.uuid4().hex[:8]}"
    yield name
    with broker.connect() as connection:
        channel = connection.channel()
        for number in range(1, 6):
            channel.queue_delete(f"{name}.q{number}")
            channel.exchange_delete(f"{name}.x{number}")


def there(node: Node, *queues: str) -> list[str]:
    """Return which of the queues are at the broker."""
    found = []
    with node.connect() as connection:
        for queue in queues:
            try:
                connection.channel().queue_declare(queue, passive=True)
            except amqp.NotFound:
                continue
            found.append(queue)
    return found


@pytest.mark.parametrize(
    ("method", "refused", "kind", "code"),
    [
        (EXCHANGE_DECLARE, "x1", "exchange", 541),
        (QUEUE_DECLARE, "q4", "queue", 541),
        (QUEUE_BIND, "q2", "binding", 541),
        *(
            (QUEUE_DECLARE, "q2", "queue", code)
            for code in (403, 404, 405, 406, 501, 503, 506, 530, 540, 541)
        ),
    ],
)
def test_a_refusal_that_closes_the_connection_is_that_of_one_thing(
    broker: Node,
    name: str,
    method: tuple[int, int],
    refused: str,
    kind: str,
    code: int,
) -> None:
    proxy = Refusing(broker.port, code)
    proxy.refused.add((method, f"{name}.{refused}"))
    topology = Topology.parse(TEN.replace("NAME", name))
    with kombu.Connection(proxy.url) as connection:
        (refusal,) = topology.declare(connection.channel)
        assert (refusal.kind, refusal.code) == (kind, code)
        assert f"{name}.{refused}" in refusal.name
        assert "Feature `nonsense` is deprecated" in str(refusal)
        assert len(proxy.connections) <= 2
        # It is not done again on the next connection, nor is it forgotten.
        assert topology.declare(connection.channel) == [refusal]
        if refused != "q4":  # exclusive, and on that connection
            connection.channel().queue_declare(f"{name}.q4", passive=True)
    assert len(proxy.closed) == 1
    others = [f"{name}.q{n}" for n in (1, 2, 3, 5) if kind != "queue" or n != 2]
    assert set(others) <= set(there(broker, *others))
    proxy.close()


def test_a_broker_that_has_changed_its_mind_is_asked_again(
    refusing: Refusing, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(declare, "FIRST_PAUSE", 0.0)
    refusing.refused.add((QUEUE_DECLARE, f"{name}.q2"))
    topology = Topology.parse(TEN.replace("NAME", name))
    with kombu.Connection(refusing.url) as connection:
        assert len(topology.declare(connection.channel)) == 1
        refusing.refused.clear()
        assert topology.declare(connection.channel) == []


@pytest.mark.parametrize(
    "entry",
    [
        "exchanges: [{exchange: NAME.x5, type: x-no-such-plugin}]",  # 503
        "exchanges: [{exchange: NAME.x5, arguments: {alternate-exchange: 5}}]",  # 406
        "queues: [{queue: NAME.q5, x_queue_type: stream, x_expires: 5}]",  # 406
        "queues: [{queue: NAME.q5, passive: true}]",  # 404
        "queues: [{queue: NAME.q5, bindings: [{exchange: NAME.none}]}]",  # 404
        "queues: [{queue: NAME.q5, bindings: [{exchange: amq.headers,"
        " arguments: {x-match: 5}}]}]",  # 406
    ],
)
def test_a_real_refusal_keeps_no_report_from_being_published(
    broker: Node, name: str, entry: str, tmp_path: Path, run: Callable[..., str]
) -> None:
    file = tmp_path / "topology.yml"
    packaged = PACKAGED.read_text()
    section, _, one = entry.partition(": [")
    file.write_text(
        packaged.replace(
            f"{section}:\n", f"{section}:\n  - {one[:-1]}\n".replace("NAME", name), 1
        )
    )
    assert len(Topology.load(file).exchanges) + len(Topology.load(file).queues) == 8
    assert run(PUBLISH, OOPS_TOPOLOGY=str(file)) == PUBLISHED


def test_what_cannot_even_be_sent_is_a_refusal(
    broker: Node, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topology = Topology.parse(f"queues: [{{queue: {name}.q1}}, {{queue: {name}.q2}}]")
    topology.queues[0].queue_arguments = {"x-a": 10**30}
    with kombu.Connection(broker.url) as connection:
        (refusal,) = topology.declare(connection.channel)
    assert "does not fit into a message" in str(refusal)
    assert there(broker, f"{name}.q2")


def test_publishing_goes_on_over_one_connection(
    refusing: Refusing, name: str, tmp_path: Path, run: Callable[..., str]
) -> None:
    (tmp_path / "topology.yml").write_text(TEN.replace("NAME", name))
    refusing.refused |= {(QUEUE_DECLARE, f"{name}.q{n}") for n in (2, 3)}
    environ = {"RABBITMQ_URL": refusing.url, "OOPS_TOPOLOGY": "topology.yml"}
    assert run(PUBLISH, **environ) == PUBLISHED
    # All at once, then one by one, of which two are refused, and then it is known.
    assert len(refusing.connections) == 4


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent", "eventlet"])
def test_a_worker_goes_on(
    refusing: Refusing,
    name: str,
    tmp_path: Path,
    worker: StartWorker,
    pool: str,
    run: Callable[..., str],
) -> None:
    (tmp_path / "topology.yml").write_text(TEN.replace("NAME", name))
    refusing.refused.add((QUEUE_DECLARE, f"{name}.q2"))
    environ = {"RABBITMQ_URL": refusing.url, "OOPS_TOPOLOGY": "topology.yml"}
    started = worker("-P", pool, "-c", "1", **environ)
    assert run(PUBLISH, OOPS_TOPOLOGY="topology.yml") == PUBLISHED
    eventually(started.files)
    assert f"queue {name}.q2: the broker says" in started.text()
    assert len(refusing.closed) == 1
    assert "Traceback" not in started.text()


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "eventlet"])
def test_a_queue_that_is_refused_to_a_consumer_keeps_no_other_waiting(
    refusing: Refusing,
    name: str,
    broker: Node,
    tmp_path: Path,
    worker: StartWorker,
    run: Callable[..., str],
    pool: str,
) -> None:
    (tmp_path / "topology.yml").write_text(
        TEN.replace("NAME", name)
        + f"""
consumers:
  - {{consumer: "workers:Consumer", queue: {name}.q1}}
  - {{consumer: "workers:Consumer", queue: {name}.q5}}
"""
    )
    (tmp_path / "workers.py").write_text(
        "class Consumer:\n"
        "    def consume(self, amqp, msg):\n"
        "        open('done', 'a').write(msg.body.decode()); amqp.ack()\n"
        "    def shutdown(self, exception=None): pass\n"
    )
    refusing.refused.add((BASIC_CONSUME, f"{name}.q1"))
    environ = {"RABBITMQ_URL": refusing.url, "OOPS_TOPOLOGY": "topology.yml"}
    started = worker("-P", pool, "-c", "1", **environ)
    broker.publish(f"{name}.q5", b"a message")
    eventually((tmp_path / "done").exists)
    assert run(PUBLISH) == PUBLISHED
    eventually(started.files)
    assert f"queue {name}.q1 is refused to the consumer" in started.text()
    assert len(refusing.closed) == 1


def test_before_each_further_connection_is_a_pause(
    refusing: Refusing, broker: Node, worker: StartWorker, run: Callable[..., str]
) -> None:
    started = worker("-P", "solo", RABBITMQ_URL=refusing.url)
    refusing.refused.add((BASIC_CONSUME, "oopses"))
    broker.ctl("close_all_connections", "test")
    eventually(lambda: len(refusing.closed) >= 4)
    tries = refusing.connections[2:]  # each is of two connections, or of one
    assert tries[-1] - tries[0] > 3  # 0.5, 1 and 2 s
    assert started.text().count("is deprecated") < 8
    refusing.refused.clear()
    assert run(PUBLISH) == PUBLISHED
    eventually(started.files)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent", "eventlet"])
@pytest.mark.parametrize("closes", ["channel", "connection"])
def test_a_control_queue_that_is_refused_keeps_no_report_waiting(
    refusing: Refusing,
    broker: Node,
    worker: StartWorker,
    run: Callable[..., str],
    pool: str,
    closes: str,
) -> None:
    if closes == "connection":
        refusing.refused.add((EXCHANGE_DECLARE, "celery.pidbox"))
        started = worker("-P", pool, "-c", "1", RABBITMQ_URL=refusing.url)
    else:
        with broker.connect() as connection:
            connection.channel().exchange_delete("celery.pidbox")
            channel = connection.channel()
            channel.exchange_declare("celery.pidbox", "direct")
        started = worker("-P", pool, "-c", "1")
    assert run(PUBLISH) == PUBLISHED
    eventually(started.files)
    eventually(lambda: "no control messages" in started.text())
    assert started.process.poll() is None
    with broker.connect() as connection:
        connection.channel().exchange_delete("celery.pidbox")


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent", "eventlet"])
def test_a_worker_takes_the_place_of_a_frozen_one_of_its_name(
    broker: Node, worker: StartWorker, run: Callable[..., str], pool: str
) -> None:
    first = worker("-P", "solo")
    eventually(lambda: pinged(broker))
    process = first.process
    first.process.send_signal(19)  # SIGSTOP
    first.log.unlink()
    second = worker("-P", pool, "-c", "1")
    assert second.process.poll() is None
    assert run(PUBLISH) == PUBLISHED
    eventually(lambda: "no control messages" in second.text())
    assert not pinged(broker)
    process.kill()
    process.wait()
    eventually(lambda: pinged(broker))
    assert second.text().count("no control messages") == 1
    eventually(second.files)


def pinged(node: Node) -> bool:
    """Return whether a worker answers."""
    celery = Path(sys.executable).with_name("celery")
    return (
        subprocess.run(
            [celery, "-A", "oops_celery", "inspect", "ping", "-t", "2"],
            env=environment(RABBITMQ_URL=node.url),
            capture_output=True,
            check=False,
        ).returncode
        == 0
    )


def test_the_commands_name_what_is_refused(
    refusing: Refusing, name: str, tmp_path: Path
) -> None:
    """It is missing, so doctor and diff say that; and what makes it says why."""

    def command(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "oops_celery.cli", *arguments],
            cwd=tmp_path,
            env=environment(
                RABBITMQ_URL=refusing.url, OOPS_TOPOLOGY="topology.yml", COLUMNS="400"
            ),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        ).stdout

    denied = f"queue: {name}.q2\n    x_queue_master_locator: random"
    text = TEN.replace("NAME", name).replace(f"queue: {name}.q2", denied)
    (tmp_path / "topology.yml").write_text(text)
    refusing.refused.add((QUEUE_DECLARE, f"{name}.q2"))
    said = "RabbitMQ 4.3 denies it"
    assert said in command("validate", "topology.yml")
    declared = command("topology", "declare")
    assert f"refused: queue {name}.q2: the broker says: Feature `nonsense`" in declared
    assert declared.endswith("; 1 refused\n")
    refusing.refused.clear()  # where it is asked for passively, RabbitMQ answers
    assert f"missing: queue {name}.q2: x_queue_master_locator: {said}" in command(
        "topology", "diff"
    )
    # The exclusive one has ended with the command that declared it.
    doctor = command("doctor", "--no-ping")
    assert f"queue {name}.q2 is missing (x_queue_master_locator: {said}" in doctor
    assert "or says why the broker refuses it" in doctor
