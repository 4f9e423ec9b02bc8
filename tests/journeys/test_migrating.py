"""docs/migrating.md: each step, against the real old packages."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import amqp
import pytest

from oops_celery import wire
from tests.support import ROOT, Node, Worker, environment, eventually

PAGE = (ROOT / "docs/migrating.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(YAML,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
PROSE = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)

PUBLISHING, REPORTS, RECEIVING, NAMES = PYTHON
WORKER, VALIDATE, DISPATCHER, IMPORT = re.findall(r"^    (\S.*)$", PROSE, re.MULTILINE)
MOVED = re.compile(r"from oops_celery import (\w+)  # was: (from oops_amqp import \1)")


def old(program: str) -> str:
    """Return a program as it was before it moved."""
    before = MOVED.sub(r"\2", program)
    assert before != program
    return before


def here(program: str, node: Node) -> str:
    assert "localhost:5672" in program
    return program.replace("localhost:5672", node.host)


def run(python: str | Path, program: str, folder: Path) -> str:
    done = subprocess.run(
        [python, "-c", program],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def old_queue(broker: Node) -> Node:
    """What a team that runs oops-amqp has: a classic queue, bound to an exchange."""
    with broker.connect() as connection:
        channel = connection.channel()
        channel.exchange_declare("oopses", "fanout", durable=True, auto_delete=False)
        channel.queue_declare("oopses", durable=True, auto_delete=False)
        channel.queue_bind("oopses", "oopses")
    return broker


def start(command: str, folder: Path, node: Node, **environ: str) -> Worker:
    """Run a command of the page, a worker, in a folder."""
    words = shlex.split(command)
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    command = words[len(settings) :]
    assert command[:4] == ["celery", "-A", "oops_celery", "worker"]
    assert command[4:] in ([], ["--loglevel", "INFO"])
    return Worker(folder, node.url, "-c", "1", **settings, **environ)


def files(folder: Path) -> list[dict[str, Any]]:
    return [
        wire.decode(path.read_bytes())
        for path in folder.glob("reports/*/*")
        if path.suffix != ".tmp"
    ]


def test_the_publisher_moves(old_queue: Node, old_python: Path, tmp_path: Path) -> None:
    """The ids are the same, and so are the reports in the messages."""
    program = here(PUBLISHING, old_queue)
    before = run(old_python, old(program), tmp_path)
    after = run(sys.executable, program, tmp_path)
    assert before == after
    first, second = old_queue.messages("oopses")
    assert first.body == second.body
    assert wire.decode(first.body)["id"] in after


@pytest.mark.parametrize("mover", ["publisher", "receiver", "both"])
def test_the_receiver_moves(
    old_queue: Node, old_python: Path, tmp_path: Path, mover: str
) -> None:
    """Whichever moves first: every report arrives once."""
    publishing = here(PUBLISHING, old_queue)
    sent = run(old_python, old(publishing), tmp_path)
    if mover != "receiver":
        sent = run(sys.executable, publishing, tmp_path)
    program = here(RECEIVING, old_queue)
    python, source = sys.executable, program
    if mover == "publisher":
        python, source = str(old_python), old(program)
    receiver = subprocess.Popen([python, "-c", source], cwd=tmp_path, env=environment())
    try:
        eventually(lambda: files(tmp_path))
        eventually(lambda: old_queue.count("oopses") == 0)
    finally:
        receiver.terminate()
        receiver.wait(120)
    (report,) = files(tmp_path)  # the same report twice is one file
    assert report["id"] in sent
    assert report["topic"] == "checkout"


def test_the_receiver_becomes_a_worker(
    old_queue: Node, old_python: Path, tmp_path: Path
) -> None:
    (tmp_path / "reports.py").write_text(REPORTS)
    sent = run(old_python, old(here(PUBLISHING, old_queue)), tmp_path)
    started = start(WORKER, tmp_path, old_queue)
    try:
        (report,) = eventually(lambda: files(tmp_path))
        assert report["id"] in sent
        eventually(lambda: f"[{report['id']}] succeeded" in started.text())
        # The classic queue is used as it is, and the log says so.
        assert "queue oopses: x_" in started.text()
        assert "at the broker; change the file" in started.text()
        run(sys.executable, here(PUBLISHING, old_queue), tmp_path)
        old_queue.publish("oopses", b"garbage")
        (dead,) = eventually(lambda: old_queue.messages("oopses.dead"))
        assert dead.body == b"garbage"
        eventually(lambda: old_queue.count("oopses") == 0)
    finally:
        started.kill()


def test_a_queue_of_another_name(broker: Node, tmp_path: Path) -> None:
    queues = ("my queue", "my queue.retry", "my queue.dead")
    (tmp_path / "topology.yml").write_text(YAML.replace("60000", "300"))
    (tmp_path / "keeper.py").write_text(
        "import oops\nconfig = oops.Config()\n"
        "config.publisher = lambda report: [report['id']] if 'good' in report else []\n"
    )
    settings = dict(word.split("=") for word in shlex.split(YAML.splitlines()[0])[1:])
    started = Worker(
        tmp_path,
        broker.url,
        **settings,
        OOPS_CONFIG="keeper:config",
        OOPS_MAX_RETRIES="2",
    )
    try:
        with broker.connect() as connection:
            for report in ({"good": 1}, {"bad": 1}):
                body = wire.encode(report).body
                connection.channel().basic_publish(amqp.Message(body), "oopses")
        (dead,) = eventually(lambda: broker.messages("my queue.dead"))
        assert "bad" in wire.decode(dead.body)
        assert dead.headers["oops-attempts"] == 3
        eventually(lambda: "succeeded" in started.text())
    finally:
        started.kill()
        with broker.connect() as connection:
            for queue in queues:
                connection.channel().queue_delete(queue)


CONFIG = """
queues:
  - queue: test_queue
  - queue: answers
