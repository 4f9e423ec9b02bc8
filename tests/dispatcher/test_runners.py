"""Where consumers run: in threads and in one event loop, of the worker itself."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from tests.support import Node, Worker, eventually
from tests.support.dispatching import WORK, notes, send

StartDispatcher = Callable[..., Worker]

TEN = WORK.replace("consumer_count: 2", "consumer_count: 10")

LASTING = """
import asyncio

async def start():
    note("started in", id(asyncio.get_running_loop()))

class Consumer:
    connection = None

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        if Consumer.connection is None:
            Consumer.connection = asyncio.Queue()
            self.task = asyncio.create_task(self.beat())
        note("made in", id(self.loop))

    async def beat(self):
        while True:
            await Consumer.connection.put("beat")
            await asyncio.sleep(0.05)

    async def consume(self, amqp, msg):
        assert asyncio.get_running_loop() is self.loop
        if msg.text == "fails" and not msg.delivery_info["redelivered"]:
            raise ValueError("as asked")
        await Consumer.connection.get()
        await amqp.publish(exchange_name="", routing_key="other", headers={}, body=b"x")
        note(msg.text, os.getpid())
"""


def test_one_event_loop_goes_on_between_messages_and_after_failures(
    node: Node, dispatcher: StartDispatcher
) -> None:
    """Without a shutdown method; the startup handler is a coroutine in that loop."""
    file = "startup_handler: workers:start\n" + TEN
    started = dispatcher(file, LASTING)
    send(node, "work", "fails", *["good"] * 30)
    eventually(
        lambda: Counter(each.split()[0] for each in notes(started))["good"] == 30
    )
    eventually(lambda: any(each.startswith("fails") for each in notes(started)))
    made = {each.split()[-1] for each in notes(started) if " in " in each}
    assert len(made) == 1
    pids = {each.split()[-1] for each in notes(started) if " in " not in each}
    assert pids == {str(started.process.pid)}
    assert "startup_handler workers:start has run" in started.text()
    eventually(lambda: node.count("other") == 31)
    started.stop()
    assert started.process.returncode == 0
    assert node.count("work") == 0
    assert "Task was destroyed" not in started.text()


CONCURRENT = """
import asyncio
at_work = most = 0

class Async:
    async def consume(self, amqp, msg):
        global at_work, most
        at_work += 1
        most = max(most, at_work)
        while at_work < 10 and most < 10:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        at_work -= 1
        note("most", most)

import threading
lock = threading.Lock()
together = threading.Barrier(10)

class Sync:
    def consume(self, amqp, msg):
        global at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        together.wait(120)
        with lock:
            at_work -= 1
        note("most", most)
"""


@pytest.mark.parametrize("kind", ["Sync", "Async"])
def test_as_many_at_once_as_there_are_instances(
    node: Node, dispatcher: StartDispatcher, kind: str
) -> None:
    """Neither fewer, for which they would wait in vain, nor more."""
    file = TEN.replace("workers:Consumer", f"workers:{kind}").replace(
        "prefetch_count: 10", "prefetch_count: 100"
    )
    started = dispatcher(file, CONCURRENT)
    send(node, "work", *["x"] * 100)
    eventually(lambda: len(notes(started)) == 100)
    assert set(notes(started)) == {"most 10"}
    eventually(lambda: node.count("work") == 0)


FAILING = """
import asyncio

class Consumer:
    async def consume(self, amqp, msg):
        note(time.monotonic(), msg.text)
        raise ValueError("always")

class Sync:
    def consume(self, amqp, msg):
        note(time.monotonic(), msg.text)
        amqp.nack()

class Unmade:
    def __init__(self):
        note(time.monotonic(), "made")
        raise OSError("no database")
    def consume(self, amqp, msg): pass
"""


@pytest.mark.parametrize("key", ["", "    prefork: true\n"])
@pytest.mark.parametrize("kind", ["Consumer", "Sync", "Unmade"])
def test_a_message_that_goes_back_again_and_again_waits_longer_each_time(
    node: Node, dispatcher: StartDispatcher, kind: str, key: str
) -> None:
    """And SIGTERM does not wait for it."""
    file = WORK.replace("workers:Consumer", f"workers:{kind}") + key
    started = dispatcher(file, FAILING, OOPS_SHUTDOWN_TIMEOUT="300")
    send(node, "work", "x")
    eventually(lambda: len(notes(started)) >= 5)
    times = [float(each.split()[0]) for each in notes(started)[:5]]
    pauses = [after - before for before, after in pairwise(times)]
    # At once; after 0.5 s; then for as long as it has gone back.
    assert pauses[1] >= 0.5
    assert pauses[2] >= 0.5
    assert pauses[3] >= pauses[1] + pauses[2]
    if not key:  # one a minute, and its cause; Celery tells more of a process
        assert started.text().count("Traceback") <= 2
    begun = time.monotonic()
    started.process.terminate()
    started.process.wait(120)
    assert time.monotonic() - begun < 120
    assert node.count("work") == 1


def test_the_end_of_a_worker_waits_for_consumers_no_longer_than_it_should(
    node: Node, dispatcher: StartDispatcher
) -> None:
    """One ends in time, and is acknowledged; the other never does, and goes back."""
    started = dispatcher(
        WORK,
        """
        class Consumer:
            def consume(self, amqp, msg):
                note("begun", msg.text)
                while msg.text == "for ever" or not os.path.exists("go on"):
                    time.sleep(0.01)
                note("done", msg.text)
        """,
        OOPS_SHUTDOWN_TIMEOUT="3",
    )
    send(node, "work", "for ever", "a while")
    eventually(lambda: len(notes(started)) == 2)
    started.process.send_signal(signal.SIGTERM)
    (started.folder / "go on").touch()
    started.process.wait(120)
    assert "done a while" in notes(started)
    assert [message.body for message in node.messages("work")] == [b"for ever"]
    assert "some consumers have not ended" in started.text()


#: Messages from the 1,500th on wait for the file gate2, from the 3,000th on for gate3,
#: from the 4,500th on for gate4: so there is always something left to do.
COUNTING = """
import threading
at_work = 0
lock = threading.Lock()

