"""``oops-celery trace``: what it shows of what comes, and what it leaves alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import amqp
import pytest
from click.testing import CliRunner

import oops_celery
from oops_celery import wire
from oops_celery.cli import main
from tests.support import Node, environment, eventually

TIME = datetime(2026, 3, 5, 12, 30, 7, tzinfo=timezone.utc)


class Trace:
    """A running ``oops-celery trace``."""

    def __init__(self, folder: Path, url: str, *options: str, **environ: str) -> None:
        self._out, self._err = folder / "out", folder / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "oops_celery.cli", "trace", *options],
                cwd=folder,
                env=environment(**{"RABBITMQ_URL": url, "COLUMNS": "", **environ}),
                stdout=out,
                stderr=err,
            )
        eventually(lambda: "\n" in self.err() or self.process.poll() is not None)

    def out(self) -> str:
        return self._out.read_text()

    def err(self) -> str:
        return self._err.read_text()

    def lines(self, count: int) -> list[str]:
        """Return what it has printed, as soon as there are so many lines."""
        eventually(lambda: self.out().count("\n") >= count)
        return self.out().splitlines()

    def end(self) -> int:
        """Press Ctrl-C; return the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(120)


Start = Callable[..., Trace]


@pytest.fixture
def declared(broker: Node) -> Node:
    """A node with an exchange, and a queue that somebody takes reports from."""
    with broker.connect() as connection:
        channel = connection.channel()
        channel.exchange_declare("oopses", "fanout", durable=True, auto_delete=False)
        channel.queue_declare("oopses", durable=True, auto_delete=False)
        channel.queue_bind("oopses", "oopses")
    return broker


@pytest.fixture
def trace(declared: Node, tmp_path: Path) -> Iterator[Start]:
    started: list[Trace] = []

    def start(*options: str, **environ: str) -> Trace:
        started.append(Trace(tmp_path, declared.url, *options, **environ))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def publish(node: Node, exchange: str = "oopses", key: str = "", **report: Any) -> str:
    encoded = wire.encode({"time": TIME, **report})
    send(node, encoded.body, exchange, key)
    return encoded.id


def send(node: Node, body: bytes, exchange: str = "oopses", key: str = "") -> None:
    with node.connect() as connection:
        message = amqp.Message(body, content_type=wire.CONTENT_TYPE)
        connection.channel().basic_publish_confirm(message, exchange, key)


def test_a_report_is_shown_and_stays_in_its_queue(trace: Start, declared: Node) -> None:
    publish(declared, type="Earlier")
    one = trace()
    assert one.err().startswith(
        f"Listening to exchange 'oopses' at amqp://**@{declared.host}"
    )
    assert one.err().endswith("; Ctrl-C ends it\n")
    report_id = publish(declared, type="KeyError", topic="shop", value="'tea'\n  cup")
    (line,) = one.lines(1)
    assert line == f"12:30:07 {report_id} KeyError in shop: 'tea' cup"
    assert declared.count("oopses") == 2
    assert "\tamq.gen-" in declared.ctl("list_queues", "messages", "name")
    assert one.end() == 0
    assert "Traceback" not in one.err()
    eventually(lambda: "amq.gen-" not in declared.ctl("list_queues", "name"))
    assert declared.count("oopses") == 2


def test_what_the_publisher_sends_is_shown(trace: Start, declared: Node) -> None:
    one = trace()
    publisher = oops_celery.Publisher(
        lambda: amqp.Connection(host=declared.host), "oopses", ""
    )
    (report_id,) = publisher({"type": "KeyError"})
    publisher.close()
    assert one.lines(1) == [f"--:--:-- {report_id} KeyError"]


def test_filters(trace: Start, declared: Node) -> None:
    filters = ("type=*Timeout*", "type=KeyError", "reporter=shop?")
    one = trace(*(part for each in filters for part in ("--filter", each)))
    expected = [
        publish(declared, type="ReadTimeoutError", reporter="shop1", value="a"),
        publish(declared, type="KeyError", reporter="shop2", value="b"),
    ]
    publish(declared, type="keyerror", reporter="shop1")
    publish(declared, type="KeyError", reporter="shop")
    publish(declared, type="KeyError")
    publish(declared, reporter="shop1")
    last = publish(declared, type="KeyError", reporter="shop1", value="last")
    assert [line.split()[1] for line in one.lines(3)] == [*expected, last]


def test_json_is_an_object_a_line(trace: Start, declared: Node) -> None:
    one = trace("--json")
    report = {"type": "K\x1b[2J", "value": "a\nb", "req_vars": {"é": b"\xff", "n": 1.5}}
    report_id = publish(declared, **report)
    publish(declared, tb_text="x" * 100_000, number=float("nan"))
    first, second = one.lines(2)
    found = json.loads(first)
    assert found["id"] == report_id
    assert found["type"] == "K\x1b[2J"
    assert found["time"].startswith("2026-03-05T12:30:07")
    assert found["req_vars"]["n"] == 1.5
    assert len(json.loads(second)["tb_text"]) == 100_000
    assert "NaN" not in second


def test_full_shows_all_of_it(trace: Start, declared: Node) -> None:
    one = trace("--full")
    publish(
        declared, type="KeyError", tb_text="File x\n  in y\x1b[2J\n", url="http://h/"
    )
    publish(declared, req_vars={"a": ["b"]})
    eventually(lambda: "req_vars: {'a': ['b']}\n" in one.out())
    text = one.out()
    assert "type: KeyError\n" in text
    assert "tb_text:\n  File x\n    in y\\x1b[2J\n" in text
    assert "url: http://h/\n" in text
    assert text.count("id: OOPS-") == 2


