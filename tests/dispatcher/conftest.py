"""A node without the queues of these tests, and a worker with a topology."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import Node, Worker
from tests.support.dispatching import NOTE, NOTIFY_QUEUES, QUEUES

StartWorker = Callable[..., Worker]


@pytest.fixture
def node(broker: Node) -> Iterator[Node]:
    def clean() -> None:
        with broker.connect() as connection:
            for queue in (*QUEUES, *NOTIFY_QUEUES):
                connection.channel().queue_delete(queue)
            connection.channel().exchange_delete("notify")

    clean()
    yield broker
    clean()


@pytest.fixture
def dispatcher(
    node: Node, worker: StartWorker, tmp_path: Path
) -> Callable[..., Worker]:
    """Start a worker with a topology and with a module ``workers``."""

    def start(topology: str, source: str, *options: str, **environ: str) -> Worker:
        (tmp_path / "work.yml").write_text(topology)
        (tmp_path / "workers.py").write_text(NOTE + textwrap.dedent(source))
        return worker(*options, OOPS_TOPOLOGY="work.yml", **environ)

    return start
