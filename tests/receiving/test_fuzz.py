"""A real worker, fed with messages that no program should send."""

from __future__ import annotations

import bz2
import os
import struct
import textwrap
from collections import Counter
from collections.abc import Callable
from hashlib import md5
from pathlib import Path
from random import Random

import amqp
import pytest

from oops_celery import Publisher, wire
from tests.support import Node, Worker, eventually, fuzzing

#: Another one gives other messages: FUZZ_SEED=5 pytest tests/receiving/test_fuzz.py
SEED = int(os.environ.get("FUZZ_SEED", "1"))
MESSAGES = 400

CONSUMERS = """
queues:
  - queue: fuzzed
  - queue: oopses
    x_dead_letter_exchange: ""
    x_dead_letter_routing_key: oopses.dead
  - queue: oopses.dead
consumers:
  - {consumer: "workers:Consumer", queue: fuzzed, prefetch_count: 20}
"""

WORKERS = """
import hashlib
class Consumer:
    def consume(self, amqp, msg):
        repr((msg.text, msg.properties, msg.delivery_info))
        headers = msg.properties.get("headers") or {}
        with open("taken", "a") as file:
            print(hashlib.md5(msg.body).hexdigest(), len(headers), file=file)
    def shutdown(self, exception=None): pass
"""


def send(node: Node, queue: str, messages: list[amqp.Message]) -> list[bytes]:
    """Publish; return the bodies of those that RabbitMQ has let in."""
    let_in = []
    connection = None
    for message in messages:
        if connection is None:
            connection = node.connect()
            channel = connection.channel()
        try:
            channel.basic_publish_confirm(message, "", queue, mandatory=True)
        except amqp.AMQPError:  # a CC that is no list, say
            connection.collect()
            connection = None
        else:
            let_in.append(message.body)
    assert len(let_in) > 0.9 * len(messages)
    return let_in


def any_messages() -> list[amqp.Message]:
    random = Random(SEED)
    return [fuzzing.message(random) for _ in range(MESSAGES)]


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_every_message_is_kept_or_parked_and_reports_go_on(
    broker: Node, worker: Callable[..., Worker], pool: str
) -> None:
    started = worker("-P", pool, "-c", "2")
    sent = send(broker, "oopses", any_messages())
    eventually(
        lambda: len(started.files()) + broker.count("oopses.dead") == len(sent), 60
    )
    assert broker.count("oopses") == 0
    # Each is where it belongs, as it came.
    parked = broker.messages("oopses.dead")
    kept = [wire.decode(path.read_bytes()) for path in started.files()]
    unchanged = Counter(bytes(message.body or b"") for message in parked)
    assert not unchanged - Counter(sent)
    assert all(message.headers["oops-reason"] for message in parked)
    assert min(len(kept), len(parked)) > MESSAGES / 20
    for body in Counter(sent) - unchanged:
        assert wire.decode(body)

    publish = Publisher(broker.connect, "oopses", "")
    (good,) = publish({"type": "ValueError"})
    eventually(
        lambda: (
            good in {wire.decode(path.read_bytes())["id"] for path in started.files()}
        )
    )
    text = started.text()
    assert "Unrecoverable" not in text
    assert text.count(" ready.") == 1  # it has not even had to connect again
    assert all(char.isprintable() or char in "\n\t" for char in text)


