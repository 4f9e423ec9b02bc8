"""``oops-celery metrics``: what Prometheus is told of the queues."""

from __future__ import annotations

import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import kombu
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from oops_celery import Topology
from oops_celery.cli import main
from oops_celery.cli.broker import BROKER_TIMEOUT
from tests.support import Node, environment
from tests.support.parking import Parking, many

COMMAND = [sys.executable, "-m", "oops_celery.cli", "metrics"]

Samples = dict[tuple[str, str], float]


def samples(text: str) -> Samples:
    """Return the values, by metric (without its beginning) and queue."""
    return {
        (each.name.removeprefix("oops_celery_"), each.labels.get("queue", "")): (
            each.value
        )
        for family in text_string_to_metric_families(text)
        for each in family.samples
    }


@pytest.fixture
def declared(broker: Node) -> Node:
    with kombu.Connection(broker.url) as connection:
        assert Topology.load().declare(connection.channel) == []
    return broker


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Start the endpoint; return its URL, which it prints."""
    started: list[subprocess.Popen[str]] = []

    def start(url: str, *options: str) -> str:
        process = subprocess.Popen(
            [*COMMAND, "--port", "0", *options],
            cwd=tmp_path,
            env=environment(RABBITMQ_URL=url, PYTHONUNBUFFERED="1"),
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout
        assert select.select([process.stdout], [], [], 30)[0]
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/metrics", line)
        assert found, line
        return found[0]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def fetch(url: str) -> tuple[Samples, str]:
    with urlopen(url, timeout=120) as answer:
        return samples(answer.read().decode()), answer.headers["Content-Type"]


def test_depth_consumers_and_dead_letters_are_told_by_queue(
    declared: Node, serve: Callable[..., str]
) -> None:
    url = serve(declared.url)
    for _ in range(3):
        declared.publish("oopses", b"a message")
    for queue in ("oopses.dead", "oopses.retry.3"):
        declared.publish(queue, b"a message")
    with declared.connect() as connection:
        connection.channel().basic_consume("oopses.retry.1")
        found, content_type = fetch(url)
    assert content_type.startswith("text/plain; version=0.0.4")
    assert found["broker_up", ""] == 1
    assert found["queue_messages", "oopses"] == 3
    assert found["queue_messages", "oopses.retry.3"] == 1
    assert found["queue_messages", "oopses.retry.1"] == 0
    assert found["queue_consumers", "oopses.retry.1"] == 1
    assert found["queue_consumers", "oopses"] == 0
    dead = {queue: n for (name, queue), n in found.items() if name == "dead_letters"}
    assert dead == {"oopses.dead": 1}


def test_a_scrape_takes_nothing(declared: Node, serve: Callable[..., str]) -> None:
    for queue in ("oopses", "oopses.dead"):
        declared.publish(queue, b"a message")
    url = serve(declared.url)
    for _ in range(3):
        fetch(url)
    for queue in ("oopses", "oopses.dead"):
        (message,) = declared.messages(queue)
        assert message.headers.get("x-delivery-count", 0) == 0
        assert not message.delivery_info["redelivered"]


def test_for_how_long_a_queue_has_not_been_empty(
    declared: Node, serve: Callable[..., str]
) -> None:
    key = ("queue_nonempty_seconds", "oopses")
    url = serve(declared.url)
    begun = time.monotonic()
    assert fetch(url)[0][key] == 0
    declared.publish("oopses", b"a message")
    first = fetch(url)[0][key]
    second = fetch(url)[0][key]
    assert 0 < first < second <= time.monotonic() - begun
    declared.messages("oopses")
    assert fetch(url)[0][key] == 0


def test_a_queue_that_is_missing_is_told(
    declared: Node, serve: Callable[..., str]
) -> None:
    url = serve(declared.url)
    with declared.connect() as connection:
        connection.channel().queue_delete("oopses.retry.1")
    found, _ = fetch(url)
    assert found["queue_exists", "oopses.retry.1"] == 0
    assert ("queue_messages", "oopses.retry.1") not in found
    assert found["queue_exists", "oopses.retry.2"] == 1
    assert found["queue_messages", "oopses.retry.2"] == 0


def test_dead_letters_in_the_database_count_while_it_is_away(
    declared: Node, serve: Callable[..., str], tmp_path: Path
) -> None:
    parking = Parking(declared, f"sqlite:///{tmp_path}/oopses.db")
    parking.park(*many(5))
    parking.close()
    url = serve(declared.url)

    def told() -> tuple[float, float]:
        found, _ = fetch(url)
        return found["repository_up", ""], found["dead_letters", "oopses.dead"]

    assert told() == (1, 5)
    declared.publish("oopses.dead", b"a message")
    assert told() == (1, 6)
    (tmp_path / "oopses.db").rename(tmp_path / "away.db")
    (tmp_path / "oopses.db").mkdir()
    assert told() == (0, 6)
    (tmp_path / "oopses.db").rmdir()
    (tmp_path / "away.db").rename(tmp_path / "oopses.db")
    assert told() == (1, 6)


def test_a_broker_that_goes_and_comes_back(
    declared: Node, serve: Callable[..., str]
) -> None:
    url = serve(declared.url)
    assert fetch(url)[0]["broker_up", ""] == 1
    thaw = declared.pause()
    try:
        start = time.monotonic()
        assert fetch(url)[0] == {
            ("broker_up", ""): 0,
            ("repository_up", ""): 1,
        }
        # Prometheus waits for 10 s unless told otherwise; this machine may be busy.
        assert BROKER_TIMEOUT < 9
        assert time.monotonic() - start < 60
    finally:
        thaw()
    found, _ = fetch(url)
    assert found["broker_up", ""] == 1
    assert found["queue_messages", "oopses"] == 0


def test_queues_of_consumers_are_told_of_too(
    declared: Node, serve: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "t.yml").write_text(
        "consumers: [{consumer: 'm:C', queue: oopses.retry.2}, "
        "{consumer: 'm:C', queue: oopses.gone}]"
    )
    found, _ = fetch(serve(declared.url, "--file", "t.yml"))
    queues = {queue for name, queue in found if name == "queue_exists"}
    assert queues == {"oopses.retry.2", "oopses.gone"}


def once(**environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "--once"],
        env=environment(**environ),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_once_prints_the_metrics(declared: Node, tmp_path: Path) -> None:
    declared.publish("oopses.dead", b"a message")
    done = once(RABBITMQ_URL=declared.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert samples(done.stdout)["dead_letters", "oopses.dead"] == 1
    done = once(RABBITMQ_URL="amqp://u:s3cr3t@127.0.0.1:1/")
    assert done.returncode == 2
    assert samples(done.stdout) == {
        ("broker_up", ""): 0,
        ("repository_up", ""): 1,
    }
    assert "s3cr3t" not in done.stderr
    file = tmp_path / "t.yml"
    file.write_text('queues: [{queue: "a\\e[2J"}]')
    done = once(RABBITMQ_URL=declared.url, OOPS_TOPOLOGY=str(file))
    assert r'queue_exists{queue="a\x1b[2J"} 0.0' in done.stdout
    assert "\x1b" not in done.stdout


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(main, ["metrics", "--port", str(port)])
    assert result.exit_code == 2
    text = f"Error: cannot serve on 127.0.0.1 port {port}: Address already in use\n"
    assert result.stderr == text


def test_ctrl_c_is_not_a_traceback(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--port", "0"],
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert select.select([process.stdout], [], [], 30)[0]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "Interrupted.\n")


def test_help_tells_of_the_exit_codes_and_shows_an_example() -> None:
    shown = CliRunner().invoke(main, ["metrics", "--help"], terminal_width=60).stdout
    assert "  oops-celery metrics --port 9540" in shown
    assert "exit code is 2" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 60