consumers:
  - consumer: workers:Consumer
    queue: test_queue
    prefetch_count: 2
"""

CONSUMER = """
class Consumer(object):
    def consume(self, amqp, msg):
        amqp.publish('', 'answers', {'n': 1}, msg.body)
    def shutdown(self, exception=None):
        pass
"""


def test_the_dispatcher_moves(broker: Node, tmp_path: Path) -> None:
    """Plain AMQP messages in, plain AMQP messages out."""
    (tmp_path / "amqp-dispatcher-config.yml").write_text(CONFIG)
    (tmp_path / "workers.py").write_text(CONSUMER)
    words = shlex.split(VALIDATE)
    done = subprocess.run(
        [Path(sys.executable).with_name(words[0]), *words[1:]],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (
        0,
        "amqp-dispatcher-config.yml: no mistakes\n",
    )
    started = start(DISPATCHER, tmp_path, broker)
    try:
        broker.publish("test_queue", b"\x00\xff")
        (answer,) = eventually(lambda: broker.messages("answers"))
        assert answer.body == b"\x00\xff"
        assert answer.headers == {"n": 1}
    finally:
        started.kill()
        with broker.connect() as connection:
            for queue in ("test_queue", "answers"):
                connection.channel().queue_delete(queue)


def test_the_names_of_amqp_dispatcher(tmp_path: Path) -> None:
    names = "from amqpdispatcher.amqp_proxy import AMQPProxy\nprint(AMQPProxy.publish)"
    assert "Proxy.publish" in run(sys.executable, f"{NAMES}\n{names}\n", tmp_path)


def test_every_block_of_the_page_is_run() -> None:
    assert len(PYTHON) == 4
    assert len(re.findall(r"^```\w", PAGE, re.MULTILINE)) == len(PYTHON) + 1
    assert [len(shlex.split(line)) for line in (WORKER, VALIDATE, DISPATCHER)] == [
        6,
        3,
        7,
    ]
    assert IMPORT == "oops-celery import ./oopses"  # test_repository_page
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
