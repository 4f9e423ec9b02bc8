"""Helpers: parked reports on a real node, and the commands as programs of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kombu
import oops

from oops_celery import wire
from oops_celery.celery import app
from oops_celery.dead_letters import park
from oops_celery.dead_letters.filing import Filing, row_of
from oops_celery.dead_letters.letter import Content, read_letter
from oops_celery.dead_letters.letters import Choice, Letters
from oops_celery.repository.store import Repository
from oops_celery.topology.model import Topology
from oops_celery.transport.sender import Sender
from oops_celery.wire.task import TASK_NAME, body_of, task_options
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
    """Parks reports as the worker does, and files them, if there is a database."""

    def __init__(self, broker: Node, database: str | None = None) -> None:
        self.broker = broker
        self.database = database
        self._sender = Sender(lambda: kombu.Connection(broker.url), 20)
        declare(broker)
        if database:
            self._repository = Repository(database)
            self._repository.upgrade()
            self._filing = Filing(self._repository)

    def park(
        self,
        *reports: dict[str, Any],
        reason: str = "NotTaken: disk full",
        headers: dict[str, Any] | None = None,
    ) -> list[str]:
        """Park reports; return their ids."""
        ids = []
        with self._parked(len(reports)):
            for report in reports:
                encoded = wire.encode(report)
                options = task_options(
                    app, TASK_NAME, encoded.task_id, "(report)", retries=20
                )
                own = {**options.pop("headers"), **(headers or {})}
                self._send(encoded.body, reason, own, options)
                ids.append(encoded.id)
        return ids

    def park_body(self, body: bytes, queue: str = MAIN, **properties: Any) -> None:
        """Park what is no report."""
        headers = properties.pop("headers", {})
        with self._parked(1):
            self._send(body, "not a BSON document", headers, properties, queue)

    def put(self, body: bytes, **properties: Any) -> None:
        """Put a message into the queue of dead letters as it is."""
        with self._parked(1):
            self.broker.publish(DEAD, body, **properties)

    @contextmanager
    def _parked(self, number: int) -> Iterator[None]:
        if not self.database:  # a worker may take them at once
            yield
            return
        before = self.broker.count(DEAD)
        yield
        eventually(lambda: self.broker.count(DEAD) == before + number)
        self.file()

    def file(self) -> None:
        """File what is in the queue, as a worker does."""
        rows = []
        for message in self.broker.messages(DEAD):
            properties = dict(message.properties)
            headers = properties.pop("application_headers", {})
            content = Content(body_of(message), headers, properties)
            rows.append(row_of(read_letter(content, DEAD), content))
        before = len(self.letters())
        self._filing.store(rows)
        assert len(self.letters()) == before + len(rows)

    def letters(self) -> list[str]:
        """Return the ids of the dead letters in the database."""
        assert self.database
        with Letters(self.database) as letters:
            return [letter.id for letter in letters.choose(Choice())]

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
        if self.database:
            self._repository.engine().dispose()


class Command:
    """Runs ``oops-celery`` in a folder, against a node."""

    def __init__(self, folder: Path, url: str, **environ: str) -> None:
        self.folder = folder
        self.environ = environment(RABBITMQ_URL=url, **environ)
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
        self, *arguments: str, code: int | None = 0, answer: str = "", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; its exit code is `code`, and nothing is a traceback."""
        started = self.start(*arguments, env={**self.environ, **environ})
        out, err = started.communicate(answer, timeout=AT_ONCE)
        assert "Traceback (most recent call last):\n  File" not in err, err
        assert code in (None, started.returncode), (started.returncode, out, err)
        return subprocess.CompletedProcess(arguments, started.returncode, out, err)

    def json(self, *arguments: str, **options: Any) -> Any:
        return json.loads(self(*arguments, **options).stdout)


def ids_in(broker: Node, *queues: str) -> list[str]:
    """Take all messages out of queues; return the ids of the reports in them."""
    bodies = [message.body for queue in queues for message in broker.messages(queue)]
    return [wire.decode(body)["id"] for body in bodies]


def many(number: int, size: int = 100) -> Iterator[dict[str, Any]]:
    report = make_report(ValueError("many"), pad="x" * size)
    return ({**report, "number": each} for each in range(number))
