"""amqp-dispatcher's examples and scenarios, of 0.12 and of 1.2, written anew.

Each runs with what docs/migrating.md says has changed, and nothing else: the exchanges
that a file binds to are there, ``passive`` is not set, and the names of amqp-dispatcher
are installed by a line of the startup handler's module.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import amqp
import pytest

from tests.support import Node, Worker, eventually

StartWorker = Callable[..., Worker]

QUEUES = ("test_queue", "second_test_queue", "main_proxy_queue", "publish_queue")


@pytest.fixture
def node(broker: Node) -> Iterator[Node]:
    def clean() -> None:
        with broker.connect() as connection:
            for queue in QUEUES:
                connection.channel().queue_delete(queue)

    clean()
    yield broker
    clean()


def send(
    node: Node, routing_key: str, count: int, exchange: str = "amq.direct"
) -> None:
    with node.connect() as connection:
        channel = connection.channel()
        for number in range(count):
            message = amqp.Message(str(number), delivery_mode=2)
            channel.basic_publish_confirm(message, "amq.direct", routing_key)


def write(folder: Path, **modules: str) -> None:
    (folder / "__init__.py").touch()
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)


#: All that changes in a program of 1.x: one call before amqp-dispatcher's names.
STARTUP = """
import logging
import oops_celery.dispatcher.compat

oops_celery.dispatcher.compat.install()

def startup():
    logging.getLogger("amqp-dispatcher").info("we started up")
"""

FIRST = """
import asyncio
import logging
import traceback

import examples.startup
from amqpdispatcher.amqp_proxy import AMQPProxy
from amqpdispatcher.message import Message

logger = logging.getLogger(__name__)


class Consumer(object):
    def __init__(self) -> None:
        asyncio.get_running_loop()
        logger.info("I've been primarily initialized!")

    async def consume(self, amqp: AMQPProxy, msg: Message) -> None:
        assert isinstance(amqp, AMQPProxy) and isinstance(msg, Message)
        logger.info("Consuming primary message %s", msg.body)
        await amqp.publish("amq.direct", "second_test_queue", {}, b"New body!")
        await asyncio.sleep(0.01)
        assert amqp.tag == msg.raw_message.delivery_tag
        assert msg.raw_message.routing_key == msg.delivery_info["routing_key"]
        assert msg.return_info is None
        logger.info("Done primary %s", amqp._message.raw_message.delivery_tag)
        await amqp.ack()

    async def shutdown(self, exception=None):
        if exception is not None:
            logger.error(traceback.format_exc())
        else:
            logger.info("Shut down primary worker cleanly")
"""

SECOND = """
import asyncio
import logging

logger = logging.getLogger(__name__)


class SecondaryConsumer(object):
    async def consume(self, amqp, msg):
        await asyncio.sleep(0.01)
        logger.info("Done secondary working on %s", msg.body)

    async def shutdown(self, exception=None):
        logger.info("Shut down secondary worker cleanly")
"""

EXAMPLE = """
startup_handler: examples.startup:startup

queues:
  - queue: test_queue
    durable: true
    auto_delete: false
    exclusive: false
    x_dead_letter_exchange: null
    x_max_length: null
    x_queue_type: null
    bindings:
      - exchange: amq.direct
        routing_key: test_queue
  - queue: second_test_queue
    durable: true
    bindings:
      - exchange: amq.direct
        routing_key: second_test_queue

consumers:
  - consumer: examples.first:Consumer
    consumer_count: 2
    queue: test_queue
    prefetch_count: 2
  - consumer: examples.second:SecondaryConsumer
    consumer_count: 3
    queue: second_test_queue
    prefetch_count: 4
