"""``oops-celery resubmit``: nothing is lost, nothing is doubled."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oops_celery import FolderPublisher, wire
from tests.support import Node, environment, eventually

COMMAND = [str(Path(sys.executable).with_name("oops-celery")), "resubmit"]


@pytest.fixture
def fallback(tmp_path: Path) -> Callable[[int], list[str]]:
    """Write reports into a fallback repository; return their ids."""

    def write(count: int) -> list[str]:
        publish = FolderPublisher(tmp_path / "fallback", sync=False)
        return [
            publish({"type": "ValueError", "n": n, "text": "x" * 2000})[0]
            for n in range(count)
        ]

    return write


def start(folder: Path, url: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *options, "fallback"],
        cwd=folder,
        env=environment(RABBITMQ_URL=url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, url: str, *options: str) -> tuple[int, str, str]:
    process = start(folder, url, *options)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    return process.returncode, out, err


#: Without the rights by which root may do everything.
AS_OTHERS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]


def run_as(prefix: list[str], folder: Path, url: str) -> tuple[int, Any, str]:
    done = subprocess.run(
        [*prefix, *COMMAND, "--json", "fallback"],
        cwd=folder,
        env=environment(RABBITMQ_URL=url),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def files(folder: Path) -> list[Path]:
    return list(folder.glob("fallback/*/*"))


def queued(broker: Node) -> list[str]:
    messages = broker.messages("oopses")
    for message in messages:
        assert wire.decode(message.body)["id"] == message.headers["id"]
    return sorted(message.headers["id"] for message in messages)


def test_all_reports_go_to_the_broker(
    broker: Node, tmp_path: Path, fallback: Any
) -> None:
    sent = fallback(2500)
    assert len(files(tmp_path)) == 2500
    assert run(tmp_path, broker.url) == (0, "fallback: 2500 sent, none left\n", "")
    assert queued(broker) == sorted(sent)
    assert files(tmp_path) == []
    code, out, _ = run(tmp_path, broker.url, "--json")
    assert (code, json.loads(out)) == (
        0,
        {"folder": "fallback", "sent": 0, "left": []},
    )


def test_what_is_no_report_stays(broker: Node, tmp_path: Path, fallback: Any) -> None:
    sent = fallback(3)
    day = files(tmp_path)[0].parent
    (day / "OOPS-broken").write_bytes(b"garbage")
    (day / "OOPS-half.tmp").write_bytes(b"being written")
    (tmp_path / "fallback" / "metadata").mkdir()
    code, out, _ = run(tmp_path, broker.url)
    assert code == 1
    assert "OOPS-broken: not a BSON document" in out
    assert "fallback: 3 sent, 1 left" in out
    assert queued(broker) == sorted(sent)
    assert sorted(path.name for path in files(tmp_path)) == [
        "OOPS-broken",
        "OOPS-half.tmp",
    ]


def test_without_a_broker_nothing_is_removed(tmp_path: Path, fallback: Any) -> None:
    fallback(50)
    code, out, err = run(tmp_path, "amqp://guest:s3cr3t@127.0.0.1:9/")
    assert code == 1
    why = "the broker has not taken it: nothing listens there; start RabbitMQ"
    assert why in " ".join(out.split())
    assert "... and 30 more" in out
    assert "fallback: 0 sent, 50 left" in out
    assert "s3cr3t" not in out + err
    assert len(files(tmp_path)) == 50


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    code, _, err = run(tmp_path, "amqp://127.0.0.1:9/")
    assert code == 2
    assert "'fallback' does not exist" in err


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_and_started_again(
    broker: Node, tmp_path: Path, fallback: Any, kind: signal.Signals
) -> None:
    sent = fallback(3000)
    process = start(tmp_path, broker.url)
    eventually(lambda: len(files(tmp_path)) < 2900)
    process.send_signal(kind)
    _, err = process.communicate(timeout=120)
    left = len(files(tmp_path))
    assert 0 < left < 3000
    if kind == signal.SIGINT:
        assert process.returncode == 130
        assert "sent before the interruption" in err
    assert "Traceback" not in err
    assert run(tmp_path, broker.url)[0] == 0
    assert set(queued(broker)) == set(sent)
    assert files(tmp_path) == []


def test_several_at_once(broker: Node, tmp_path: Path, fallback: Any) -> None:
    sent = fallback(2000)
    processes = [start(tmp_path, broker.url, "--json") for _ in range(3)]
    outs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(json.loads(out)["sent"] for out in outs) == 2000
    assert queued(broker) == sorted(sent)  # none twice
    assert files(tmp_path) == []


@pytest.mark.restarts
def test_the_broker_killed_in_the_middle_loses_none(
    broker: Node, tmp_path: Path, fallback: Any
) -> None:
    sent = fallback(4000)
    process = start(tmp_path, broker.url, "--json")
    eventually(lambda: len(files(tmp_path)) < 3900)
    broker.restart()
    process.communicate(timeout=120)
    deadline = time.monotonic() + 60
    while run(tmp_path, broker.url)[0]:
        assert time.monotonic() < deadline
    assert set(queued(broker)) == set(sent)
    assert files(tmp_path) == []


def test_an_id_reaches_no_terminal_unescaped(broker: Node, tmp_path: Path) -> None:
    folder = tmp_path / "fallback/2026-01-01"
    folder.mkdir(parents=True)
    report = {"id": "\x1b]0;owned\x07", "filler": "x" * 2000}
    body = wire.encode(report, inherit_id=True).body
    (folder / "1.OOPS-x").write_bytes(body)
    done = subprocess.run(
        [*COMMAND, "fallback"],
        cwd=tmp_path,
        env=environment(RABBITMQ_URL=broker.url, OOPS_MAX_SIZE="1000"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "bytes, and 1000 are allowed" in done.stderr
    assert "\x1b" not in done.stderr + done.stdout


# -- What may not be removed ----------------------------------------------------------


@pytest.mark.parametrize("mode", [0o555, 0o1777])
def test_what_may_not_be_removed_is_not_sent(
    broker: Node, tmp_path: Path, fallback: Any, mode: int
) -> None:
    """The folder is read-only, or its sticky bit keeps others' files."""
    fallback(3)
    day = files(tmp_path)[0].parent
    if os.geteuid() == 0:
        for path in (day, *files(tmp_path)) if mode == 0o1777 else ():
            os.chown(path, 65534, 65534)
            path.chmod(0o644)
    elif mode == 0o1777:
        pytest.skip("only root can give files away")
    day.chmod(mode)
    writable = tmp_path / "fallback/2020-01-01"
    writable.mkdir()
    shutil.copy(files(tmp_path)[0], writable / "OOPS-other")
    prefix = AS_OTHERS if os.geteuid() == 0 else []
    for sent in (1, 0):  # none of the three, however often
        code, found, _ = run_as(prefix, tmp_path, broker.url)
        assert (code, found["sent"]) == (1, sent)
        reasons = {each["reason"] for each in found["left"]}
        assert len(found["left"]) == 3
        assert all(each.startswith("it could not be removed: ") for each in reasons)
    assert len(queued(broker)) == 1
    day.chmod(0o755)
    assert len(files(tmp_path)) == 3


