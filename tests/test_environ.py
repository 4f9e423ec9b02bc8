"""The application's environment around ours: its result backend, its Celery."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kombu
import pytest
from conftest import Node, Worker, eventually

from oops_celery import Publisher

StartWorker = Callable[..., Worker]

POOLS = ["prefork", "threads", "solo", "gevent", "eventlet"]

#: Nobody listens there.
CLOSED = "redis://127.0.0.1:1/0"


@pytest.fixture
def publish(broker: Node) -> Publisher:
    """Declares nothing: the worker does."""
    return Publisher(lambda: kombu.Connection(broker.url), "oopses", "")


def seen(worker: Worker, report_id: str) -> int:
    """Return how often a report came to the operator's config."""
    return len((worker.folder / f"seen-{report_id}").read_bytes())


# -- A result backend ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pool", "backend"),
    [*((pool, CLOSED) for pool in POOLS), ("solo", "no.such.module:Backend")],
)
def test_a_result_backend_is_not_used(
    broker: Node,
    worker: StartWorker,
    publish: Publisher,
    keeper: Any,
    pool: str,
    backend: str,
) -> None:
    """A refused report becomes one dead letter, a kept one a file."""
    settings = keeper(
        """
        if report["n"] < 5: raise OSError("disk full")
        return repository.publish(report)
        """
    )
    started = worker(
        *("-P", pool, "-c", "2"),
        **settings,
        OOPS_MAX_RETRIES="2",
        CELERY_RESULT_BACKEND=backend,
    )
    sent = [publish({"n": n})[0] for n in range(10)]
    eventually(lambda: broker.count("oopses.dead") == 5)
    eventually(lambda: len(started.files()) == 5)
    eventually(lambda: started.text().count("raised unexpected") == 5)
    started.stop()
    assert broker.count("oopses.dead") == 5
    assert [seen(started, one) for one in sent] == 5 * [3] + 5 * [1]
    for queue in ("oopses", "oopses.retry.1", "oopses.retry.2", "oopses.retry.3"):
        assert broker.count(queue) == 0
    # SAID


CONSUMER = """
from celery import signals

class Consumer:
    def consume(self, proxy, msg):
        open("consumed", "a").write(msg.body.decode())
        proxy.ack(msg) if msg.body == b"a" else None
"""


@pytest.mark.parametrize("pool", POOLS)
def test_a_message_of_a_consumer_is_consumed_once(
    broker: Node, worker: StartWorker, tmp_path: Path, pool: str
) -> None:
    (tmp_path / "mine.py").write_text(CONSUMER)
    (tmp_path / "topology.yml").write_text(
        "queues: [{queue: mine}]\n"
        "consumers: [{consumer: 'mine:Consumer', queue: mine, consumer_count: 1}]\n"
    )
    started = worker(
        *("-P", pool),
        OOPS_TOPOLOGY="topology.yml",
        PYTHONPATH=".",
        CELERY_RESULT_BACKEND=CLOSED,
    )
    for body in (b"a", b"b", b"a"):
        broker.publish("mine", body)
    consumed = tmp_path / "consumed"
    eventually(lambda: consumed.exists() and len(consumed.read_text()) == 3)
    eventually(lambda: started.text().count("succeeded in") == 3)
    started.stop()
    assert consumed.read_text() == "aba"
    assert broker.count("mine") == 0
    with broker.connect() as connection:
        connection.channel().queue_delete("mine")


#: What fails when a task has ended, in Celery's own code and in what it calls.
TROUBLES = {
    "a logging filter": """
        import logging
        def fails(record):
            if "oops_celery.republish" in record.getMessage():
                raise OSError("no room for a line")
            return True
        logging.getLogger("celery.app.trace").addFilter(fails)
    """,
    "a signal handler, gravely": """
        import asyncio
        from celery import signals
        def fails(**_): raise asyncio.CancelledError("after the end")
        for signal in (signals.task_postrun, signals.task_success, signals.task_retry,
                       signals.task_failure):
            signal.connect(fails, weak=False)
    """,
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_is_settled_is_not_settled_again(
    broker: Node,
    worker: StartWorker,
    publish: Publisher,
    keeper: Any,
    tmp_path: Path,
    pool: str,
    trouble: str,
) -> None:
    settings = keeper(
        """
        if report["n"] == 0: raise OSError("disk full")
        return repository.publish(report)
        """
    )
    with (tmp_path / "keeper.py").open("a") as file:
        file.write(textwrap.dedent(TROUBLES[trouble]))
    started = worker(*("-P", pool, "-c", "2"), **settings, OOPS_MAX_RETRIES="2")
    sent = [publish({"n": n})[0] for n in range(2)]
    eventually(lambda: broker.count("oopses.dead") == 1)
    eventually(lambda: len(started.files()) == 1)
    started.stop()
    assert [seen(started, one) for one in sent] == [3, 1]
    assert broker.count("oopses.dead") == 1
    for queue in ("oopses", "oopses.retry.1", "oopses.retry.2", "oopses.retry.3"):
        assert broker.count(queue) == 0
    assert "after that Celery failed" in started.text()
