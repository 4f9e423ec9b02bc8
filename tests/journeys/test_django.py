"""A Django project with a Celery app of its own: the example, as it is run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from oops_celery import wire
from oops_celery.repository.queries import Reports
from tests.support import ROOT, Node, environment, eventually

OOPS_ID = re.compile(r"OOPS-[0-9a-f]{32}")
NO_BROKER = "amqp://127.0.0.1:1/"

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "examples/django_project", tmp_path / "project"))


@pytest.fixture
def start(project: Path, broker: Node) -> Iterator[Start]:
    """Start one of the project's programs; its output goes to ``log``."""
    started: list[subprocess.Popen[bytes]] = []

    def start_program(*arguments: str, **environ: str) -> subprocess.Popen[bytes]:
        with (project / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=project,
                env=environment(**{"RABBITMQ_URL": broker.url, **environ}),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield start_program
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


SERVERS = {
    "runserver": ("manage.py", "runserver", "--noreload", "{port}"),
    "reloading": ("manage.py", "runserver", "{port}"),
    "gunicorn": ("-m", "gunicorn", "-w", "2", "-b", "127.0.0.1:{port}", "webshop.wsgi"),
    "preload": (
        *("-m", "gunicorn", "--preload", "-w", "2"),
        *("-b", "127.0.0.1:{port}", "webshop.wsgi"),
    ),
    "threads": (
        *("-m", "gunicorn", "--threads", "4"),
        *("-b", "127.0.0.1:{port}", "webshop.wsgi"),
    ),
    "gevent": (
        *("-m", "gunicorn", "-k", "gevent"),
        *("-b", "127.0.0.1:{port}", "webshop.wsgi"),
    ),
}


def serve(start: Start, server: str, **environ: str) -> int:
    port = free_port()
    start(*(word.format(port=port) for word in SERVERS[server]), **environ)
    return port


def ask(port: int, path: str) -> tuple[int, str, Any]:
    def answer() -> tuple[int, str, Any] | None:
        connection = HTTPConnection("127.0.0.1", port, timeout=120)
        headers = {"Cookie": "sessionid=s3cr3t", "Authorization": "Bearer s3cr3t"}
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read().decode(), response.headers
        except ConnectionRefusedError:
            return None
        finally:
            connection.close()

    return eventually(answer)  # type: ignore[no-any-return]


@pytest.mark.parametrize("server", SERVERS)
def test_a_request_that_fails_is_a_report(
    start: Start, broker: Node, server: str
) -> None:
    port = serve(start, server)
    status, text, headers = ask(port, "/?item=tea")
    assert (status, text, headers["X-Oops-Id"]) == (200, "3", None)
    assert ask(port, "/gone")[0] == 404
    status, text, headers = ask(port, "/?item=coffee&token=s3cr3t")
    assert status == 500
    assert "<h1>Something went wrong</h1>" in text
    (report_id,) = OOPS_ID.findall(text)
    assert headers["X-Oops-Id"] == report_id
    (message,) = broker.messages("oopses")
    report = wire.decode(message.body)
    assert report["id"] == report_id
    assert (report["type"], report["topic"]) == ("KeyError", "checkout")
    assert "in checkout" in report["tb_text"]
    assert report["url"] == "/?item=coffee&token=<scrubbed>"
    assert report["req_vars"]["REQUEST_METHOD"] == "GET"
    assert report["req_vars"]["Cookie"] == "<scrubbed>"
    assert "s3cr3t" not in str(report)


def test_the_page_of_debug_has_the_id_in_a_header(start: Start, broker: Node) -> None:
    port = serve(start, "runserver", DEBUG="1")
    status, _, headers = ask(port, "/?item=coffee")
    assert (status, broker.count("oopses")) == (500, 1)
    assert OOPS_ID.fullmatch(headers["X-Oops-Id"])


def test_without_a_broker_the_report_is_kept(
    start: Start, project: Path, broker: Node
) -> None:
    port = serve(start, "runserver", RABBITMQ_URL=NO_BROKER)
    status, text, _ = ask(port, "/?item=coffee")
    assert status == 500
    (report_id,) = OOPS_ID.findall(text)
    (path,) = project.glob("var/fallback/*/*")
    assert wire.decode(path.read_bytes())["id"] == report_id
    command = [sys.executable, "-m", "oops_celery.cli", "resubmit", "var/fallback"]
    environ = environment(
        RABBITMQ_URL=broker.url, DJANGO_SETTINGS_MODULE="webshop.settings"
    )
    subprocess.run(command, cwd=project, env=environ, check=True, timeout=120)
    (message,) = broker.messages("oopses")
    assert message.headers["id"] == report_id


def test_a_task_of_the_projects_own_app_that_fails(
    start: Start, project: Path, broker: Node
) -> None:
    start("-m", "celery", "-A", "webshop", "worker", "-c", "1", "-l", "INFO")
    port = serve(start, "gunicorn")
    status, task_id, _ = ask(port, "/invoice?amount=a%20lot")
    assert status == 200
    eventually(lambda: "failed: OOPS-" in (project / "log").read_text())
    (message,) = broker.messages("oopses")
    report = wire.decode(message.body)
    assert report["task"]["id"] == task_id
    assert (report["topic"], report["type"]) == ("webshop.tasks.invoice", "ValueError")


def test_our_worker_and_commands_with_the_settings_of_django(
    start: Start, project: Path, broker: Node
) -> None:
    """As where one environment file is read by all services of a machine."""
    django = {"DJANGO_SETTINGS_MODULE": "webshop.settings"}
    start(
        "-m", "celery", "-A", "oops_celery", "worker", "-c", "1", "-l", "INFO", **django
    )
    eventually(lambda: " ready." in (project / "log").read_text())
    port = serve(start, "runserver", **django)
    _, text, _ = ask(port, "/?item=coffee")
    (report_id,) = OOPS_ID.findall(text)
    with Reports(f"sqlite:///{project}/oopses.db") as reports:
        eventually(lambda: reports.find(report_id))

    def command(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "oops_celery.cli", *words],
            cwd=project,
            env=environment(RABBITMQ_URL=broker.url, **django),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done.stdout

    assert "KeyError" in command("show", report_id)
    assert "broker" in command("doctor").lower()
    assert command("dead", "list") == ""  # there are none


@pytest.mark.parametrize("first", ["import webshop, oops_celery", "import oops_celery"])
def test_the_default_app_stays_the_projects(project: Path, first: str) -> None:
    """Also in threads, which know the default app alone."""
    program = f"""
{first}
import threading, django, celery
oops_celery.publisher, oops_celery.app, oops_celery.report_failures
from webshop.celery import app
django.setup()
from webshop.tasks import invoice
def look():
    assert celery.current_app._get_current_object() is app
    assert invoice.app is app
    assert "webshop.tasks.invoice" in app.tasks
thread = threading.Thread(target=look)
look()
thread.start()
thread.join()
oops_celery.publisher({{"k": 1}})
look()
assert oops_celery.app.conf.task_default_queue == "oopses"
assert app.conf.task_default_queue == "webshop"
print("fine")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=project,
        env=environment(
            DJANGO_SETTINGS_MODULE="webshop.settings", RABBITMQ_URL=NO_BROKER
        ),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.stdout == "fine\n", done.stderr
