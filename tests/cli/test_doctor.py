"""``oops-celery doctor`` tells each trouble from the others."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import amqp
import kombu
import pytest
from click.testing import CliRunner

from oops_celery import Topology
from oops_celery.cli import main
from oops_celery.operations.depths import final_dead_letter_queues
from oops_celery.operations.doctor import CLOCK_TOLERANCE, examine_clock
from tests.support import PACKAGED, Node, Worker, environment, eventually
from tests.support.management import management_url
from tests.support.parking import Parking, many

Doctor = Callable[..., "Diagnosis"]


class Diagnosis:
    """What ``doctor --json`` says."""

    def __init__(self, done: subprocess.CompletedProcess[str], seconds: float) -> None:
        assert done.stderr in ("", "hello\n")  # what a config prints
        self.seconds = seconds
        found = json.loads(done.stdout)
        self.text = done.stdout
        self.wrong = {c["check"]: c for c in found["checks"] if c["state"] == "wrong"}
        self.ok = {c["check"]: c for c in found["checks"] if c["state"] == "ok"}
        self.unknown = {
            c["check"]: c for c in found["checks"] if c["state"] == "unknown"
        }
        assert found["ok"] is not bool(self.wrong)
        assert done.returncode == (1 if self.wrong else 0)
        assert all(each["fix"] for each in self.wrong.values())


@pytest.fixture
def doctor(broker: Node, tmp_path: Path) -> Doctor:
    def run(*options: str, prefix: tuple[str, ...] = (), **environ: str) -> Diagnosis:
        start = time.monotonic()
        done = subprocess.run(
            [*prefix, sys.executable, "-m", "oops_celery.cli", "doctor", "--json"]
            + [*options],
            cwd=tmp_path,
            env=environment(**{"RABBITMQ_URL": broker.url, **environ}),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        return Diagnosis(done, time.monotonic() - start)

    return run


@pytest.fixture
def consumer(broker: Node) -> Iterator[amqp.Channel]:
    """The default topology, and somebody who takes from the queue, as a Receiver."""
    with kombu.Connection(broker.url) as connection:
        assert Topology.load().declare(connection.channel) == []
    with broker.connect() as connection:
        channel = connection.channel()
        channel.basic_consume("oopses")
        yield channel


# -- All is well ----------------------------------------------------------------------


def test_with_a_worker_all_is_well(
    doctor: Doctor, worker: Callable[..., Worker], broker: Node
) -> None:
    worker("-c", "1")
    found = doctor("--management-url", management_url(broker))
    assert found.wrong == {}
    assert set(found.unknown) <= {"celery"}  # before 5.6, see test_package
    assert set(found.ok) == {
        *("broker", "topology", "consumers", "dead letters", "workers", "retries"),
        *("permissions", "clock", "bson", "repository"),
    }
    assert re.search(r"RabbitMQ \d+\.", found.ok["broker"]["text"])
    assert found.ok["workers"]["text"] == f"w@{socket.gethostname()}"
    assert "guest" not in found.text


def test_nothing_is_taken_published_or_made(
    doctor: Doctor, broker: Node, tmp_path: Path
) -> None:
    with kombu.Connection(broker.url) as connection:
        assert Topology.load().declare(connection.channel) == []
    for queue in ("oopses", "oopses.dead", "oopses.retry.3"):
        broker.publish(queue, b"a message")
    doctor()
    for queue in ("oopses", "oopses.dead", "oopses.retry.3"):
        (message,) = broker.messages(queue)
        assert (message.headers or {}).get("x-delivery-count", 0) == 0
        assert not message.delivery_info["redelivered"]
    assert list(tmp_path.iterdir()) == []


# -- Each trouble is told from the others ---------------------------------------------


def test_no_broker(doctor: Doctor) -> None:
    found = doctor(RABBITMQ_URL="amqp://u:s3cr3t@127.0.0.1:1/")
    assert set(found.wrong) == {"broker"}
    assert "nothing listens there" in found.wrong["broker"]["text"]
    assert "s3cr3t" not in found.text


def test_no_such_host(doctor: Doctor) -> None:
    found = doctor(RABBITMQ_URL="amqp://no-such-host.invalid/")
    assert set(found.wrong) == {"broker"}
    assert "there is no such host" in found.wrong["broker"]["text"]


def test_wrong_password(doctor: Doctor, broker: Node) -> None:
    found = doctor(RABBITMQ_URL=f"amqp://guest:s3cr3t@{broker.host}/")
    assert set(found.wrong) == {"broker"}
    assert "wrong user or password" in found.wrong["broker"]["text"]
    assert "s3cr3t" not in found.text


def test_wrong_virtual_host(doctor: Doctor, broker: Node) -> None:
    found = doctor(RABBITMQ_URL=f"{broker.url}gone")
    assert set(found.wrong) == {"broker"}
    assert "no such virtual host" in found.wrong["broker"]["text"]


def test_tls_where_there_is_none(doctor: Doctor, broker: Node) -> None:
    found = doctor(RABBITMQ_URL=f"amqps://{broker.host}/")
    assert set(found.wrong) == {"broker"}
    assert "TLS fails" in found.wrong["broker"]["text"]


def test_a_frozen_broker(doctor: Doctor, broker: Node) -> None:
    thaw = broker.pause()
    try:
        before = os.times()
        found = doctor()
        after = os.times()
    finally:
        thaw()
    assert set(found.wrong) == {"broker"}
    assert "no answer in time" in found.wrong["broker"]["text"]
    # It waits for three seconds; the rest is Python's start, on a machine shared with
    # others: its work, not its waiting, is what can be held to a number.
    assert found.seconds < 60
    assert after.children_user - before.children_user < 4


def test_a_queue_with_other_arguments(doctor: Doctor, broker: Node) -> None:
    with broker.connect() as connection:
        channel = connection.channel()
        channel.queue_declare("oopses", durable=True, auto_delete=False)
        with kombu.Connection(broker.url) as declaring:
            assert len(Topology.load().declare(declaring.channel)) == 1
        channel.basic_consume("oopses")
        found = doctor("--no-ping")
    assert set(found.wrong) == {"topology"}
    text = found.wrong["topology"]["text"]
    assert text.startswith("queue oopses: x_dead_letter_exchange is oopses.dead in the")
    assert "; queue oopses: x_queue_type is quorum in the file" in text


def test_a_missing_exchange(
    doctor: Doctor, broker: Node, consumer: amqp.Channel
) -> None:
    consumer.exchange_delete("oopses")
    found = doctor("--no-ping")
    assert set(found.wrong) == {"topology"}
    assert found.wrong["topology"]["text"] == "exchange oopses is missing"
    consumer.queue_delete("oopses.retry.1")
    found = doctor("--no-ping")
    assert found.wrong["topology"]["text"] == (
        "exchange oopses is missing; queue oopses.retry.1 is missing"
    )


def test_no_worker(doctor: Doctor, broker: Node) -> None:
    with kombu.Connection(broker.url) as connection:
        assert Topology.load().declare(connection.channel) == []
    broker.publish("oopses", b"a message")
    found = doctor()
    assert set(found.wrong) == {"workers", "consumers"}
    assert found.wrong["workers"]["text"] == "no worker"
    assert "1 wait there" in found.wrong["consumers"]["text"]


def test_a_worker_that_hangs(doctor: Doctor, worker: Callable[..., Worker]) -> None:
    started = worker("-c", "1")
    os.kill(started.process.pid, signal.SIGSTOP)
    found = doctor()
    assert set(found.wrong) == {"workers"}
    assert "but no worker answers" in found.wrong["workers"]["text"]


def test_somebody_who_is_no_worker(doctor: Doctor, consumer: amqp.Channel) -> None:
    assert set(doctor().wrong) == {"workers"}
    assert doctor("--no-ping").wrong == {}


def test_dead_letters(doctor: Doctor, broker: Node, consumer: amqp.Channel) -> None:
    broker.publish("oopses.dead", b"a message")
    found = doctor("--no-ping")
    assert set(found.wrong) == {"dead letters"}
    assert found.wrong["dead letters"]["text"] == "1 in queue oopses.dead"
    assert "a worker takes them" in found.wrong["dead letters"]["fix"]
    found = doctor("--no-ping", OOPS_FILE_DEAD_LETTERS="false")
    assert "OOPS_FILE_DEAD_LETTERS" in found.wrong["dead letters"]["fix"]


def test_dead_letters_in_the_database(
    doctor: Doctor, broker: Node, consumer: amqp.Channel, database: str
) -> None:
    parking = Parking(broker, database)
    parking.park(*many(3))
    parking.close()

    def text() -> str:
        found = doctor("--no-ping", OOPS_REPOSITORY=database)
        assert set(found.wrong) == {"dead letters"}
        assert "dead list --group" in found.wrong["dead letters"]["fix"]
        return str(found.wrong["dead letters"]["text"])

    assert text() == "3 in the database, from oopses.dead"
    broker.publish("oopses.dead", b"a message")
    assert text() == "3 in the database, 1 in queue oopses.dead"


def test_reports_that_are_refused(
    doctor: Doctor,
    worker: Callable[..., Worker],
    run: Callable[..., str],
    tmp_path: Path,
) -> None:
    text = PACKAGED.read_text()
    for number, milliseconds in enumerate((10000, 60000, 600000)):
        text = text.replace(f"ttl: {milliseconds} ", f"ttl: {990000 + number} ")
    (tmp_path / "long.yml").write_text(text)
    long = {"OOPS_TOPOLOGY": "long.yml"}
    started = worker("-c", "1", OOPS_REPOSITORY="worker.log", **long)
    run(
        "import oops, oops_celery\n"
        "for n in range(40):\n"
        "    assert oops_celery.publisher({'n': n})",
        OOPS_PUBLISH_TIMEOUT="50",
        **long,
    )

    def all_refused() -> Diagnosis | None:
        found = doctor(**long)
        said = found.wrong.get("retries", {"text": ""})["text"]
        return found if "40 in queue oopses.retry.1; last reason: " in said else None

    found = eventually(all_refused, 120)
    assert set(found.wrong) == {"retries"}
    assert "worker.log" in found.wrong["retries"]["text"]
    lines = [one for one in started.text().splitlines() if "reports refused" in one]
    assert 1 <= len(lines) <= 3  # one a minute, not one for each
    assert ": WARNING/MainProcess] " in lines[0]
    assert "they wait in oopses.retry.1" in lines[0]
    assert "worker.log" in lines[0]
    found = doctor("--no-ping", **long)
    assert "unknown, as no worker was heard" in found.wrong["retries"]["text"]


def test_the_pure_python_bson_in_place_of_pymongos(
    doctor: Doctor, consumer: amqp.Channel, old_python: Path, tmp_path: Path
) -> None:
    (old,) = old_python.parent.parent.glob("lib/python*/site-packages/bson")
    folder = tmp_path / "first"
    folder.mkdir()
    (folder / "bson").symlink_to(old)
    found = doctor("--no-ping", PYTHONPATH=str(folder))
    assert set(found.wrong) == {"bson"}
    assert "pymongo" in found.wrong["bson"]["fix"]


def test_the_pure_python_bson_beside_pymongos(
    doctor: Doctor, consumer: amqp.Channel, tmp_path: Path
) -> None:
    """As it is where oops-amqp was installed first, with what it asks for."""
    about = tmp_path / "beside" / "bson-0.5.10.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: bson\nVersion: 0.5.10\n"
    )
    found = doctor("--no-ping", PYTHONPATH=str(about.parent))
    assert set(found.wrong) == {"bson"}
    assert "oops-amqp an environment of its own" in found.wrong["bson"]["fix"]


def test_a_read_only_repository(
    doctor: Doctor, consumer: amqp.Channel, tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    folder.mkdir(mode=0o555)
    # To root, permissions mean nothing.
    capability = "--bounding-set=-dac_override"
    prefix = ("setpriv", capability) if os.geteuid() == 0 else ()
    found = doctor("--no-ping", prefix=prefix, OOPS_REPOSITORY="kept")
    assert set(found.wrong) == {"repository"}
    text = f"{folder} cannot be written to: Permission denied"
    assert found.wrong["repository"]["text"] == text
    folder.chmod(0o755)
    assert doctor("--no-ping", prefix=prefix, OOPS_REPOSITORY="kept").wrong == {}
    assert list(folder.iterdir()) == []


def test_a_config_that_cannot_be_imported(
    doctor: Doctor, consumer: amqp.Channel, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text("print('hello')\nimport gone_for_good\n")
    found = doctor("--no-ping", OOPS_CONFIG="mine:config")
    assert set(found.wrong) == {"repository"}
    assert "gone_for_good" in found.wrong["repository"]["text"]


def test_permissions_that_are_missing(
    doctor: Doctor, broker: Node, consumer: amqp.Channel
) -> None:
    url = f"amqp://weak:weak@{broker.host}/"
    broker.ctl("add_user", "weak", "weak")
    try:
        for write, read, expected in (
            ("oopses.*", ".*", "write to the default exchange, amq.default"),
            (".*", "^oopses.dead$", "read from queue oopses"),
            ("^amq.*", ".*", "write to exchange oopses, write to exchange oopses.dead"),
        ):
            broker.ctl("set_permissions", "weak", ".*", write, read)
            found = doctor("--no-ping", RABBITMQ_URL=url)
            assert set(found.wrong) == {"permissions"}
            text = f"the user may not {expected}"
            assert found.wrong["permissions"]["text"] == text
    finally:
        broker.ctl("delete_user", "weak")


def test_a_broker_under_an_alarm(
    doctor: Doctor, broker: Node, consumer: amqp.Channel
) -> None:
    broker.ctl("set_vm_memory_high_watermark", "0")
    try:
        found = doctor("--no-ping")
    finally:
        broker.ctl("set_vm_memory_high_watermark", "0.4")
    assert set(found.wrong) == {"broker"}
    assert "an alarm is on" in found.wrong["broker"]["text"]


@pytest.mark.parametrize("ahead", [60.0, -60.0])
def test_a_clock_that_is_not_the_brokers(ahead: float) -> None:
    class Told:
        def clock(self) -> float:
            return time.time() - ahead

    found = examine_clock(Told())  # type: ignore[arg-type]
    assert found.state == "wrong"
    assert ("60 s ahead of" if ahead > 0 else "60 s behind") in found.text
    assert CLOCK_TOLERANCE < 60


# -- What is watched ------------------------------------------------------------------


def test_queues_of_dead_letters_are_those_that_nobody_takes_from() -> None:
    assert final_dead_letter_queues(Topology.load(), "oopses") == ["oopses.dead"]
    topology = Topology.parse("""
    queues:
      - {queue: a, x_dead_letter_exchange: dead}
      - {queue: b, x_dead_letter_exchange: "", x_dead_letter_routing_key: b.dead}
      - {queue: b.dead}
      - {queue: a.dead, bindings: [{exchange: dead, routing_key: any}]}
      - {queue: watched, bindings: [{exchange: dead}]}
      - {queue: later, x_message_ttl: 5, bindings: [{exchange: dead}],
         x_dead_letter_exchange: "", x_dead_letter_routing_key: a}
    consumers: [{consumer: "m:C", queue: watched}, {consumer: "m:C", queue: a}]
    """)
    assert final_dead_letter_queues(topology, "oopses") == ["b.dead", "a.dead"]


# -- How it is used -------------------------------------------------------------------


def test_for_a_person_each_check_is_a_line_with_what_to_do(
    broker: Node, consumer: amqp.Channel, tmp_path: Path
) -> None:
    broker.publish("oopses.dead", b"a message")

    def lines(**environ: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "oops_celery.cli", "doctor", "--no-ping"],
            cwd=tmp_path,
            env=environment(RABBITMQ_URL=broker.url, **environ),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert (done.returncode, done.stderr) == (1, "")
        return done.stdout.splitlines()

    found = [one for one in lines(COLUMNS="") if " celery: " not in one]
    assert len(found) == 8  # and one more before Celery 5.6
    assert "wrong   dead letters: 1 in queue oopses.dead; a worker takes them" in (
        "\n".join(found)
    )
    assert max(map(len, lines(COLUMNS="60"))) <= 60


def test_settings_that_cannot_be_used_have_an_exit_code_of_their_own(
    tmp_path: Path,
) -> None:
    for environ in ({"OOPS_TOPOLOGY": "gone.yml"}, {"RABBITMQ_URL": "http://a"}):
        done = subprocess.run(
            [sys.executable, "-m", "oops_celery.cli", "doctor"],
            cwd=tmp_path,
            env=environment(**environ),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("Error: ")


def test_help_tells_of_the_exit_codes_and_shows_an_example() -> None:
    shown = CliRunner().invoke(main, ["doctor", "--help"], terminal_width=60).stdout
    assert "  oops-celery doctor\n" in shown
    assert "exit code is 0" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 60


def test_ctrl_c_is_not_a_traceback(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        port: Any = silent.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "oops_celery.cli", "doctor"],
            cwd=tmp_path,
            env=environment(RABBITMQ_URL=f"amqp://127.0.0.1:{port}/"),
            stderr=subprocess.PIPE,
            text=True,
        )
        silent.accept()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "Interrupted.\n")
