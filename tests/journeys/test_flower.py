"""Flower, as a real process: a report is found by its id, and no secret is shown."""

from __future__ import annotations

import json
import re
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
from prometheus_client.parser import text_string_to_metric_families

from oops_celery import Publisher, wire
from tests.support import ROOT, Node, Worker, environment, eventually

CELERY = [str(Path(sys.executable).with_name("celery")), "-A", "oops_celery", "flower"]


OURS = [sys.executable, "-m", "oops_celery", "flower"]


@pytest.fixture
def flower(
    broker: Node, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[str]:
    """The address of a Flower that has heard of the worker."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with (tmp_path / "flower.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *getattr(request, "param", CELERY),
                f"--port={port}",
                "--address=127.0.0.1",
            ],
            cwd=tmp_path,
            env=environment(RABBITMQ_URL=broker.url, FLOWER_UNAUTHENTICATED_API="1"),
            stdout=log,
            stderr=log,
        )
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(120)


def fetch(url: str) -> str:
    try:
        with urlopen(url, timeout=120) as answer:
            return answer.read().decode()
    except (URLError, OSError):
        return ""


def test_reports_of_old_and_new_programs_are_tasks_by_their_ids(
    broker: Node, worker: Callable[..., Worker], flower: str, old_python: Path
) -> None:
    """Mixed on one queue: each arrives once, under the id its publisher returned."""
    started = worker("-c", "2")
    eventually(lambda: "true" in fetch(f"{flower}/api/workers?status=1"))
    program = f"""
import functools, amqp, oops_amqp
factory = functools.partial(amqp.Connection, host={broker.host!r})
publisher = oops_amqp.Publisher(factory, "oopses", "")
for n in range(50):
    print(*publisher({{"type": "OldError", "n": n}}), flush=True)
# Unconfirmed: what is on its way when the connection ends may be lost.
input()
"""
    publish = Publisher(lambda: kombu.Connection(broker.url), "oopses", "", timeout=60)
    # Before a new queue has its leader, RabbitMQ drops what is published unconfirmed.
    sent = publish({"type": "NewError", "n": 0})
    old = subprocess.Popen(
        [old_python, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert old.stdout is not None
    sent += [publish({"type": "NewError", "n": n})[0] for n in range(1, 50)]
    sent += [old.stdout.readline().strip() for _ in range(50)]
    assert len(set(sent)) == 100
    eventually(lambda: len(started.files()) == 100)
    old.communicate("\n", timeout=120)
    assert {wire.decode(path.read_bytes())["id"] for path in started.files()} == set(
        sent
    )

    def tasks() -> Any:
        known = json.loads(fetch(f"{flower}/api/tasks?limit=1000") or "{}")
        good = {key for key, task in known.items() if task["state"] == "SUCCESS"}
        return known if good == set(sent) else None

    known = eventually(tasks)
    assert {task["args"] for task in known.values()} == {"(OldError)", "(NewError)"}


@pytest.mark.parametrize("flower", [CELERY, OURS], indirect=True, ids=["-A", "ours"])
def test_a_report_is_found_by_its_id_and_no_secret_is_shown(
    broker: Node, worker: Callable[..., Worker], flower: str
) -> None:
    worker("-c", "1")
    eventually(lambda: "true" in fetch(f"{flower}/api/workers?status=1"))
    publish = Publisher(lambda: kombu.Connection(broker.url), "oopses", "", timeout=60)
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
        # Flower asks the worker, which has a second to answer.
        eventually(lambda page=page: fetch(f"{flower}/{page}"))
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
    assert report_id in pages[0]
    # By the flowerconfig.py that the package has: there is none in this folder.
    assert '<th data-column="result">' in pages[3]
    assert '<th data-column="name">' not in pages[3]
    assert not any("s3cr3t" in page for page in pages)


def test_every_metric_of_the_dashboard_and_of_the_docs_is_exported(
    broker: Node, worker: Callable[..., Worker], flower: str
) -> None:
    """By Flower, or by ``oops-celery metrics``."""
    worker("-c", "1")
    eventually(lambda: "true" in fetch(f"{flower}/api/workers?status=1"))
    Publisher(lambda: kombu.Connection(broker.url), "oopses", "", timeout=60)(
        {"type": "Error"}
    )
    eventually(lambda: "flower_task_runtime_seconds_c" in fetch(f"{flower}/metrics"))
    # Heartbeats, which come every two seconds, have the rest.
    eventually(lambda: "currently_executing_tasks{" in fetch(f"{flower}/metrics"))
    queues = subprocess.run(
        [sys.executable, "-m", "oops_celery.cli", "metrics", "--once"],
        env=environment(RABBITMQ_URL=broker.url),
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    ).stdout
    exported = {
        sample.name
        for text in (fetch(f"{flower}/metrics"), queues)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    metric = re.compile(r"\b(?:flower|oops_celery)_[a-z_]+\b")
    board = json.loads((ROOT / "examples/grafana-dashboard.json").read_text())
    asked = [each["expr"] for panel in board["panels"] for each in panel["targets"]]
    shown = set(metric.findall("\n".join(asked)))
    assert any(name.startswith("flower_") for name in shown)
    assert any(name.startswith("oops_celery_") for name in shown)
    assert shown <= exported
    told = set(metric.findall((ROOT / "docs/monitoring.md").read_text()))
    assert told <= exported
    own = {name for name in exported if name.startswith("oops_celery_")}
    assert own <= told  # each is explained


def test_a_flowerconfig_of_ones_own_comes_first(tmp_path: Path) -> None:
    """And an application with an app of its own keeps Flower's defaults."""
    (tmp_path / "own.py").write_text(
        "import celery, oops_celery.celery; app = celery.Celery()"
    )
    look = (
        "import os, sys; from celery.bin.celery import celery;"
        "celery.commands['flower'].callback = lambda **_: print(os.environ.get("
        "'FLOWER_CONF')); celery.main(['-A', sys.argv[1], 'flower'])"
    )

    def conf(app: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", look, app],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    assert conf("oops_celery").endswith("oops_celery/operations/flowerconfig.py")
    assert conf("own") == "None"
    (tmp_path / "flowerconfig.py").touch()
    assert conf("oops_celery") == "None"


def test_options_that_flower_would_leave_out_are_errors() -> None:
    for option, expected in (
        ("--prot=1", "Did you mean '--port'?"),
        ("--port=x", "'--port=x': "),
        ("--port=-1", "must be from 0 to 65535"),
        ("5555", "write --option=value"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "oops_celery", "flower", option],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert expected in done.stderr.splitlines()[-1]
