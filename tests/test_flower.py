"""Flower, as a real process: a report is found by its id, and no secret is shown."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import kombu
import pytest
from conftest import Node, Worker, environment, eventually

from oops_celery import Publisher


@pytest.fixture
def flower(broker: Node, tmp_path: Path) -> Iterator[str]:
    """The address of a Flower that has heard of the worker."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with (tmp_path / "flower.log").open("wb") as log:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("celery"), "-A", "oops_celery", "flower"]
            + [f"--port={port}", "--address=127.0.0.1"],
            cwd=tmp_path,
            env=environment(RABBITMQ_URL=broker.url, FLOWER_UNAUTHENTICATED_API="1"),
            stdout=log,
            stderr=log,
        )
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(30)


def fetch(url: str) -> str:
    try:
        with urlopen(url, timeout=5) as answer:
            return answer.read().decode()
    except (URLError, OSError):
        return ""


def test_a_report_is_found_by_its_id_and_no_secret_is_shown(
    broker: Node, worker: Callable[..., Worker], flower: str
) -> None:
    worker("-c", "1")
    eventually(lambda: "true" in fetch(f"{flower}/api/workers?status=1"))
    publish = Publisher(lambda: kombu.Connection(broker.url), "oopses", "")
    report = {
        "type": "ValueError",
        "value": "s3cr3t",
        "topic": "checkout",
        "req_vars": {"password": "s3cr3t"},
    }
    (report_id,) = publish(report)

    def task() -> Any:
        text = fetch(f"{flower}/api/task/info/{report_id}")
        known = json.loads(text) if text else {}
        return known if known.get("state") == "SUCCESS" else None

    known = eventually(task)
    assert known["name"] == "oops_celery.republish"
    assert known["args"] == "(ValueError, topic=checkout)"
    assert report_id in known["result"]
    pages = [
        fetch(f"{flower}/{page}")
        for page in (
            f"task/{report_id}",
            f"api/task/info/{report_id}",
            "api/tasks",
            "tasks",
            "workers",
            "api/workers?refresh=1",
            "worker/w@" + socket.gethostname(),
            "metrics",
        )
    ]
    assert all(pages)
    assert report_id in pages[0]
    assert not any("s3cr3t" in page for page in pages)
