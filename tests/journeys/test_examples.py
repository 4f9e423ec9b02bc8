"""The examples, as somebody who tries them out runs them; each is made to fail."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from oops_celery import wire
from tests.support import ROOT, Node, environment, eventually

OOPS_ID = re.compile(r"OOPS-[0-9a-f]{32}")

Start = Callable[..., Path]


@pytest.fixture
def start(broker: Node, tmp_path: Path) -> Iterator[Start]:
    """Start programs, from the top of the repository; return where they write to."""
    started: list[subprocess.Popen[bytes]] = []

    def start_program(*arguments: str, **environ: str) -> Path:
        log = tmp_path / f"{len(started)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=ROOT,
                env=environment(**{"RABBITMQ_URL": broker.url, **environ}),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        started.append(process)
        return log

    yield start_program
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def answer(port: int, path: str) -> Iterator[tuple[int, str, Any]]:
    """Ask, as soon as somebody answers; yield status, text and headers."""

    def connected() -> HTTPConnection | None:
        connection = HTTPConnection("127.0.0.1", port, timeout=120)
        try:
            connection.connect()
        except ConnectionRefusedError:
            return None
        return connection

    connection = eventually(connected)
    headers = {"Cookie": "sessionid=s3cr3t", "Authorization": "Bearer s3cr3t"}
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    yield response.status, response.read().decode(), response.headers
    connection.close()


def the_report(broker: Node) -> dict[str, Any]:
    (message,) = broker.messages("oopses")
    return wire.decode(message.body)


def test_the_wsgi_application(start: Start, broker: Node) -> None:
    port = free_port()
    start("examples.wsgi_app", PORT=str(port))
    with answer(port, "/?item=tea") as (status, text, _):
        assert (status, text) == (200, "3")
    with answer(port, "/?item=coffee&token=s3cr3t") as (status, text, headers):
        assert status == 500
        (report_id,) = OOPS_ID.findall(text)
        assert headers["X-Oops-Id"] == report_id
    report = the_report(broker)
    assert report["id"] == report_id
    assert (report["type"], report["value"]) == ("KeyError", "'coffee'")
    assert report["url"].endswith("/?item=coffee&token=<scrubbed>")
    assert "s3cr3t" not in str(report)


def test_the_celery_application(start: Start, broker: Node) -> None:
    log = start("celery", "-A", "examples.celery_app", "worker", "-c", "1")
    sent = start("examples.celery_app", "a lot", "12")
    found = eventually(
        lambda: re.search(r"task shop.invoice\[(\S+)\] failed: (\S+)", log.read_text())
    )
    report = the_report(broker)
    assert (report["task"]["id"], report["id"]) == found.groups()
    assert report["task"]["id"] == sent.read_text().split()[0]
    assert report["topic"] == "shop.invoice"
    assert report["req_vars"] == {"amount": "'a lot'"}


def test_without_a_broker_what_the_shop_reports_is_kept(tmp_path: Path) -> None:
    """Requests, threads, scripts and tasks; `oops-celery resubmit` brings them on."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.shop"],
        cwd=tmp_path,
        env=environment(RABBITMQ_URL="amqp://127.0.0.1:1/", PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=True,
    )
    ids = OOPS_ID.findall(done.stdout)
    assert len(ids) == 4
    kept = tmp_path.glob("var/fallback/*/*")
    assert {wire.decode(path.read_bytes())["id"] for path in kept} == set(ids)
