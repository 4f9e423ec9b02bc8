"""The consumers of amqp-dispatcher, in a real worker."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import amqp
import pytest

from tests.support import PACKAGED, Node, Worker, environment, eventually
from tests.support.dispatching import NOTE, WORK, notes, send

StartWorker = Callable[..., Worker]

ANSWERS = """
import asyncio, itertools
numbers = itertools.count()

class Consumer:
    def __init__(self):
        self.name = f"{os.getpid()}-{next(numbers)}"
        note("made", self.name)

    def consume(self, amqp, msg):
        again = "again" if msg.delivery_info["redelivered"] else "first"
        note("consume", self.name, msg.text, again)
        if again == "again":
            return
        match msg.text:
            case "ack":
                amqp.ack()
            case "nack":
                amqp.nack()
            case "requeue":
                amqp.reject()
            case "drop":
                amqp.reject(requeue=False)
            case "raise":
                raise ValueError("as asked")
            case "exit":
                sys.exit(3)
            case "cancel":
                raise asyncio.CancelledError
            case "twice":
                amqp.ack()
                try:
                    amqp.reject()
                except Exception as error:
                    note("refused", error)
            case "ack, raise":
                amqp.ack()
                amqp.nack()
            case "publish":
                amqp.publish("", "other", {"a": 1}, "New body! \\u20ac")
                amqp.publish("amq.fanout", "nobody", {}, b"gone")
            case "nowhere":
                amqp.publish("no such exchange", "", {}, "x")

    def shutdown(self, exception=None):
        note("shutdown", self.name, repr(exception))
"""


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_each_answer_has_its_effect_at_the_broker(
    node: Node, dispatcher: Callable[..., Worker], pool: str
) -> None:
    started = dispatcher(WORK, ANSWERS, "-P", pool, "-c", "1")
    once = ["ack", "silent", "twice", "ack, raise", "publish", "drop"]
    twice = ["nack", "requeue", "raise", "exit", "cancel", "nowhere"]
    send(node, "work", *once, *twice)

    def consumed() -> Counter[str]:
        return Counter(
            line.split(" ", 2)[2].rsplit(" ", 1)[0]
            for line in notes(started)
            if line.startswith("consume ")
        )

    wanted = Counter({**dict.fromkeys(once, 1), **dict.fromkeys(twice, 2)})
    eventually(lambda: consumed() == wanted)
    eventually(lambda: node.count("work") == 0)
    (dropped,) = eventually(lambda: node.messages("work.dead"))
    assert dropped.body == b"drop"
    (published,) = node.messages("other")
    assert published.body == "New body! €".encode()
    assert published.headers == {"a": 1}
    assert published.properties["delivery_mode"] == 2

    started.stop()
    assert started.process.returncode == 0
    assert node.count("work") == 0
    assert consumed() == wanted
    lines = notes(started)
    assert "refused Already responded to message!" in lines
    # Whoever raised was shut down with it, and was not used again.
    made = {line.split()[1] for line in lines if line.startswith("made")}
    ended = [line.split(" ", 2)[1:] for line in lines if line.startswith("shutdown")]
    assert {name for name, _ in ended} == made
    assert len(ended) == len(made)
    errors = [error for _, error in ended if error != "None"]
    assert Counter(error.partition("(")[0] for error in errors) == {
        "ValueError": 1,
        "SystemExit": 1,
        "CancelledError": 1,
        "AlreadyAnswered": 1,
        "Refused": 1,
    }
    for name, error in ended:
        own = [line for line in lines if f" {name}" in line]
        assert own[-1].startswith(f"shutdown {name}")
        if error == "ValueError('as asked')":
            assert own[-2] == f"consume {name} raise first"
    assert "ValueError: as asked" in started.text()


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_what_waits_already_is_consumed(
    node: Node, dispatcher: Callable[..., Worker], pool: str
) -> None:
    """More messages than the pool has places, in two queues, when the worker starts."""
    queues = ("other", "work")
    with node.connect() as connection:
        for queue in queues:
            connection.channel().queue_declare(queue, durable=True, auto_delete=False)
    numbers = [str(number) for number in range(50)]
    for queue in queues:
        send(node, queue, *numbers)
    started = dispatcher(
        """