@pytest.mark.parametrize("columns", [60, 130])
def test_lines_fit(trace: Start, declared: Node, columns: int) -> None:
    one = trace(COLUMNS=str(columns), PYTHONIOENCODING="ascii")
    report_id = publish(
        declared, type="é\x1b]0;x\x07", topic="[bold]t[/] :smile:", value="v" * 500
    )
    publish(declared, type="End")
    eventually(lambda: " End\n" in one.out())
    lines = one.out().splitlines()
    assert max(map(len, lines)) <= columns
    assert len(lines) <= (4 if columns == 60 else 2)
    assert lines[-1].endswith(" End")
    text = " ".join(line.strip() for line in lines)
    assert report_id in text
    assert r"\xe9\x1b]0;x\x07 in [bold]t" in text.replace(" ", "").replace("in", " in ")
    assert text.isprintable()


def test_what_is_no_report_is_said_and_does_not_end_it(
    trace: Start, declared: Node
) -> None:
    one = trace("--json")
    whole = wire.encode({"type": "KeyError", "a": {"b": 1}}).body
    send(declared, b"")
    send(declared, b"garbage\x1b[2J")
    send(declared, whole.replace(b"KeyError", b"Key\xff\xfe\xfdor"))
    send(declared, whole.replace(b"\x10b\0", b"\x77b\0"))  # no such type, further in
    report_id = publish(declared, type="KeyError")
    (line,) = one.lines(1)
    assert json.loads(line)["id"] == report_id
    assert one.err().count("warning: a message is no report: ") == 4
    assert "\x1b" not in one.err()


@pytest.mark.restarts
def test_a_broker_that_goes_and_comes_back(trace: Start, declared: Node) -> None:
    one = trace()
    declared.restart()
    eventually(lambda: "warning: listening again" in one.err(), 180)
    report_id = publish(declared, type="KeyError")
    (line,) = one.lines(1)
    assert report_id in line
    warnings = one.err().splitlines()[1:]
    assert len(warnings) == 2
    assert warnings[0].endswith("; trying again until Ctrl-C")
    assert one.end() == 0
    assert "Traceback" not in one.err()


@pytest.mark.restarts
def test_ctrl_c_while_the_broker_is_away(trace: Start, declared: Node) -> None:
    one = trace()
    declared.ctl("stop_app")
    try:
        eventually(lambda: "trying again" in one.err())
        assert one.end() == 0
        assert "Traceback" not in one.err()
    finally:
        declared.ctl("start_app")


def test_a_pipe_that_ends_first_is_no_traceback(
    trace: Start, declared: Node, tmp_path: Path
) -> None:
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "oops_celery.cli", "trace"],
        env=environment(RABBITMQ_URL=declared.url),
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert process.stderr is not None
    assert "Listening" in process.stderr.readline()
    os.close(read)
    publish(declared, type="KeyError")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 141
    assert err == ""


def test_other_exchanges_and_keys(trace: Start, declared: Node, tmp_path: Path) -> None:
    with declared.connect() as connection:
        channel = connection.channel()
        channel.exchange_declare("own", "direct", auto_delete=True)
        one = trace("--exchange", "own", "--routing-key", "a")
        publish(declared, "own", "b", type="Other")
        publish(declared, "own", "a", type="Wanted")
        (line,) = one.lines(1)
        assert line.endswith(" Wanted")
        channel.exchange_delete("own")


def test_a_topic_exchange_of_the_topology_is_heard_whole(
    trace: Start, declared: Node, tmp_path: Path
) -> None:
    (tmp_path / "t.yml").write_text(
        "exchanges: [{exchange: own, type: topic, auto_delete: true}]"
    )
    with declared.connect() as connection:
        channel = connection.channel()
        channel.exchange_declare("own", "topic", durable=True, auto_delete=True)
        one = trace("--exchange", "own", OOPS_TOPOLOGY="t.yml")
        publish(declared, "own", "a.b.c", type="Wanted")
        (line,) = one.lines(1)
        assert line.endswith(" Wanted")
        channel.exchange_delete("own")


# -- What keeps it from listening -----------------------------------------------------


def test_no_such_exchange(trace: Start) -> None:
    one = trace("--exchange", "gone\x1b[2J")
    assert one.process.wait(120) == 2
    assert one.out() == ""
    (line,) = one.err().splitlines()
    assert line.startswith(r"Error: there is no exchange 'gone\x1b[2J'")


def test_no_broker(tmp_path: Path) -> None:
    one = Trace(tmp_path, "amqp://guest:s3cr3t@127.0.0.1:1/")
    assert one.process.wait(120) == 2
    (line,) = one.err().splitlines()
    assert line.startswith("Error: amqp://**@127.0.0.1:1/: ")
    assert "s3cr3t" not in line


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--filter", "kind=x"], "'kind=x' must be one of type=..., topic=..., rep"),
        (["--filter", "type"], "'type' must be one of"),
        (["--exchange", ""], "the default exchange gives each message to one queue"),
    ],
)
def test_wrong_usage(options: list[str], expected: str) -> None:
    result = CliRunner().invoke(main, ["trace", *options])
    assert (result.exit_code, result.stdout) == (2, "")
    assert expected in result.stderr


def test_help_says_how_it_ends_and_fits() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "oops_celery.cli", "trace", "--help"],
        env=environment(COLUMNS="60"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "oops-celery trace --json | jq -r .url" in done.stdout
    assert "The exit code is 0 after Ctrl-C" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 60
