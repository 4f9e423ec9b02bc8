"""``make run``, as a newcomer has it: without any server."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from oops_celery import wire
from oops_celery.repository.queries import Reports
from tests.support import ROOT, Node, Worker, environment, eventually


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that the tour needs, in a folder of its own."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copy(ROOT / "celeryconfig.py", tmp_path)
    return tmp_path


@pytest.fixture
def tour(checkout: Path) -> Iterator[subprocess.Popen[str]]:
    process = start(checkout)
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)  # it ends the worker and Flower


def start(folder: Path, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "examples.tour"],
        cwd=folder,
        env=environment(**environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def read_until(process: subprocess.Popen[str], last: str) -> str:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if last in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


def assert_shown_reports_are_real(text: str, folder: Path) -> None:
    found = re.findall(r"id +(\S+)\n +show +\S+ show (\S+)\n +page +(\S+)", text)
    assert len(found) == 4
    types = set()
    for report_id, part, page in found:
        with Reports(f"sqlite:///{folder}/var/oopses.db") as reports:
            (stored,) = reports.find(part)
        report = wire.decode(stored.body)
        assert report["id"] == report_id
        assert report["tb_text"]
        types.add(report["type"])
        assert page.endswith(f"/{report_id}")
        flower = re.search(r"(http://localhost:\d+)/tasks", text)
        assert flower is not None
        with urlopen(f"{flower[1]}/api/task/info/{report_id}") as answer:
            task = json.load(answer)
        assert task["state"] == "SUCCESS"
        assert task["args"].startswith(f"({report['type']}, ")
        with urlopen(page) as answer:
            shown = answer.read().decode()
        assert report_id in shown
        assert report["type"] in shown
        assert "Traceback" in shown
    assert types == {"KeyError", "IndexError", "FileNotFoundError", "ValueError"}


def test_every_report_that_is_shown_is_real(
    tour: subprocess.Popen[str], checkout: Path
) -> None:
    text = read_until(tour, "Ctrl-C ends")
    assert "it is for one machine and for trying out" in text
    assert "RABBITMQ_URL=amqp://" in text
    assert_shown_reports_are_real(text, checkout)


def test_commands_in_another_terminal_look_at_it(
    tour: subprocess.Popen[str], checkout: Path
) -> None:
    text = read_until(tour, "Ctrl-C ends")
    ids = re.findall(r"id +(\S+)", text)

    def command(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "oops_celery.cli", *words],
            cwd=checkout,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert json.loads(command("show", ids[0], "--json"))["id"] == ids[0]
    checks = json.loads(command("doctor", "--json"))["checks"]
    assert {one["check"]: one["state"] for one in checks} == {
        "broker": "unknown",
        "workers": "ok",
        "bson": "ok",
        "repository": "ok",
    }
    groups = json.loads(command("report", "--json"))["groups"]
    assert sum(group["count"] for group in groups) == 4

    traced, said = checkout / "traced", checkout / "said"
    with traced.open("w") as stdout, said.open("w") as stderr:
        trace = subprocess.Popen(
            [sys.executable, "-m", "oops_celery.cli", "trace"],
            cwd=checkout,
            env=environment(),
            stdout=stdout,
            stderr=stderr,
        )
    eventually(lambda: "Listening" in said.read_text())
    shop = subprocess.run(
        [sys.executable, "-m", "examples.shop"],
        cwd=checkout,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    more = re.findall(r"OOPS-\w+", shop.stdout)
    assert len(more) == 4
    try:
        eventually(
            lambda: (
                trace.poll() is not None
                or set(re.findall(r"OOPS-\w+", traced.read_text())) == set(more)
            )
        )
        assert trace.poll() is None, said.read_text()
    finally:
        trace.send_signal(signal.SIGINT)
        trace.wait(120)
    assert trace.returncode == 0
    # It was taken from nobody, and nothing is left of it.
    with Reports(f"sqlite:///{checkout}/var/oopses.db") as reports:
        eventually(lambda: reports.count() == 8)
    assert "trace-" not in (checkout / "var/broker/control/oopses.exchange").read_text()
    os.kill(tour.pid, signal.SIGINT)
    tour.communicate(timeout=120)
    assert not (checkout / "var/embedded.pid").exists()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_and_a_closed_terminal_end_everything(
    tour: subprocess.Popen[str], end: signal.Signals
) -> None:
    read_until(tour, "Ctrl-C ends")
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(tour.pid)], capture_output=True, text=True
    ).stdout.split()
    assert len(children) == 3
    os.kill(tour.pid, end)
    rest, _ = tour.communicate(timeout=120)
    assert tour.returncode == 0
    assert rest.endswith("Ended.\n")
    assert "Traceback" not in rest
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "group killed", "reader gone"])
def test_nothing_stays_behind(tour: subprocess.Popen[str], how: str) -> None:
    """However the tour ends: its worker, the worker's pool, and Flower end too."""
    read_until(tour, "Ctrl-C ends")
    started = psutil.Process(tour.pid).children(recursive=True)
    assert len(started) >= 4  # the worker, its pool of two, and Flower
    if how == "killed":
        tour.kill()
    elif how == "group killed":
        os.killpg(tour.pid, signal.SIGKILL)
    else:
        assert tour.stdout is not None
        tour.stdout.close()
        os.kill(tour.pid, signal.SIGINT)
    tour.wait(120)
    eventually(lambda: not any(map(alive, started)), 180)