queues: [{queue: other}, {queue: work}]
consumers:
- {consumer: "workers:Consumer", queue: other, prefetch_count: 20}
- {consumer: "workers:Consumer", queue: work, prefetch_count: 20}
""",
        """
        class Consumer:
            def consume(self, amqp, msg): note(msg.text)
            def shutdown(self, exception=None): pass
        """,
        *("-P", pool, "-c", "1"),
    )
    eventually(lambda: len(notes(started)) >= 100)
    assert Counter(notes(started)) == Counter(2 * numbers)
    assert "Traceback" not in started.text()


def test_the_message_is_what_came(
    node: Node, dispatcher: Callable[..., Worker]
) -> None:
    started = dispatcher(
        WORK,
        """
        class Consumer:
            def consume(self, amqp, msg):
                note(repr([msg.body, msg.text, len(msg), msg.delivery_info,
                           msg.properties]))
            def shutdown(self, exception=None): pass
        """,
    )
    node.publish("work", b"\xff\x00")
    node.publish(
        "work",
        "grün".encode("latin-1"),
        content_encoding="latin-1",
        content_type="text/plain",
        correlation_id="c",
        reply_to="r",
        message_id="m",
        timestamp=1_700_000_000,
        expiration="60000",
        # What would mean something to Celery.
        application_headers={"task": "no", "eta": "x", "callbacks": [1], "id": 7},
    )
    # What looks like a Celery task is a message as any other.
    node.publish("work", b"", content_type="application/json")
    lines = eventually(lambda: notes(started) if len(notes(started)) == 3 else None)
    binary, text, empty = sorted(
        map(eval, lines), key=lambda line: line[3]["delivery_tag"]
    )
    assert binary[:3] == [b"\xff\x00", "\ufffd\x00", 2]
    assert binary[3]["exchange"] == ""
    assert binary[3]["routing_key"] == "work"
    assert binary[3]["redelivered"] is False
    assert text[:3] == ["grün".encode("latin-1"), "grün", 4]
    properties = text[4]
    assert properties["content_type"] == "text/plain"
    assert properties["correlation_id"] == "c"
    assert properties["reply_to"] == "r"
    assert properties["timestamp"] == 1_700_000_000
    headers = {"task": "no", "eta": "x", "callbacks": [1], "id": 7}
    assert properties["application_headers"] == properties["headers"] == headers
    assert empty[:3] == [b"", "", 0]
    eventually(lambda: node.count("work") == 0)
    assert "grün" not in started.text()


SLOW_AND_QUICK = """
class Slow:
    def consume(self, amqp, msg):
        note("begun")
        while not os.path.exists("go"):
            time.sleep(0.01)
        note("ended")
    def shutdown(self, exception=None): pass
class Quick(Slow):
    def consume(self, amqp, msg):
        note("quick")
"""

TWO_ENTRIES = """
queues:
  - queue: work
  - queue: other
consumers:
  - {consumer: "workers:Slow", queue: work, consumer_count: 2, prefetch_count: 10}
  - {consumer: "workers:Quick", queue: other}