def test_on_a_file_system_that_is_read_only(
    broker: Node, tmp_path: Path, fallback: Any
) -> None:
    if os.geteuid():
        pytest.skip("only root can mount")
    fallback(2)
    mount = "mount --bind fallback fallback && mount -o remount,bind,ro fallback"
    prefix = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    code, found, _ = run_as(prefix, tmp_path, broker.url)
    assert (code, found["sent"]) == (1, 0)
    assert {each["reason"] for each in found["left"]} == {
        "it could not be removed: Read-only file system"
    }
    assert len(files(tmp_path)) == 2


def test_rights_withdrawn_while_a_report_is_sent(tmp_path: Path, fallback: Any) -> None:
    """It says so, goes on with the others, and does not send it again."""
    fallback(2)
    program = """
import os, stat, sys
from pathlib import Path
from oops_celery.publishing.resubmit import resubmit
from oops_celery.repository.reader import waiting
folder = Path("fallback")
sent = []
class Publisher:
    max_size = 10**6
    trouble = ""
    def publish_encoded(self, reports):
        for encoded, _ in list(reports):
            sent.append(encoded.id)
            for day in folder.iterdir():
                day.chmod(0o555)
            yield [encoded.id]
for one in resubmit(waiting(folder), Publisher()):
    print(one.id, one.reason, sep="|")
for day in folder.iterdir():
    day.chmod(0o755)
for one in resubmit(waiting(folder), Publisher()):
    print(one.id, one.reason, sep="|")
print(len(sent))
"""
    prefix = AS_OTHERS if os.geteuid() == 0 else []
    done = subprocess.run(
        [*prefix, sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        *["None|it was sent, and cannot be removed: Permission denied"] * 2,
        *["None|not a BSON document: 0 bytes that start with ''"] * 2,
        "2",
    ]


def test_what_stands_in_the_way_keeps_no_report_back(
    broker: Node, tmp_path: Path, fallback: Any
) -> None:
    sent = fallback(2)
    day = files(tmp_path)[0].parent
    (day / "a-folder").mkdir()
    os.mkfifo(day / "a-pipe")
    (day / "empty").touch()
    (day / "gone").symlink_to("nowhere")
    (day / "zeros").touch()
    os.truncate(day / "zeros", 1 << 30)
    (tmp_path / "fallback/2020-01-01").write_text("a file")
    (tmp_path / "fallback/2020-01-02").symlink_to("2020-01-02")  # a loop
    code, found, _ = run_as([], tmp_path, broker.url)
    assert (code, found["sent"]) == (1, 2)
    assert {Path(each["path"]).name: each["reason"] for each in found["left"]} == {
        "a-folder": "not a file",
        "a-pipe": "not a file",
        "empty": "not a BSON document: 0 bytes that start with ''",
        "zeros": "not a BSON document: it says another length than it has",
        "2020-01-02": "Too many levels of symbolic links",
    }
    assert (day / "a-folder").is_dir()
    assert queued(broker) == sorted(sent)
