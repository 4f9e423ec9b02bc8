"""What is logged while a report is published does not come back as a report."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from oops_celery import wire
from tests.support import Node

#: A handler that publishes what is logged, by the ways that people write it.
HANDLER = """
import json, logging, logging.handlers, sys, threading, time
import oops, oops_celery
config = oops.Config()
config.publisher = oops_celery.publisher
results = []
class Handler(logging.Handler):
    depth = 0
    def emit(self, record):
        report = config.create({"topic": record.name})
        report["line"] = record.getMessage()
        started = time.monotonic()
        ids = config.publish(report)
        results.append((record.name, ids, time.monotonic() - started))
handler = Handler()
def log(line):
    logging.getLogger("shop").warning(line)
def end():
    ours = [ids for name, ids, _ in results if name == "shop"]
    print(json.dumps([len(ours), sum(map(bool, ours)), max(s for *_, s in results)]))
    # None but the application's lines were published.
    assert all(name == "shop" for name, ids, _ in results if ids), results
    assert len(threading.enumerate()) < 5, threading.enumerate()
"""

SETUPS = {
    "root at WARNING": """
handler.setLevel("WARNING")
logging.getLogger().addHandler(handler)
""",
    "everything": """
logging.getLogger().addHandler(handler)
logging.getLogger().setLevel(0)
logging.getLogger("amqp").setLevel("DEBUG")
""",
    "ours too": """
logging.getLogger().addHandler(handler)
logging.getLogger("oops_celery").addHandler(handler)
logging.getLogger().setLevel("INFO")
""",
    "in memory": """
memory = logging.handlers.MemoryHandler(1, target=handler)
logging.getLogger().addHandler(memory)
logging.getLogger().setLevel("DEBUG")
""",
}

LINES = """
for number in range(20):
    log(f"line {number}")
end()
"""

GREEN = {
    "threads": "",
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}

#: A publish that waits for itself takes as long, and fails; a busy machine does not.
PATIENT = {"OOPS_PUBLISH_TIMEOUT": "25"}

Run = Callable[..., str]


def results(output: str) -> tuple[int, int, float]:
    import json

    return tuple(json.loads(output))  # type: ignore[return-value]


@contextmanager
def silent_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"amqp://127.0.0.1:{server.getsockname()[1]}/"


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("green", GREEN)
@pytest.mark.filterwarnings("ignore:eventlet")
def test_each_line_is_published(broker: Node, run: Run, setup: str, green: str) -> None:
    output = run(GREEN[green] + HANDLER + SETUPS[setup] + LINES, 240, **PATIENT)
    assert results(output)[1] == 20
    lines = [wire.decode(message.body)["line"] for message in broker.messages("oopses")]
    assert lines == [f"line {number}" for number in range(20)]


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("green", GREEN)
@pytest.mark.filterwarnings("ignore:eventlet")
def test_without_a_broker(run: Run, setup: str, green: str) -> None:
    output = run(
        GREEN[green] + HANDLER + SETUPS[setup] + LINES,
        240,
        RABBITMQ_URL="amqp://127.0.0.1:1/",
    )
    count, published, seconds = results(output)
    assert (count >= 20, published) == (True, 0)  # a MemoryHandler repeats some
    assert seconds < 10  # 5, and what a busy machine adds


@pytest.mark.parametrize("setup", SETUPS)
def test_with_a_broker_that_does_not_answer(run: Run, setup: str) -> None:
    with silent_port() as url:
        output = run(HANDLER + SETUPS[setup] + LINES, RABBITMQ_URL=url)
    count, published, seconds = results(output)
    assert (count >= 20, published) == (True, 0)  # a MemoryHandler repeats some
    assert seconds < 10


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("green", GREEN)
@pytest.mark.filterwarnings("ignore:eventlet")
def test_with_the_queue_of_oops_amqp(
    broker: Node, run: Run, setup: str, green: str
) -> None:
    """A line about it, from the thread that connects, while the handler waits."""
    with broker.connect() as connection:
        channel = connection.channel()
        channel.exchange_declare("oopses", "fanout", durable=True, auto_delete=False)
        channel.queue_declare("oopses", durable=True, auto_delete=False)
        channel.queue_bind("oopses", "oopses")
    output = run(GREEN[green] + HANDLER + SETUPS[setup] + LINES, 240, **PATIENT)
    assert results(output)[1] == 20


def test_many_threads(broker: Node, run: Run) -> None:
    program = """
def work(number):
    for line in range(10):
        log(f"thread {number} line {line}")
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
end()
"""
    output = run(HANDLER + SETUPS["everything"] + program, 240, **PATIENT)
    assert results(output)[:2] == (80, 80)


def test_the_fallback_gets_no_lines_of_ours(run: Run) -> None:
    program = """
import pathlib
config.publisher = oops.publish_with_fallback(
    oops_celery.publisher, oops_celery.FolderPublisher("fallback")
)
for number in range(20):
    log(f"line {number}")
print(len(list(pathlib.Path("fallback").glob("*/*"))))
"""
    output = run(
        HANDLER + SETUPS["everything"] + program, RABBITMQ_URL="amqp://127.0.0.1:1/"
    )
    assert output == "20\n"


def test_many_reports_at_a_time(broker: Node, run: Run) -> None:
    """What makes the reports may log, and is published; what sends them is not."""
    program = """
def reports():
    for number in range(3):
        log(f"report {number}")
        yield {"number": number}
assert all(oops_celery.publisher.publish_many(reports()))
for ids in oops_celery.publisher.publish_many([{"more": 1}, {"more": 2}]):
    log("in between")
end()
"""
    output = run(HANDLER + SETUPS["everything"] + program, 240, **PATIENT)
    assert results(output)[:2] == (5, 5)
    assert len(broker.messages("oopses")) == 10


def test_a_connection_factory_that_logs(broker: Node, run: Run) -> None:
    program = f"""
import amqp
def factory():
    logging.getLogger("factory").warning("connecting")
    return amqp.Connection(host={broker.host!r})
with amqp.Connection(host={broker.host!r}) as made:
    channel = made.channel()
    channel.queue_declare("q", durable=True, auto_delete=False)
config.publisher = oops_celery.Publisher(factory, "", "q")
log("line")
end()
"""
    output = run(HANDLER + SETUPS["root at WARNING"] + program, 240, **PATIENT)
    assert results(output)[:2] == (1, 1)


def test_a_value_that_logs_when_it_is_looked_at(broker: Node, run: Run) -> None:
    program = """
class Value:
    def __str__(self):
        logging.getLogger("value").warning("looked at %s", 1)
        return "value"
    __repr__ = __str__
logging.getLogger().addHandler(handler)
report = {"value": Value()}
assert oops_celery.publisher(report)
log("line")
end()
"""
    assert results(run(HANDLER + program, 240, **PATIENT))[:2] == (1, 1)