"""


def test_the_example_of_1_2(node: Node, worker: StartWorker, tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    write(tmp_path / "examples", startup=STARTUP, first=FIRST, second=SECOND)
    (tmp_path / "config.yml").write_text(EXAMPLE)
    nomad = {"NOMAD_JOB_NAME": "job", "NOMAD_ALLOC_ID": "7"}
    started = worker(OOPS_TOPOLOGY="config.yml", **nomad)
    send(node, "test_queue", 10)
    text = started.text
    eventually(lambda: text().count("Done primary") == 10)
    tags = node.ctl("list_consumers", "-q", "consumer_tag")
    assert re.search(
        r"^job\.7-\[examples\.first:Consumer\]-[a-z]{10}", tags, re.MULTILINE
    )
    eventually(lambda: text().count("Done secondary working on b'New body!'") == 10)
    eventually(lambda: node.count("test_queue") + node.count("second_test_queue") == 0)
    started.stop()
    assert text().count("we started up") == 1
    assert text().count("I've been primarily initialized!") <= 2
    assert "Shut down primary worker cleanly" in text()
    assert "Shut down secondary worker cleanly" in text()
    assert "Traceback" not in text()


def test_the_example_of_0_12(node: Node, worker: StartWorker, tmp_path: Path) -> None:
    """Synchronous, failing now and then, without gevent."""
    write(
        tmp_path,
        example_startup="def startup():\n    print('we started up', flush=True)\n",
        example_consumer="""
import logging
import time
import traceback

logger = logging.getLogger(__name__)


class Consumer(object):

    def __init__(self):
        logger.info("I've been initialized")

    def consume(self, amqp, msg):
        time.sleep(0.01)
        amqp.publish('amq.direct', 'second_test_queue', {}, 'New body!')
        if msg.body == b'3' and not msg.delivery_info['redelivered']:
            raise ValueError()
        logger.info('Done sleeping')
        amqp.ack()

    def shutdown(self, exception=None):
        if exception is not None:
            logger.error('failed by %r', exception)
        else:
            logger.info('Shut down worker cleanly')
""",
    )
    (tmp_path / "config.yml").write_text("""
startup_handler: example_startup:startup

queues:
  - queue: test_queue
    durable: true
    bindings:
      - exchange: amq.direct
        routing_key: queue
  - queue: second_test_queue
    bindings:
      - exchange: amq.direct
        routing_key: second_test_queue

consumers:
  - consumer: example_consumer:Consumer
    consumer_count: 2
    queue: test_queue
    prefetch_count: 2
""")
    started = worker(OOPS_TOPOLOGY="config.yml")
    send(node, "queue", 10)
    eventually(lambda: started.text().count("Done sleeping") == 10)
    eventually(lambda: node.count("second_test_queue") == 11)
    published = node.messages("second_test_queue")[0]
    # As amqp-dispatcher sent it: a consumer that accepts JSON alone reads it too.
    assert published.body == b"New body!"
    assert "content_type" not in published.properties
    assert "content_encoding" not in published.properties
    eventually(lambda: node.count("test_queue") == 0)
    started.stop()
    assert started.text().count("failed by ValueError()") == 1
    assert "Shut down worker cleanly" in started.text()


PROXY = """
queues:
  - queue: main_proxy_queue
    bindings: [{exchange: amq.direct, routing_key: main_proxy_queue}]
  - queue: publish_queue
    bindings: [{exchange: amq.direct, routing_key: publish_queue}]

consumers:
  - {consumer: "jobs:PublishConsumer", consumer_count: 5, queue: main_proxy_queue,
     prefetch_count: 0}
  - {consumer: "jobs:make_forever", consumer_count: 5, queue: publish_queue,
     prefetch_count: 0}
"""

JOBS = """
import asyncio

class Base:
    async def consume(self, amqp, msg):
        # In one piece: other threads print too.
        print(f"{type(self).__name__} receiving", flush=True)

class PublishConsumer(Base):
    async def consume(self, amqp, msg):
        await super().consume(amqp, msg)
        await amqp.ack()
        await amqp.publish("amq.direct", "publish_queue", headers={}, body=b"")

class ForeverConsumer(Base):
    async def consume(self, amqp, msg):
        await super().consume(amqp, msg)
        await asyncio.get_running_loop().create_future()

def make_forever():
    return ForeverConsumer()
