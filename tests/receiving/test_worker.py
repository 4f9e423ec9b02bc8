"""The worker, as a real process: what becomes of a report."""

from __future__ import annotations

import json
import pickle
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kombu
import pytest
from celery.exceptions import SoftTimeLimitExceeded

from oops_celery import Publisher, Topology, wire
from oops_celery.receiving.request import ReportRequest
from tests.support import (
    PACKAGED,
    QUICK_TOPOLOGY,
    Node,
    Worker,
    environment,
    eventually,
)

StartWorker = Callable[..., Worker]


@pytest.fixture
def publish(broker: Node) -> Publisher:
    """Declares nothing: the worker does."""
    return Publisher(lambda: kombu.Connection(broker.url), "oopses", "", timeout=60)


def ids(worker: Worker) -> list[str]:
    found = []
    for path in worker.files():
        found.append(wire.decode(path.read_bytes())["id"])
    return found


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_reports_become_files(
    broker: Node, worker: StartWorker, publish: Publisher, pool: str
) -> None:
    started = worker("-P", pool, "-c", "2")
    sent = [publish({"type": "ValueError", "n": n})[0] for n in range(50)]
    eventually(lambda: len(started.files()) == 50)
    assert sorted(ids(started)) == sorted(sent)
    eventually(lambda: broker.count("oopses") == 0)
    started.stop()
    assert started.process.returncode == 0
    assert "Traceback" not in started.text()
    assert broker.count("oopses") == broker.count("oopses.dead") == 0


def test_a_filtered_report_is_done_with(
    broker: Node,
    worker: StartWorker,
    publish: Publisher,
    keeper: Any,
    tmp_path: Path,
) -> None:
    settings = keeper("return repository.publish(report)")
    with (tmp_path / "keeper.py").open("a") as file:
        file.write('config.filters.append(lambda report: report.get("skip"))\n')
    started = worker(**settings)
    publish({"skip": 1})
    (kept,) = publish({"skip": 0})
    eventually(lambda: ids(started) == [kept])
    eventually(lambda: started.text().count("succeeded in") == 2)
    started.stop()
    for queue in ("oopses", "oopses.dead", "oopses.retry.1"):
        assert broker.count(queue) == 0


def test_refused_twice_then_taken(
    broker: Node, worker: StartWorker, publish: Publisher, keeper: Any
) -> None:
    """It goes through the retry queues, and arrives once, as one file."""
    started = worker(
        **keeper(
            """
            if seen == 1: raise OSError("disk full")
            if seen == 2: return []
            return repository.publish(report)
            """
        )
    )
    (sent,) = publish({"type": "ValueError"})
    eventually(lambda: ids(started) == [sent])
    started.stop()
    assert len(started.files()) == 1
    assert len((started.folder / f"seen-{sent}").read_bytes()) == 3
    text = started.text()
    assert "OSError: disk full" in text
    assert text.count("] retry: ") == 2
    for queue in ("oopses", "oopses.dead", "oopses.retry.1", "oopses.retry.2"):
        assert broker.count(queue) == 0


def test_refused_for_ever_is_parked(
    broker: Node, worker: StartWorker, publish: Publisher, keeper: Any
) -> None:
    settings = keeper('raise OSError("read-only file system")')
    started = worker(**settings, OOPS_MAX_RETRIES="3")
    (sent,) = publish({"type": "ValueError"})
    eventually(lambda: broker.count("oopses.dead") == 1)
    eventually(lambda: "raised unexpected" in started.text())
    started.stop()
    (message,) = broker.messages("oopses.dead")
    headers = message.headers
    assert wire.decode(message.body) == {"type": "ValueError", "id": sent}
    assert headers["id"] == message.properties["correlation_id"] == sent
    assert headers["oops-reason"] == "OSError: read-only file system"
    assert headers["oops-attempts"] == 4
    assert 'raise OSError("read-only file system")' in headers["oops-traceback"]
    assert headers["oops-first-failed-at"] < headers["oops-parked-at"]
    assert headers["oops-queue"] == "oopses"
    assert "x-death" not in headers
    assert len((started.folder / f"seen-{sent}").read_bytes()) == 4
    assert broker.count("oopses") == 0