def is_held(msg):
    gate = int(msg.text) // 1500 + 1
    return gate > 1 and not os.path.exists(f"gate{gate}")

class Consumer:
    def consume(self, amqp, msg):
        global at_work
        with lock:
            at_work += 1
            assert at_work <= 10
        while is_held(msg):
            time.sleep(0.01)
        note(msg.text)
        with lock:
            at_work -= 1

import asyncio
class Async:
    async def consume(self, amqp, msg):
        global at_work
        at_work += 1
        assert at_work <= 10
        while is_held(msg):
            await asyncio.sleep(0.01)
        note(msg.text)
        at_work -= 1
"""


@pytest.mark.restarts
@pytest.mark.parametrize("kind", ["Consumer", "Async"])
def test_nothing_is_lost_whatever_ends(
    node: Node, dispatcher: StartDispatcher, kind: str
) -> None:
    """``kill -9``, a restart of the broker, and SIGTERM, each under load."""
    file = TEN.replace("prefetch_count: 10", "prefetch_count: 50").replace(
        "workers:Consumer", f"workers:{kind}"
    )
    started = dispatcher(file, COUNTING)
    total = 6000
    send(node, "work", *map(str, range(total)))

    def done() -> int:
        return len(set(notes(started)))

    def until(gate: int) -> None:
        (started.folder / f"gate{gate}").touch()
        eventually(lambda: done() > 1500 * gate - 500)

    until(1)
    started.kill()
    started.restart()
    until(2)
    node.restart()
    until(3)
    (started.folder / "gate4").touch()
    started.stop()
    assert started.process.returncode == 0
    unacknowledged = node.ctl("list_queues", "-q", "name", "messages_unacknowledged")
    assert "work\t0" in unacknowledged
    assert done() + node.count("work") >= total
    started.restart()
    eventually(lambda: done() == total, 180)
    eventually(lambda: node.count("work") == 0)
    assert "AssertionError" not in started.text()
    # What was acknowledged is not done again: a batch for each of the three ends.
    assert len(notes(started)) <= total + 3 * 50
    started.stop()


def test_fifty_instances_need_no_fifty_processes(
    node: Node, dispatcher: StartDispatcher
) -> None:
    file = WORK.replace("consumer_count: 2", "consumer_count: 50")
    started = dispatcher(
        file,
        """
        class Consumer:
            def consume(self, amqp, msg):
                note(msg.text)
        """,
    )
    send(node, "work", *map(str, range(500)))
    eventually(lambda: len(notes(started)) == 500)
    worker = psutil.Process(started.process.pid)
    processes = [worker, *worker.children(recursive=True)]
    assert len(processes) <= 4
    assert sum(each.memory_full_info().pss for each in processes) < 200e6


@pytest.mark.slow
def test_a_revoked_message_is_not_consumed(
    node: Node, dispatcher: StartDispatcher, tmp_path: Path
) -> None:
    """Celery knows each one as a task, before it is begun and while it is at work."""
    from celery import Celery

    started = dispatcher(
        WORK.replace("consumer_count: 2", "consumer_count: 1"),
        """
        class Consumer:
            def consume(self, amqp, msg):
                note(msg.text)
                while not os.path.exists("go on"):
                    time.sleep(0.01)
        """,
    )
    send(node, "work", "first")
    eventually(lambda: notes(started) == ["first"])
    send(node, "work", "second")
    inspect = Celery(broker=node.url).control.inspect(timeout=5)

    def reserved() -> list[str]:
        return [
            task["id"]
            for tasks in (inspect.reserved() or {}).values()
            for task in tasks
            if task["name"] == "workers:Consumer"
        ]

    (second,) = eventually(reserved)
    (active,) = [one for all_ in inspect.active().values() for one in all_]
    assert active["name"] == "workers:Consumer"
    control = Celery(broker=node.url).control
    eventually(lambda: control.revoke([second], reply=True, timeout=5))
    control.revoke([active["id"]], terminate=True, reply=True, timeout=5)
    eventually(lambda: "is not ended: prefork: true would" in started.text())
    (tmp_path / "go on").touch()
    eventually(lambda: node.count("work") == 0)
    eventually(lambda: "Discarding revoked task" in started.text())
    started.stop()
    assert started.process.returncode == 0
    assert notes(started) == ["first"]


def test_the_startup_handler_runs_where_its_consumers_do(
    node: Node, dispatcher: StartDispatcher
) -> None:
    """A thread that it starts is there: in the worker, and in a process of the pool."""
    source = """
    import threading
    ready = threading.Event()
    def start():
        threading.Thread(target=ready.set, daemon=True).start()
        mine = threading.Thread(target=time.sleep, args=(600,), name="mine")
        mine.daemon = True
        mine.start()
    class Consumer:
        def consume(self, amqp, msg):
            names = [each.name for each in threading.enumerate()]
            note("mine" in names, ready.wait(5), os.getpid())
    """
    for key in ("", "    prefork: true\n"):
        started = dispatcher(f"startup_handler: workers:start\n{WORK}{key}", source)
        send(node, "work", "x")
        (line,) = eventually(lambda started=started: notes(started))
        alive, ready, pid = line.split()
        assert (alive, ready) == ("True", "True")
        assert (int(pid) == started.process.pid) is (not key)
        started.stop()
        os.remove(started.folder / "notes")