"""


@pytest.mark.parametrize(
    "options",
    [("-c", "1"), ("-c", "8"), ("-P", "threads", "-c", "1"), ("-P", "gevent")],
    ids=" ".join,
)
def test_consumer_count_and_prefetch_count_hold(
    node: Node, dispatcher: Callable[..., Worker], options: tuple[str, ...]
) -> None:
    started = dispatcher(TWO_ENTRIES, SLOW_AND_QUICK, *options)
    send(node, "work", *["slow"] * 30)
    send(node, "other", *["quick"] * 50)
    consumers = node.ctl("list_consumers", "-q", "queue_name", "prefetch_count")
    assert re.search(r"^work\s+10$", consumers, re.MULTILINE), consumers

    def unacknowledged() -> int:
        table = node.ctl("list_queues", "-q", "name", "messages_unacknowledged")
        (count,) = re.findall(r"^work\s+(\d+)$", table, re.MULTILINE)
        return int(count)

    # All quick ones are done while the slow ones wait for the file.
    eventually(lambda: notes(started).count("quick") == 50)
    eventually(lambda: unacknowledged() == 10)
    eventually(lambda: notes(started).count("begun") == 2)
    (started.folder / "go").touch()
    eventually(lambda: notes(started).count("ended") == 30)
    at_once = 0
    for line in notes(started):
        at_once += {"begun": 1, "ended": -1}.get(line, 0)
        assert at_once <= 2


@pytest.mark.restarts
@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_ten_thousand_messages_and_none_lost(
    node: Node, dispatcher: Callable[..., Worker], pool: str
) -> None:
    """A kill -9 and a restart of the broker in the middle."""
    started = dispatcher(
        WORK.replace("prefetch_count: 10", "prefetch_count: 100")
        + ("    prefork: true\n" if pool == "prefork" else ""),
        """
        class Consumer:
            def consume(self, amqp, msg):
                note(msg.text)
            def shutdown(self, exception=None): pass
        """,
        *("-P", pool),
    )
    send(node, "work", *map(str, range(10_000)))

    def done() -> int:
        return len(set(notes(started)))

    before = done()
    assert before < 10_000
    if pool == "prefork":
        for pid in started.pool_pids()[:2]:
            subprocess.run(["kill", "-9", str(pid)], check=False)
    else:
        started.kill()
        started.restart()
    eventually(lambda: done() > before)
    node.restart()
    eventually(lambda: done() == 10_000, 180)
    eventually(lambda: node.count("work") == 0)
    started.stop()
    assert node.count("work") == 0


ASYNC = """
import asyncio
class Consumer:
    def __init__(self):
        self.loops = set()
    async def consume(self, amqp, msg):
        self.loops.add(id(asyncio.get_running_loop()))
        assert len(self.loops) == 1
        await asyncio.sleep(0.01)
        if msg.delivery_info["redelivered"]:
            note("again", msg.text)
            return
        if msg.text == "publish":
            await amqp.publish("", "other", {}, msg.body)
        elif msg.text == "drop":
            await amqp.reject(requeue=False)
        elif msg.text == "nack":
            await amqp.nack()
        elif msg.text == "raise":
            raise ValueError("as asked")
        else:
            await amqp.ack()
        note("done", msg.text)
    async def shutdown(self, exception=None):
        await asyncio.sleep(0.01)
        note("shutdown", repr(exception))
"""


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_async_consumers(
    node: Node, dispatcher: Callable[..., Worker], pool: str
) -> None:
    started = dispatcher(WORK, ASYNC, "-P", pool, "-c", "1")
    send(node, "work", *["ack"] * 20, "publish", "drop", "nack", "raise")
    eventually(lambda: len(notes(started)) == 20 + 2 + 2 + 2)
    eventually(lambda: node.count("work") == 0)
    assert [message.body for message in node.messages("other")] == [b"publish"]
    assert [message.body for message in node.messages("work.dead")] == [b"drop"]
    started.stop()
    assert Counter(notes(started))["shutdown ValueError('as asked')"] == 1
    assert Counter(notes(started))["shutdown None"] >= 1
    assert Counter(notes(started))["again raise"] == 1
    assert node.count("work") == 0


#: The configuration of amqp-dispatcher's page.
PAGE = """
startup_handler: workers.startup:startup