def test_retried_fifteen_times_is_not_lost_by_rabbitmq(
    broker: Node,
    worker: StartWorker,
    publish: Publisher,
    keeper: Any,
    tmp_path: Path,
) -> None:
    """RabbitMQ drops what it sees dead-lettered in a circle."""
    settings = keeper("return [] if seen <= 15 else repository.publish(report)")
    (tmp_path / "short.yml").write_text(
        re.sub(r"x_message_ttl: \d+", "x_message_ttl: 50", QUICK_TOPOLOGY)
    )
    started = worker(**settings)
    sent = sorted(publish({"n": n})[0] for n in range(20))
    eventually(lambda: sorted(ids(started)) == sent)
    assert broker.count("oopses.dead") == 0


BODIES = {
    "empty": b"",
    "garbage": b"garbage",
    "length": b"\xff\xff\xff\x7f\x00",
    "truncated": wire.encode({"type": "ValueError"}).body[:-3],
    "not utf-8": b"\xff\xfe\x00text",
    "pickle": pickle.dumps(((), {}, {})),
    "json": b'[[], {}, {"callbacks": null}]',
    "report": wire.encode({"type": "ValueError"}).body,
}

TASK = {"task": "oops_celery.republish", "id": "an-id"}

#: How a message may arrive: properties, and the bodies that are wrong in it.
KINDS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "report": (
        {
            "application_headers": TASK,
            "content_type": "application/bson",
            "content_encoding": "binary",
        },
        ["empty", "garbage", "length", "truncated", "not utf-8", "pickle", "json"],
    ),
    "unknown task": (
        {
            "application_headers": {"task": "no.such.task", "id": "an-id"},
            "content_type": "application/json",
            "content_encoding": "utf-8",
        },
        list(BODIES),
    ),
    "pickled task": (
        {
            "application_headers": TASK,
            "content_type": "application/x-python-serialize",
            "content_encoding": "binary",
        },
        list(BODIES),
    ),
    "json task of ours": (
        {
            "application_headers": TASK,
            "content_type": "application/json",
            "content_encoding": "utf-8",
        },
        list(BODIES),
    ),
    "text that is no text": (
        {"content_type": "text/plain", "content_encoding": "utf-16"},
        ["garbage", "not utf-8", "length"],
    ),
    "task is a number": (
        {"application_headers": {"task": 5, "id": "x"}},
        ["garbage", "report"],
    ),
    "task is a table": (
        {"application_headers": {"task": {"a": 1}, "id": "x"}},
        ["garbage"],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_report_is_parked_unchanged(
    broker: Node, worker: StartWorker, publish: Publisher, kind: str
) -> None:
    """Each ends in oopses.dead as it came, and the worker goes on."""
    started = worker()
    properties, names = KINDS[kind]
    for name in names:
        broker.publish("oopses", BODIES[name], **properties)
    eventually(lambda: broker.count("oopses.dead") == len(names))
    (sent,) = publish({"type": "ValueError"})
    eventually(lambda: ids(started) == [sent])
    dead = broker.messages("oopses.dead")
    bodies = [m.body if m.body else b"" for m in dead]
    assert Counter(bodies) == Counter(BODIES[name] for name in names)
    for message in dead:
        assert message.headers["oops-reason"]
        assert message.headers["oops-queue"] == "oopses"
        for name, value in properties.get("application_headers", {}).items():
            assert message.headers[name] == value
        assert message.properties.get("content_type") == properties.get(
            "content_type", "application/octet-stream"
        )
    assert broker.count("oopses") == 0
    assert "Unrecoverable" not in started.text()


def test_reports_of_oops_amqp_are_adopted(
    broker: Node, worker: StartWorker, publish: Publisher, old_python: Path
) -> None:
    """Mixed with our own on one queue: each arrives once, under its publisher's id."""
    started = worker()
    program = f"""
import functools, amqp, oops_amqp
factory = functools.partial(amqp.Connection, host={broker.host!r})
publisher = oops_amqp.Publisher(factory, "oopses", "")
for n in range(100):
    report = {{"type": "ValueError", "n": n, "password": "s3cr3t"}}
    print(*publisher(report), flush=True)
# Unconfirmed: what is on its way when the connection ends may be lost.
input()
"""
    # Before a new queue has its leader, RabbitMQ drops what is published unconfirmed.
    sent = publish({"type": "KeyError", "n": 0})
    pipe = subprocess.PIPE
    old = subprocess.Popen(
        [old_python, "-c", program], stdin=pipe, stdout=pipe, text=True
    )
    assert old.stdout is not None
    sent += [publish({"type": "KeyError", "n": n})[0] for n in range(1, 100)]
    sent += [old.stdout.readline().strip() for _ in range(100)]
    assert len(set(sent)) == 200

    def missing() -> set[str]:
        return set(sent) - {path.name for path in started.files()}

    eventually(lambda: not missing())
    assert len(started.files()) == 200
    old.communicate("\n", timeout=120)
    assert sorted(ids(started)) == sorted(sent)
    for one in sent:
        eventually(lambda one=one: f"[{one}] succeeded in" in started.text())
    assert broker.count("oopses.dead") == 0
    assert "s3cr3t" not in started.text()


def test_an_adopted_report_is_retried_and_parked_like_any_other(
    broker: Node, worker: StartWorker, keeper: Any
) -> None:
    started = worker(
        **keeper(
            """
            if report.get("bad"): return []
            return [] if seen == 1 else repository.publish(report)
            """
        ),
        OOPS_MAX_RETRIES="2",
    )
    good, bad = wire.encode({"n": 1}), wire.encode({"bad": 1})
    broker.publish("oopses", good.body)
    broker.publish("oopses", bad.body)
    eventually(lambda: ids(started) == [good.id])
    eventually(lambda: broker.count("oopses.dead") == 1)
    (message,) = broker.messages("oopses.dead")
    assert message.body == bad.body
    assert message.headers["id"] == bad.id
    assert message.headers["oops-attempts"] == 3


def test_odd_numbers_of_retries_do_no_harm(
    broker: Node, worker: StartWorker, keeper: Any
) -> None:
    settings = keeper("return [] if seen == 1 else repository.publish(report)")
    started = worker(**settings)
    for number, retries in enumerate(["many", -5, 10**12, None]):
        report = wire.encode({"n": number})
        headers = {**TASK, "id": report.id, "retries": retries}
        broker.publish(
            "oopses",
            report.body,
            application_headers=headers,
            content_type="application/bson",
            content_encoding="binary",
        )
    eventually(lambda: len(started.files()) == 4)


#: So that something is left to do when the last report is published.
#: Reports from the 400th on are kept once there is a file `go`.
HALF_WAY = """
while report["n"] >= 400 and not os.path.exists("go"):
    time.sleep(0.01)
return repository.publish(report)
"""


@pytest.mark.parametrize("victim", ["pool process", "worker"])
def test_kill_in_the_middle_loses_nothing(
    worker: StartWorker, publish: Publisher, keeper: Any, victim: str
) -> None:
    started = worker("-c", "2", **keeper(HALF_WAY))
    sent = {publish({"n": n})[0] for n in range(2000)}
    eventually(lambda: len(started.files()) > 300)
    if victim == "worker":
        started.kill()
    else:
        for pid in started.pool_pids():
            subprocess.run(["kill", "-9", str(pid)], check=False)
            time.sleep(0.3)
    assert len(started.files()) < 2000
    (started.folder / "go").touch()
    if victim == "worker":
        started.restart()
    eventually(lambda: len(started.files()) >= 2000, 180)
    eventually(lambda: set(ids(started)) == sent)


@pytest.mark.restarts
@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_a_restart_of_the_broker_loses_nothing(
    broker: Node, worker: StartWorker, publish: Publisher, keeper: Any, pool: str
) -> None:
    started = worker("-P", pool, "-c", "2", **keeper(HALF_WAY))
    sent = {publish({"n": n})[0] for n in range(2000)}
    eventually(lambda: len(started.files()) > 300)
    assert len(started.files()) < 2000
    broker.ctl("stop_app")
    (started.folder / "go").touch()
    time.sleep(1)
    broker.ctl("start_app")
    eventually(lambda: len(started.files()) >= 2000, 180)
    assert set(ids(started)) == sent
    eventually(lambda: broker.count("oopses") == 0)


def test_a_parked_message_is_not_copied_to_other_queues_again(
    broker: Node, worker: StartWorker
) -> None:
    """RabbitMQ copies a message to each queue that its header CC names."""
    worker()
    with broker.connect() as connection:
        connection.channel().queue_declare("copies", exclusive=True)
        broker.publish("oopses", b"x", application_headers={"CC": ["copies"]})
        eventually(lambda: broker.count("oopses.dead") == 1)
        declared = connection.channel().queue_declare("copies", passive=True)
        assert declared.message_count == 1


def test_a_report_that_kills_its_process_is_parked(
    broker: Node, worker: StartWorker, publish: Publisher, keeper: Any
) -> None:
    """Once may be chance, and goes back to the queue; twice is its own doing."""
    started = worker(
        **keeper(
            """
            if report.get("deadly"): os._exit(9)
            if report.get("unlucky") and seen == 1: os._exit(9)
            return repository.publish(report)
            """
        )
    )
    (deadly,) = publish({"deadly": 1})
    (unlucky,) = publish({"unlucky": 1})
    others = [publish({"n": n})[0] for n in range(20)]
    eventually(lambda: broker.count("oopses.dead") == 1)
    eventually(lambda: sorted(ids(started)) == sorted([unlucky, *others]))
    (message,) = broker.messages("oopses.dead")
    assert message.headers["id"] == deadly
    assert "its process died again" in message.headers["oops-reason"]
    assert len((started.folder / f"seen-{deadly}").read_bytes()) == 2


def test_a_publisher_that_exits_loses_nothing(
    broker: Node, worker: StartWorker, publish: Publisher, keeper: Any
) -> None:
    started = worker(**keeper('sys.exit("no")'), OOPS_MAX_RETRIES="1")
    (sent,) = publish({"n": 1})
    eventually(lambda: broker.count("oopses.dead") == 1)
    (message,) = broker.messages("oopses.dead")
    assert message.headers["id"] == sent
    assert message.headers["oops-reason"] == "SystemExit: no"
    assert started.process.poll() is None


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_whatever_a_publisher_raises_loses_nothing(
    broker: Node, worker: StartWorker, publish: Publisher, keeper: Any, pool: str
) -> None:
    settings = keeper(
        """
        import asyncio
        raise {"c": asyncio.CancelledError, "g": GeneratorExit, "b": BaseException}[
            report["kind"]
        ]("no")
        """
    )
    started = worker("-P", pool, "-c", "2", **settings, OOPS_MAX_RETRIES="1")
    for kind in "cgb":
        publish({"kind": kind})
    eventually(lambda: broker.count("oopses.dead") == 3)
    found = {m.headers["oops-reason"] for m in broker.messages("oopses.dead")}
    assert found == {"CancelledError: no", "GeneratorExit: no", "BaseException: no"}
    assert started.process.poll() is None


def test_a_publisher_that_is_interrupted_loses_nothing(
    broker: Node, worker: StartWorker, publish: Publisher, keeper: Any
) -> None:
    started = worker(**keeper("raise KeyboardInterrupt"))
    (sent,) = publish({"n": 1})
    eventually(lambda: broker.count("oopses.dead") == 1)
    (message,) = broker.messages("oopses.dead")
    assert message.headers["id"] == sent
    assert "its process died again" in message.headers["oops-reason"]
    assert (started.folder / f"seen-{sent}").read_bytes() == b".."


@pytest.mark.parametrize("again", [False, True])
def test_a_chance_end_gives_a_report_back_and_a_second_one_parks_it(
    monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """A soft time limit may come at any moment of Celery's own code, too."""
    done: list[Any] = []

    class Request(ReportRequest):
        id = "r"
        app = SimpleNamespace(oops=SimpleNamespace(queue="oopses"))
        delivery_info = {"redelivered": True}  # noqa: RUF012 - which means nothing
        message = None

        def __init__(self) -> None:
            pass

        def reject(self, requeue: bool = False) -> None:
            done.append(f"reject, requeue={requeue}")

        def acknowledge(self) -> None:
            done.append("acknowledge")

        def send_event(self, kind: str, **_: Any) -> None:
            done.append(kind)

    def park(app: Any, queue: str, message: Any, reason: str, error: Any) -> None:
        done.append(reason)

    monkeypatch.setattr("oops_celery.dead_letters.park.park_message", park)
    monkeypatch.setattr(
        "oops_celery.receiving.suspects._times", {"r": 1} if again else {}
    )
    error = SoftTimeLimitExceeded(2)
    Request().on_failure(SimpleNamespace(exception=error))
    assert done == (
        [f"again: {error!r}", "acknowledge", "task-failed"]
        if again
        else ["reject, requeue=True"]
    )


@pytest.mark.restarts
@pytest.mark.slow
def test_a_report_that_hangs_takes_one_process_and_no_more(
    broker: Node, worker: StartWorker, publish: Publisher, keeper: Any
) -> None:
    """RabbitMQ sends it again on a new channel: by default after half an hour."""
    broker.ctl(
        "eval",
        "application:set_env(rabbit, consumer_timeout, 3000),"
        "application:set_env(rabbit, channel_tick_interval, 500).",
    )
    started = worker(
        *("-c", "2"),
        **keeper(
            'if report.get("slow"): time.sleep(600)\nreturn repository.publish(report)'
        ),
    )
    (slow,) = publish({"slow": 1})
    lost = "Connection to broker lost"
    eventually(lambda: started.text().count(lost) >= 2)
    others = [publish({"n": n})[0] for n in range(20)]
    eventually(lambda: sorted(ids(started)) == sorted(others))
    assert (started.folder / f"seen-{slow}").read_bytes() == b"."
    assert started.process.poll() is None


@pytest.mark.parametrize(
    ("old", "new", "said", "pool"),
    [
        ("guest@", "wrong@", "ACCESS_REFUSED", "prefork"),
        ("/", "/gone", "no such virtual host", "prefork"),
        ("amqp:", "amqps:", "TLS fails", "prefork"),
        ("/", "/gone", "no such virtual host", "threads"),
        ("/", "/gone", "no such virtual host", "gevent"),
        ("/", "/gone", "no such virtual host", "eventlet"),
    ],
)
def test_a_broker_that_refuses_is_said_in_a_line(
    broker: Node, tmp_path: Path, old: str, new: str, said: str, pool: str
) -> None:
    url = new.join(broker.url.rsplit(old, 1))
    refusing = Worker(tmp_path, url, "-P", pool, "-c", "2")
    assert refusing.process.wait(120) == 1
    (line,) = (line for line in refusing.text().splitlines() if "CRITICAL" in line)
    assert "the broker refuses" in line
    assert said in line
    assert "ERROR" not in refusing.text()
    assert "Traceback" not in refusing.text()


def test_a_virtual_host_that_is_gone_for_a_while_is_said_once(
    broker: Node, worker: StartWorker, run: Callable[..., str]
) -> None:
    def make() -> None:
        broker.ctl("add_vhost", "some")
        broker.ctl("set_permissions", "-p", "some", "guest", ".*", ".*", ".*")

    make()
    started = worker("-P", "solo", RABBITMQ_URL=f"{broker.url}some")
    try:
        broker.ctl("delete_vhost", "some")
        eventually(lambda: "no such virtual host" in started.text())
        # It is asked again after 0.5, 1, 2 s...
        eventually(lambda: broker.log().count("vhost some not found") >= 4)
        assert started.text().count("no such virtual host") == 1
        make()
        eventually(lambda: started.text().count(" Connected to ") == 2)
        run(
            "import oops_celery; print(oops_celery.publisher({}))",
            RABBITMQ_URL=f"{broker.url}some",
        )
        eventually(started.files)
    finally:
        started.kill()
        broker.ctl("delete_vhost", "some")


@pytest.mark.parametrize("ours_first", [True, False])
def test_beside_another_celery_worker_both_with_default_names(
    broker: Node, tmp_path: Path, publish: Publisher, ours_first: bool
) -> None:
    (tmp_path / "plain.py").write_text(
        "import os, celery\n"
        "app = celery.Celery('plain', broker=os.environ['RABBITMQ_URL'])\n"
        "@app.task\n"
        "def touch(): open('touched', 'w').close()\n"
    )
    celery = Path(sys.executable).with_name("celery")
    started = []
    try:
        for app in ("oops_celery", "plain")[:: 1 if ours_first else -1]:
            log = tmp_path / f"{app}.log"
            with log.open("wb") as output:
                command = [celery, "-A", app, "worker", "-P", "solo", "-l", "INFO"]
                started.append(
                    subprocess.Popen(
                        command,
                        cwd=tmp_path,
                        env=environment(
                            RABBITMQ_URL=broker.url, OOPS_REPOSITORY="oopses"
                        ),
                        stdout=output,
                        stderr=output,
                    )
                )
            eventually(lambda log=log: " ready." in log.read_text())
        assert f"oops@{socket.gethostname()} ready." in (
            (tmp_path / "oops_celery.log").read_text()
        )
        subprocess.run(
            [celery, "-A", "plain", "call", "plain.touch"],
            cwd=tmp_path,
            env=environment(RABBITMQ_URL=broker.url),
            check=True,
        )
        publish({"n": 1})
        eventually((tmp_path / "touched").exists)
        eventually(lambda: list(tmp_path.glob("oopses/*/*")))
        assert [each.poll() for each in started] == [None, None]
        told = subprocess.run(
            [celery, "-A", "oops_celery", "inspect", "ping", "-t", "10", "-d"]
            + [f"oops@{socket.gethostname()}"],
            env=environment(RABBITMQ_URL=broker.url),
            capture_output=True,
            text=True,
            check=False,
        )
        assert "pong" in told.stdout
    finally:
        for each in started:
            each.kill()
            each.wait()
        with broker.connect() as connection:
            connection.channel().queue_delete("celery")


@pytest.mark.restarts
def test_a_queue_of_version_0_1_is_used_as_it_is(
    broker: Node, worker: StartWorker, run: Callable[..., str]
) -> None:
    """It keeps its delivery limit of 10, which RabbitMQ 3.10 does not compare."""
    packaged = PACKAGED.read_text()
    old = Topology.parse(packaged.replace("limit: 20000", "limit: 10"))
    with kombu.Connection(broker.url) as connection:
        assert old.declare(connection.channel) == []
    started = worker("-c", "1")
    run("import oops_celery; assert oops_celery.publisher({'k': 1})")
    eventually(started.files)


def test_rights_that_come_back_are_used(
    broker: Node, worker: StartWorker, publish: Publisher
) -> None:
    started = worker()
    publish({"n": 0})
    eventually(lambda: len(started.files()) == 1)
    broker.ctl("set_permissions", "guest", "^$", "^$", "^$")
    broker.ctl("close_all_connections", "test")
    eventually(lambda: "ACCESS_REFUSED" in started.text())
    broker.ctl("set_permissions", "guest", ".*", ".*", ".*")
    publish({"n": 1})
    eventually(lambda: len(started.files()) == 2)
    assert started.process.poll() is None


def test_a_warm_shutdown_finishes_what_it_has(
    broker: Node, worker: StartWorker, publish: Publisher, keeper: Any
) -> None:
    started = worker(
        "-c", "1", **keeper("time.sleep(1); return repository.publish(report)")
    )
    sent = {publish({"n": n})[0] for n in range(3)}
    eventually(lambda: list(started.folder.glob("seen-*")))
    started.stop()
    assert started.process.returncode == 0
    done = set(ids(started))
    assert done
    waiting = {message.headers["id"] for message in broker.messages("oopses")}
    assert done | waiting == sent


def test_what_users_typed_is_seen_nowhere(
    broker: Node, worker: StartWorker, publish: Publisher, keeper: Any
) -> None:
    """No event, no log line at INFO, no `celery inspect` shows a report's content."""
    started = worker(
        "-c",
        "1",
        **keeper(
            """
            while report.get("slow") and not os.path.exists("seen"): time.sleep(0.1)
            if report.get("bad"): raise OSError("no space")
            return repository.publish(report)
            """
        ),
        OOPS_MAX_RETRIES="1",
    )
    secret = {"req_vars": {"password": "s3cr3t"}, "type": "ValueError", "topic": "t"}
    events: list[dict[str, Any]] = []
    with kombu.Connection(broker.url) as connection:
        queue = kombu.Queue(
            "", kombu.Exchange("celeryev", "topic"), routing_key="#", exclusive=True
        )

        def on_event(body: Any, message: Any) -> None:
            events.extend(body if isinstance(body, list) else [body])
            message.ack()

        with connection.Consumer([queue], callbacks=[on_event], accept=["json"]):
            sent = [
                publish({**secret, **extra})[0]
                for extra in ({"slow": 1}, {"bad": 1}, {"n": 1})
            ]
            eventually(lambda: list(started.folder.glob("seen-*")))
            inspected = "".join(
                subprocess.run(
                    [Path(sys.executable).with_name("celery"), "-A", "oops_celery"]
                    + ["inspect", what, "--json"],
                    env=environment(RABBITMQ_URL=broker.url),
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
                for what in ("active", "reserved")
            )
            (started.folder / "seen").touch()
            broker.publish(
                "oopses",
                wire.encode(secret).body,
                application_headers={"task": "unknown", "id": "x"},
            )

            def drained() -> bool:
                try:
                    connection.drain_events(timeout=0.1)
                except OSError:
                    pass
                told = {event["type"] for event in events}
                return (
                    told >= {"task-succeeded", "task-retried"}  # a moment later
                    and broker.count("oopses.dead") == 2
                    and len(started.files()) == 2
                )

            eventually(drained)
    started.stop()
    assert sent[0] in inspected
    assert "(ValueError, topic=t)" in inspected
    received = [event for event in events if event["type"] == "task-received"]
    assert {event["uuid"] for event in received} == set(sent)
    assert {event["args"] for event in received} == {"(ValueError, topic=t)"}
    for place in (inspected, json.dumps(events), started.text()):
        assert "s3cr3t" not in place


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"OOPS_TOPOLOGY": "missing.yml"}, "missing.yml"),
        ({"OOPS_MAX_RETRIES": "often"}, "OOPS_MAX_RETRIES='often' (environment)"),
        ({"OOPS_CONFIG": "nothing:here"}, "OOPS_CONFIG='nothing:here'"),
        ({"OOPS_CONFIG": "json:dumps"}, "must be an oops.Config"),
        ({"OOPS_QUEUE": "other"}, "OOPS_QUEUE='other'"),
        ({"RABBITMQ_URL": "http://u:s3cr3t@h/"}, "must start with amqp://"),
        ({"CELERY_CONFIG_MODULE": "nothing"}, "CELERY_CONFIG_MODULE='nothing'"),
    ],
)
def test_a_setting_that_cannot_be_used(
    tmp_path: Path, environ: dict[str, str], expected: str
) -> None:
    """One clear error, at once; no traceback."""
    done = subprocess.run(
        [Path(sys.executable).with_name("celery"), "-A", "oops_celery", "worker"],
        cwd=tmp_path,
        env=environment(**environ),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 1
    assert expected in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "s3cr3t" not in done.stderr + done.stdout


def test_what_does_not_count_is_said(worker: StartWorker, tmp_path: Path) -> None:
    (tmp_path / "celeryconfig.py").write_text(
        "broker_url = 'redis://elsewhere'\nworker_concurrency = 7\n"
        "OOPS_WORKER_CONCURRENCY = 1\n"
    )
    started = worker("-P", "prefork", CELERY_BROKER_URL="redis://elsewhere")
    assert "broker_url, worker_concurrency ignored" in started.text()
    assert "CELERY_BROKER_URL" in started.text()
    assert "concurrency: 1 (prefork)" in started.text()


def test_a_process_whose_end_was_seen_is_not_waited_for_again() -> None:
    """When a connection is lost between its end and its exit."""
    from oops_celery.receiving.prefork import Pool

    added: list[Any] = []
    hub = SimpleNamespace(add_reader=lambda *args: added.append(args))
    ended = SimpleNamespace(_sentinel_poll=None)
    Pool.Pool._track_child_process(SimpleNamespace(), ended, hub)
    assert added == []