def test_the_pool_of_a_worker_that_was_killed_does_not_stay(
    tour: subprocess.Popen[str],
) -> None:
    read_until(tour, "Ctrl-C ends")
    started = psutil.Process(tour.pid).children(recursive=True)
    (worker,) = (one for one in started if len(one.children()) == 2)
    worker.kill()
    os.kill(tour.pid, signal.SIGINT)
    tour.communicate(timeout=120)
    eventually(lambda: not any(map(alive, started)), 180)


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE  # which nobody has waited for
    except psutil.NoSuchProcess:
        return False


def test_on_rabbitmq_where_that_is_set(broker: Node, checkout: Path) -> None:
    process = start(checkout, RABBITMQ_URL=broker.url)
    try:
        text = read_until(process, "Ctrl-C ends")
        assert text.startswith("Broker: amqp://**@")
        assert_shown_reports_are_real(text, checkout)
    finally:
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=120)


def test_a_broker_that_is_not_there_is_said(checkout: Path) -> None:
    process = start(checkout, RABBITMQ_URL="nonsense")
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "RABBITMQ_URL='**': must start with amqp://" in text
    assert "Traceback" not in text


# The embedded broker knows no TTL and no dead letters: the worker does without.


@pytest.mark.parametrize("refusals", [1, 99])
def test_retry_and_parking_on_the_embedded_broker(
    checkout: Path, refusals: int
) -> None:
    (checkout / "short.yml").write_text(
        """
exchanges: [{exchange: oopses, type: fanout}, {exchange: dead, type: fanout}]
queues:
- {queue: oopses, x_dead_letter_exchange: dead, bindings: [{exchange: oopses}]}
- {queue: later, x_message_ttl: 100, x_dead_letter_exchange: '',
   x_dead_letter_routing_key: oopses}
- {queue: buried, bindings: [{exchange: dead}]}
"""
    )
    (checkout / "keeper.py").write_text(
        f"""
import oops, oops_celery
config = oops.Config()
keep = oops_celery.FolderPublisher("oopses")
seen = []
def publisher(report):
    seen.append(1)
    return [] if len(seen) <= {refusals} else keep(report)
config.publisher = publisher
"""
    )
    settings = {
        "CELERY_CONFIG_MODULE": "examples.embedded",
        "OOPS_CONFIG": "keeper:config",
        "OOPS_TOPOLOGY": "short.yml",
        "OOPS_MAX_RETRIES": "2",
        "RABBITMQ_URL": "",
    }
    worker = Worker(checkout, "", "-c", "1", **settings)
    try:
        out = subprocess.run(
            [sys.executable, "-c", "import oops_celery as o; print(o.publisher({}))"],
            cwd=checkout,
            env=environment(**settings),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        messages = checkout / "var/broker/messages"
        if refusals == 1:
            (path,) = eventually(worker.files)
            assert wire.decode(path.read_bytes())["id"] in out
        else:
            (path,) = eventually(lambda: list(messages.glob("*.buried.msg")))
            parked = json.loads(path.read_text())
            assert parked["headers"]["oops-attempts"] == 3
            assert parked["headers"]["id"] in out
    finally:
        worker.stop()