queues:
  - queue: notify_mat_job
    durable: true
    auto_delete: false
    passive: true
    exclusive: false
    x_dead_letter_exchange: null
    x_dead_letter_routing_key: null
    x_max_length: null
    x_expires: null
    x_message_ttl: null
    bindings:
      - exchange: notify
        routing_key: transaction.*
      - exchange: notify
        routing_key: click.*

  - queue: notify_apsalar_job
    bindings:
      - exchange: notify
        routing_key: transaction.*
      - exchange: notify
        routing_key: click.*

consumers:
  - consumer: workers.module:Consumer
    consumer_count: 1
    queue: test_queue
    prefetch_count: 2
  - consumer: workers.module_2:Consumer
    consumer_count: 2
    queue: test_queue_2
    prefetch_count: 10
"""

#: The consumer of that page, as Python 3.
PAGE_CONSUMER = """
import random

class Consumer(object):

    def __init__(self):
        self.init_msg = "I've been initiliazed"

    def consume(self, amqp, msg):
        print('Consuming message', msg.body)
        val = random.random()
        if val > .8:
            print('publishing')
            amqp.publish('test_exchange', 'test_routing_key', {}, 'New body!')
        if val < .5:
            raise ValueError()
        print('Done sleeping')

    def shutdown(self, exception=None):
        print('Shut down')
