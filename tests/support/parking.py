"""Helpers: parked reports on a real node, and the commands as programs of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kombu
import oops

from oops_celery import wire
from oops_celery.celery import app
from oops_celery.dead_letters import park
from oops_celery.topology.model import Topology
from oops_celery.transport.sender import Sender
from oops_celery.wire.task import TASK_NAME, task_options
from tests.support import Node, environment, eventually

DEAD = "oopses.dead"
MAIN = "oopses"
RETRY = "oopses.retry.1"

#: Seconds that a command may take, whatever the broker does.
AT_ONCE = 30.0


def declare(broker: Node) -> None:
    with kombu.Connection(broker.url) as connection:
        assert Topology.load().declare(connection.channel) == []


def make_report(error: Exception, **more: Any) -> dict[str, Any]:
    try:
        raise error
    except Exception as raised:
        info = (type(raised), raised, raised.__traceback__)
        report: dict[str, Any] = oops.Config().create({"exc_info": info})
    return {**report, "topic": "shop", **more}


class Parking:
    """Parks reports as the worker does."""

    def __init__(self, broker: Node) -> None:
        self.broker = broker
        self._sender = Sender(lambda: kombu.Connection(broker.url), 20)
        declare(broker)

    def park(
        self,
        *reports: dict[str, Any],
        reason: str = "NotTaken: disk full",
        headers: dict[str, Any] | None = None,
    ) -> list[str]:
        """Park reports; return their ids."""
        before = self.broker.count(DEAD)
        ids = []
        for report in reports:
            encoded = wire.encode(report)
            options = task_options(
                app, TASK_NAME, encoded.task_id, "(report)", retries=20
            )
            own = {**options.pop("headers"), **(headers or {})}
            self._send(encoded.body, reason, own, options)
            ids.append(encoded.id)
        eventually(lambda: self.broker.count(DEAD) == before + len(reports))
        return ids

    def park_body(self, body: bytes, queue: str = MAIN, **properties: Any) -> None:
        """Park what is no report."""
        before = self.broker.count(DEAD)
        headers = properties.pop("headers", {})
        self._send(body, "not a BSON document", headers, properties, queue)
        eventually(lambda: self.broker.count(DEAD) == before + 1)

    def _send(
        self,
        body: bytes,
        reason: str,
        headers: dict[str, Any],
        properties: dict[str, Any],
        queue: str = MAIN,
    ) -> None:
        park.send(
            self._sender,
            (DEAD, ""),
            queue,
            body,
            reason,
            headers=headers,
            properties=properties,
            attempts=21,
            error=ValueError("of the worker"),
        )

    def close(self) -> None:
        self._sender.close()


class Command:
    """Runs ``oops-celery`` in a folder, against a node."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.environ = environment(RABBITMQ_URL=url)
        self.environ.pop("COLUMNS", None)

    def start(self, *arguments: str, **more: Any) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, "-m", "oops_celery.cli", *arguments],
            **{
                "cwd": self.folder,
                "env": self.environ,
                "stdin": pipe,
                "stdout": pipe,
                "stderr": pipe,
                "text": True,
                **more,
            },
        )

    def __call__(
        self, *arguments: str, code: int = 0, answer: str = "", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; its exit code is `code`, and nothing is a traceback."""
        started = self.start(*arguments, env={**self.environ, **environ})
        out, err = started.communicate(answer, timeout=AT_ONCE)
        assert "Traceback (most recent call last):\n  File" not in err, err
        assert started.returncode == code, (started.returncode, out, err)
        return subprocess.CompletedProcess(arguments, code, out, err)

    def json(self, *arguments: str, **options: Any) -> Any:
        return json.loads(self(*arguments, **options).stdout)


def ids_in(broker: Node, *queues: str) -> list[str]:
    """Take all messages out of queues; return the ids of the reports in them."""
    bodies = [message.body for queue in queues for message in broker.messages(queue)]
    return [wire.decode(body)["id"] for body in bodies]


def many(number: int, size: int = 100) -> Iterator[dict[str, Any]]:
    report = make_report(ValueError("many"), pad="x" * size)
    return ({**report, "number": each} for each in range(number))
