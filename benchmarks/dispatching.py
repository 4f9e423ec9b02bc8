"""Messages through consumers: ours in threads and in the event loop; and the old."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import amqp
import psutil

from benchmarks.bench import HERE, PATIENCE, Bench

QUEUE = "dispatching"

FILE = """
queues:
  - queue: {queue}
    bindings: []
consumers:
  - consumer: jobs:{kind}
    queue: {queue}
    consumer_count: {count}
    prefetch_count: {prefetch}
"""

#: How an amqp-dispatcher is started; before 1.0 it needs gevent's patches.
OLD = "from amqpdispatcher.dispatcher import main; main()"
OLD_GEVENT = f"from gevent import monkey; monkey.patch_all(); {OLD}"


@dataclass(frozen=True)
class Contender:
    """A program that runs consumers."""

    name: str
    kind: str
    command: tuple[str, ...]

    @classmethod
    def old(cls, python: Path) -> Contender:
        """Return the amqp-dispatcher of an environment."""
        asked = "import amqpdispatcher; print(amqpdispatcher.__version__)"
        version = subprocess.check_output([python, "-c", asked], text=True).strip()
        is_async = int(version.partition(".")[0]) >= 1
        return cls(
            f"amqp-dispatcher {version}",
            "Async" if is_async else "Consumer",
            (
                *(str(python), "-c", OLD if is_async else OLD_GEVENT),
                *("--config", "dispatching.yml"),
                *(() if is_async else ("--connection", "pika")),
            ),
        )


CELERY = (str(Path(sys.executable).with_name("celery")), "-A", "oops_celery", "worker")
OURS = (Contender("threads", "Consumer", CELERY), Contender("loop", "Async", CELERY))


@dataclass(frozen=True)
class Run:
    """What was measured: messages a second, seconds of a message, bytes."""

    rate: float
    median: float
    memory: float


def run(
    bench: Bench,
    contender: Contender,
    *,
    messages: int,
    instances: int,
    seconds: float = 0.0,
    prefetch: int = 0,
    pause: float = 0.0,
) -> Run:
    """Consume messages.

    Args:
        bench: The broker and the folder.
        contender: What consumes.
        messages: How many.
        instances: The ``consumer_count``.
        seconds: How long each of them takes.
        prefetch: The ``prefetch_count``; 0 means twice that of instances.
        pause: Seconds between two messages; 0 means that all are there at the start.
    """
    _empty(bench)
    if not pause:
        _publish(bench, messages)
    with _running(bench, contender, messages, instances, seconds, prefetch) as process:
        if pause:
            _publish(bench, messages, pause)
        result = bench.folder / "result.json"
        deadline = time.monotonic() + PATIENCE
        while not result.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{contender.name} has not consumed everything")
            time.sleep(0.1)
        found = json.loads(result.read_text())
        family = [process_ := psutil.Process(process.pid)]
        family += process_.children(recursive=True)
        memory = sum(one.memory_full_info().pss for one in family)
    took = max(found["to"] - found["from"], 1e-6)
    return Run(messages * 0.9 / took, found["median"], memory)


@contextmanager
def _running(
    bench: Bench,
    contender: Contender,
    messages: int,
    instances: int,
    seconds: float,
    prefetch: int,
) -> Iterator[subprocess.Popen[bytes]]:
    (bench.folder / "result.json").unlink(missing_ok=True)
    shutil.copy(HERE / "jobs.py", bench.folder)
    (bench.folder / "dispatching.yml").write_text(
        FILE.format(
            queue=QUEUE,
            kind=contender.kind,
            count=instances,
            prefetch=prefetch or 2 * instances,
        )
    )
    process = subprocess.Popen(
        contender.command,
        cwd=bench.folder,
        env={
            **os.environ,
            "RABBITMQ_URL": bench.url,
            "RABBITMQ_HEARTBEAT": "60",
            "OOPS_TOPOLOGY": "dispatching.yml",
            "PYTHONPATH": ".",
            "COUNT": str(messages),
            "SECONDS": str(seconds),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()


def _empty(bench: Bench) -> None:
    with amqp.Connection(host=bench.host) as connection:
        channel = connection.channel()
        channel.queue_delete(QUEUE)
        channel.queue_declare(QUEUE, durable=True, auto_delete=False)


def _publish(bench: Bench, messages: int, pause: float = 0.0) -> None:
    with amqp.Connection(host=bench.host) as connection:
        channel = connection.channel()
        if pause:  # once somebody consumes
            while not channel.queue_declare(QUEUE, passive=True).consumer_count:
                time.sleep(0.1)
        for _ in range(messages):
            message = amqp.Message(str(time.time()), delivery_mode=2)
            channel.basic_publish(message, "", QUEUE)
            time.sleep(pause)
        channel.queue_declare(QUEUE, passive=True)  # all have arrived