"""


def test_the_example_of_the_dispatchers_page(
    node: Node, worker: StartWorker, tmp_path: Path
) -> None:
    with node.connect() as connection:
        channel = connection.channel()
        channel.exchange_declare("notify", "topic", durable=True, auto_delete=False)
        channel.exchange_declare("test_exchange", "fanout", auto_delete=False)
        for queue in ("notify_mat_job", "test_queue", "test_queue_2"):
            channel.queue_declare(queue, durable=True, auto_delete=False)
    (tmp_path / "config.yml").write_text(PAGE)
    package = tmp_path / "workers"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "module.py").write_text(PAGE_CONSUMER)
    (package / "module_2.py").write_text(PAGE_CONSUMER)
    (package / "startup.py").write_text(
        "import os\ndef startup():\n    print('started in', os.getpid(), flush=True)\n"
    )
    started = worker("-c", "1", OOPS_TOPOLOGY="config.yml", PYTHONUNBUFFERED="1")
    assert started.text().count(f"started in {started.process.pid}\n") == 1
    assert started.text().count("started in") == 1
    for key in ("transaction.new", "click.here", "other"):
        with node.connect() as connection:
            connection.channel().basic_publish_confirm(amqp.Message(key), "notify", key)
    assert node.count("notify_mat_job") == node.count("notify_apsalar_job") == 2
    send(node, "test_queue", *["one"] * 30)
    send(node, "test_queue_2", *["two"] * 30)
    eventually(lambda: started.text().count("Done sleeping") == 60)
    assert node.count("test_queue") + node.count("test_queue_2") == 0
    started.stop()
    text = started.text()
    assert text.count("Consuming message b'one'") >= 30
    # One for each failure, and one for each instance in the end.
    assert text.count("Shut down") > text.count("workers.module:Consumer.consume") > 0
    assert "publishing" in text


def test_a_consumer_that_cannot_be_made_loses_nothing(
    node: Node, dispatcher: Callable[..., Worker]
) -> None:
    started = dispatcher(
        WORK,
        """
        class Consumer:
            def __init__(self):
                if not os.path.exists("database"): raise OSError("no database")
            def consume(self, amqp, msg):
                note(msg.text)
            def shutdown(self, exception=None): pass
        """,
    )
    send(node, "work", "one", "two")
    eventually(lambda: "OSError: no database" in started.text())
    time.sleep(1)
    assert notes(started) == []
    assert started.text().count("cannot be made") <= 6  # not as fast as it can
    (started.folder / "database").touch()
    eventually(lambda: sorted(notes(started)) == ["one", "two"])
    eventually(lambda: node.count("work") == 0)


def test_a_message_that_kills_its_process_goes_back(
    node: Node, dispatcher: Callable[..., Worker]
) -> None:
    started = dispatcher(
        WORK + "    prefork: true\n",
        """
        class Consumer:
            def consume(self, amqp, msg):
                if msg.text == "deadly" and not msg.delivery_info["redelivered"]:
                    os._exit(9)
                note(msg.text)
            def shutdown(self, exception=None): pass
        """,
    )
    send(node, "work", "deadly", *["other"] * 5)
    eventually(lambda: Counter(notes(started)) == {"deadly": 1, "other": 5})
    eventually(lambda: node.count("work") == 0)


def test_a_queue_that_comes_later_is_found(
    node: Node, dispatcher: Callable[..., Worker]
) -> None:
    started = dispatcher(
        'consumers: [{consumer: "workers:Consumer", queue: other}]',
        """
        class Consumer:
            def consume(self, amqp, msg):
                note(msg.text)
            def shutdown(self, exception=None): pass
        """,
    )
    eventually(
        lambda: (
            "queue other, for the consumer workers:Consumer, is not at"
            in started.text()
        )
    )
    with node.connect() as connection:
        connection.channel().queue_declare("other", durable=True, auto_delete=False)
    send(node, "other", "one")
    eventually(lambda: notes(started) == ["one"])
    # Deleted under us, and made again.
    with node.connect() as connection:
        connection.channel().queue_delete("other")
        connection.channel().queue_declare("other", durable=True, auto_delete=False)
    send(node, "other", "two")
    eventually(lambda: notes(started) == ["one", "two"])


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_what_the_broker_lacks_is_declared_once_it_can_be(
    node: Node, dispatcher: Callable[..., Worker], pool: str
) -> None:
    """An exchange and a queue that others make, in their own time."""
    started = dispatcher(
        """
        queues:
          - queue: work
            bindings:
              - {exchange: notify, routing_key: a}
              - {exchange: notify, routing_key: b}
          - {queue: other, passive: true, bindings: [{exchange: notify}]}
        consumers: [{consumer: "workers:Consumer", queue: work}]
        """,
        """
        class Consumer:
            def consume(self, amqp, msg):
                note(msg.text)
            def shutdown(self, exception=None): pass
        """,
        *("-P", pool),
    )
    missing = ["queue other: it is not there", "binding notify -> work (a): the broker"]
    eventually(lambda: all(each in started.text() for each in missing))
    with node.connect() as connection:
        channel = connection.channel()
        channel.exchange_declare("notify", "direct", durable=True, auto_delete=False)
        there = "binding notify -> work (b) is declared now"
        eventually(lambda: there in started.text())
        assert "queue other is declared now" not in started.text()
        for key in ("a", "b"):
            channel.basic_publish(amqp.Message(key), "notify", key)
        eventually(lambda: notes(started) == ["a", "b"])
        channel.queue_declare("other", durable=True, auto_delete=False)
        eventually(lambda: "queue other is declared now" in started.text())
        channel.basic_publish(amqp.Message("c"), "notify", "")
        eventually(lambda: node.count("other") == 1)
    # Each is said once, however often it was tried.
    assert all(started.text().count(each) == 1 for each in (*missing, there))


def test_reports_and_consumers_in_one_worker(
    node: Node, dispatcher: Callable[..., Worker], run: Callable[..., str]
) -> None:
    own = PACKAGED.read_text()
    consumers = (
        '\nconsumers: [{consumer: "workers:Consumer", queue: oopses.dead, '
        "prefetch_count: 0}]\n"
    )
    started = dispatcher(
        own + consumers,
        """
        class Consumer:
            def consume(self, amqp, msg):
                note(msg.text, msg.properties["headers"]["oops-reason"])
            def shutdown(self, exception=None): pass
        """,
    )
    run("import oops_celery; assert oops_celery.publisher({'a': 1})")
    node.publish("oopses", b"garbage")
    eventually(lambda: len(started.files()) == 1)
    (line,) = eventually(lambda: notes(started))
    assert line.startswith("garbage undecodable: not a BSON document")
    started.stop()
    assert node.count("oopses.dead") == 0


@pytest.mark.parametrize(
    ("topology", "source", "expected"),
    [
        (WORK, "x = 1", "module workers has no Consumer"),
        (WORK, "1 / 0", "importing workers raises ZeroDivisionError"),
        (WORK, "class Consumer: pass", "Consumer has no method consume"),
        (WORK.replace("workers:", "nothing:"), "", "there is no module nothing"),
        ("startup_handler: workers:start\n" + WORK, ANSWERS, "workers has no start"),
        (
            "startup_handler: workers:start\n" + WORK,
            ANSWERS + "\ndef start():\n    raise OSError('no such host')\n",
            "startup_handler workers:start raises OSError: no such host",
        ),
        (
            WORK.replace("queue: other", "queue: oopses")
            + "  - {consumer: 'workers:Consumer', queue: oopses}\n",
            ANSWERS,
            "OOPS_QUEUE='oopses' is for reports",
        ),
    ],
)
def test_what_cannot_run_is_said_at_the_start(
    tmp_path: Path, topology: str, source: str, expected: str
) -> None:
    (tmp_path / "work.yml").write_text(topology)
    (tmp_path / "workers.py").write_text(NOTE + source)
    done = run_worker(tmp_path, OOPS_TOPOLOGY="work.yml")
    assert done.returncode == 1
    assert expected in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def run_worker(folder: Path, **environ: str) -> Any:
    return subprocess.run(
        [Path(sys.executable).with_name("celery"), "-A", "oops_celery", "worker"],
        cwd=folder,
        env=environment(**environ),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


LOGGING = """
[loggers]
keys=root,dispatcher
[handlers]
keys=file
[formatters]
keys=plain
[logger_root]
level=WARNING
handlers=file
[logger_dispatcher]
level=INFO
qualname=amqp-dispatcher
handlers=file
propagate=0
[handler_file]
class=FileHandler
formatter=plain
args=("dispatcher.log",)
[formatter_plain]
format=%(name)s|%(levelname)s|%(message)s
"""


def test_logging_file_config(
    node: Node, dispatcher: Callable[..., Worker], tmp_path: Path
) -> None:
    (tmp_path / "logging.ini").write_text(LOGGING)
    source = """
    import logging
    def start():
        logging.getLogger("amqp-dispatcher").info("hello")
    class Consumer:
        def consume(self, amqp, msg):
            raise ValueError("as asked") if "again" not in msg.text else None
        def shutdown(self, exception=None):
            time.sleep(0.3)
    """
    (tmp_path / "work.yml").write_text("startup_handler: workers:start\n" + WORK)
    (tmp_path / "workers.py").write_text(NOTE + textwrap.dedent(source))
    process = subprocess.Popen(
        [Path(sys.executable).with_name("celery")]
        + ["-A", "oops_celery", "worker", "-c", "1"],
        cwd=tmp_path,
        env=environment(
            RABBITMQ_URL=node.url,
            OOPS_TOPOLOGY="work.yml",
            LOGGING_FILE_CONFIG="logging.ini",
        ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        log = tmp_path / "dispatcher.log"
        eventually(lambda: log.exists() and "has run" in log.read_text())
        assert "amqp-dispatcher|INFO|hello\n" in log.read_text()
        eventually(lambda: node.ctl("list_queues", "-q", "name").count("work"))
        send(node, "work", "bad")
        eventually(
            lambda: (
                "amqp-dispatcher|ERROR|workers:Consumer.consume failed"
                in log.read_text()
            )
        )
    finally:
        process.terminate()
        process.wait(120)


@pytest.mark.parametrize("text", [None, "[loggers]\n", "\x00"])
def test_a_logging_file_that_cannot_be_used(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "logging.ini").write_text(text)
    done = run_worker(tmp_path, LOGGING_FILE_CONFIG="logging.ini")
    assert done.returncode == 1
    assert "LOGGING_FILE_CONFIG='logging.ini'" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