"""


def test_publishing_and_consumers_that_never_end(
    node: Node, worker: StartWorker, tmp_path: Path
) -> None:
    """1.2's proxy and consumption scenarios: no more at work than there are instances.

    One entry names a function that makes its instances.
    """
    write(tmp_path, jobs=JOBS)
    (tmp_path / "config.yml").write_text(PROXY)
    started = worker(OOPS_TOPOLOGY="config.yml", OOPS_SHUTDOWN_TIMEOUT="2")
    send(node, "main_proxy_queue", 12)
    text = started.text
    eventually(lambda: text().count("PublishConsumer receiving") == 12)
    eventually(lambda: text().count("ForeverConsumer receiving") == 5)
    eventually(lambda: node.count("main_proxy_queue") == 0)
    assert text().count("ForeverConsumer receiving") == 5
    started.stop()
    assert started.process.returncode == 0
    assert node.count("publish_queue") == 12


@pytest.mark.restarts
def test_a_lost_connection(node: Node, worker: StartWorker, tmp_path: Path) -> None:
    """1.2's disconnection scenario: what is at work ends, comes again, is done."""
    write(
        tmp_path,
        jobs="""
import asyncio, os

class TimedConsumer:
    async def consume(self, amqp, msg):
        print(f"begun {msg.text}", flush=True)
        while not os.path.exists("go on"):
            await asyncio.sleep(0.01)
        await amqp.ack()
        print(f"done {msg.text}", flush=True)
""",
    )
    (tmp_path / "config.yml").write_text("""
queues: [{queue: test_queue, bindings: [{exchange: amq.direct, routing_key: a}]}]
consumers:
  - {consumer: "jobs:TimedConsumer", consumer_count: 5, queue: test_queue,
     prefetch_count: 0}
""")
    started = worker(OOPS_TOPOLOGY="config.yml")
    send(node, "a", 3)
    eventually(lambda: started.text().count("begun") == 3)
    node.restart()
    (tmp_path / "go on").touch()
    eventually(lambda: started.text().count("done") == 6)
    eventually(lambda: node.count("test_queue") == 0)
    started.stop()
    assert node.count("test_queue") == 0
    assert started.text().count("done") == 6


TEAMS = """\
version: 3
description: what we run
x-queue: &queue
  durable: true
x-consumer: &consumer
  prefetch_count: 5
owner: {team: a}
queues:
- <<: *queue
  queue: test_queue
  team: a
  arguments: {x: 1}
  x-max-length: 5
  x_ha_policy: all
  bindings:
  - {exchange: amq.direct, routing_key: a, comment: b}
consumers:
- <<: *consumer
  consumer: jobs:Consumer
  queue: test_queue
  concurrency: 3
  on_error: log
"""


def test_a_file_with_much_that_is_left_out(
    node: Node, worker: StartWorker, tmp_path: Path
) -> None:
    """Twelve unknown keys and two anchors: it runs, and each is said with its line."""
    write(
        tmp_path,
        jobs="""
class Consumer:
    def consume(self, amqp, msg):
        print(f"consumed {msg.text}", flush=True)
""",
    )
    (tmp_path / "config.yml").write_text(TEAMS)
    validate = [sys.executable, "-m", "oops_celery", "validate", "config.yml"]
    done = subprocess.run(
        validate, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    lines = re.findall(
        r"^warning: .*\bline (\d+)\b.*left out", done.stdout, re.MULTILINE
    )
    assert list(map(int, lines)) == [1, 2, 3, 5, 7, 11, 12, 13, 14, 16, 21, 22]
    assert done.stdout.endswith("config.yml: no mistakes, 12 warnings\n")
    started = worker(OOPS_TOPOLOGY="config.yml")
    assert started.text().count("unknown key, left out") == 12
    send(node, "a", 1)
    eventually(lambda: "consumed 0" in started.text())


def test_the_names_of_an_installed_amqp_dispatcher_stay(tmp_path: Path) -> None:
    (tmp_path / "amqpdispatcher").mkdir()
    (tmp_path / "amqpdispatcher" / "__init__.py").write_text("mine = True\n")
    program = "from oops_celery.dispatcher import compat\ncompat.install()\n"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "amqp-dispatcher is installed, and keeps its names" in done.stderr