def test_every_message_reaches_the_consumer_of_its_queue(
    broker: Node, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    (tmp_path / "fuzzed.yml").write_text(CONSUMERS)
    (tmp_path / "workers.py").write_text(WORKERS)
    started = worker("-c", "1", OOPS_TOPOLOGY="fuzzed.yml")
    sent = send(broker, "fuzzed", any_messages())

    def taken() -> list[str]:
        path = started.folder / "taken"
        return path.read_text().split()[::2] if path.exists() else []

    eventually(lambda: len(taken()) >= len(sent), 180)
    assert Counter(taken()) == Counter(md5(body).hexdigest() for body in sent)
    started.stop()
    assert broker.count("fuzzed") == 0
    assert "Unrecoverable" not in started.text()
    assert started.text().count(" ready.") == 1
    with broker.connect() as connection:
        connection.channel().queue_delete("fuzzed")


class OneHeader(amqp.Message):
    """A message with one header of any bytes."""

    def __init__(self, body: bytes, header: bytes) -> None:
        super().__init__(body)
        self._header = header

    def _serialize_properties(self) -> bytes:
        return struct.pack(">H", 1 << 13) + fuzzing.long(self._header)


MILLISECONDS = b"\x04sent" + b"T" + struct.pack(">Q", 1_700_000_000_000)


def test_a_report_with_a_time_in_milliseconds_is_kept(
    broker: Node, worker: Callable[..., Worker]
) -> None:
    """AMQP has seconds; py-amqp reads no year after 9999."""
    started = worker("-c", "1")
    report = wire.encode({"type": "ValueError"})
    send(broker, "oopses", [OneHeader(report.body, MILLISECONDS)])
    (path,) = eventually(started.files)
    assert wire.decode(path.read_bytes())["id"] == report.id
    assert "properties of a message cannot be read: ValueError" in started.text()


def test_a_body_that_says_it_is_compressed_is_not_unpacked(
    broker: Node, worker: Callable[..., Worker]
) -> None:
    """A kilobyte may become gigabytes."""
    started = worker("-c", "1")
    body = bz2.compress(bytes(10**8))
    for task in ({}, {"task": "oops_celery.republish", "id": "x"}):
        broker.publish(
            "oopses",
            body,
            application_headers={"compression": "bzip2", **task},
            content_type="application/bson",
        )
    eventually(lambda: broker.count("oopses.dead") == 2)
    started.stop()
    for message in broker.messages("oopses.dead"):
        assert message.body == body
        assert (
            "undecodable" in message.headers["oops-reason"]
            or "not a BSON" in (message.headers["oops-reason"])
        )


HEADERS = {
    "expires": {"expires": "2001-01-01T00:00:00+00:00"},
    "eta": {"eta": "2999-01-01T00:00:00+00:00"},
    "no times": {"eta": "yesterday", "expires": {"a": 1}, "timelimit": "none"},
    "a time limit": {"timelimit": [0.001, 0.001]},
    "a chain": {"chain": [{"task": "x", "args": [], "kwargs": {}, "options": {}}]},
    "callbacks": {"callbacks": "x", "errbacks": 5, "chord": {}},
    "attributes": {"get": 5, "update": None, "headers": [], "delivery_info": 1},
    "stamps": {"stamps": 5, "stamped_headers": {"a": 1}},
    "retries": {"retries": 2**63 - 1},
    "an id for a terminal": {"id": "\x1b[2J"},
    "no id": {"id": None},
    "an id that is a table": {"id": {"a": 1}},
    "a shadow": {"shadow": "\x1b]0;title\x07", "argsrepr": "\x1b[2J"},
}


def test_headers_have_celery_neither_hold_nor_drop_a_report(
    broker: Node, worker: Callable[..., Worker]
) -> None:
    started = worker("-c", "1")
    sent = {}
    for name, headers in HEADERS.items():
        for task in ({"task": "oops_celery.republish", "id": f"id of {name}"}, {}):
            report = wire.encode({"name": name, "task": bool(task)})
            sent[report.id] = name
            broker.publish(
                "oopses",
                report.body,
                application_headers={**task, **headers},
                content_type="application/bson",
            )
    eventually(lambda: len(started.files()) == len(sent))
    kept = {wire.decode(path.read_bytes())["id"] for path in started.files()}
    assert kept == set(sent)
    eventually(lambda: started.text().count("succeeded in") == len(sent))
    assert broker.count("oopses.dead") == 0
    assert "\x1b" not in started.text()


OTHER_TASKS = ("celery.map", "celery.backend_cleanup", "workers:Consumer", "no.such")


def test_no_other_task_is_run(
    broker: Node, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    """Who may send reports must not call what else is registered in the worker."""
    (tmp_path / "fuzzed.yml").write_text(CONSUMERS)
    (tmp_path / "workers.py").write_text(textwrap.dedent(WORKERS))
    started = worker("-c", "1", OOPS_TOPOLOGY="fuzzed.yml")
    for task in OTHER_TASKS:
        broker.publish(
            "oopses",
            b'[["body"], {}, {}]',
            application_headers={"task": task, "id": task},
            content_type="application/json",
            content_encoding="utf-8",
        )
    eventually(lambda: broker.count("oopses.dead") == len(OTHER_TASKS))
    assert not (started.folder / "taken").exists()
    reasons = {m.headers["oops-reason"] for m in broker.messages("oopses.dead")}
    assert reasons == {f"not a report, but a task {task!r}" for task in OTHER_TASKS}
    with broker.connect() as connection:
        connection.channel().queue_delete("fuzzed")
