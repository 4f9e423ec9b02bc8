"""Forks, also those that Python does not see: uWSGI's, and fork() of the C library."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support import PATIENCE, Node, environment, eventually

WSGI = """
import json, os, time
import oops_celery
before = oops_celery.publisher({"in": os.getpid()})
def application(environ, start_response):
    started = time.monotonic()
    ids = oops_celery.publisher({"question": environ["QUERY_STRING"]})
    start_response("200 OK", [("Content-Type", "application/json")])
    answer = [os.getpid(), before, ids, time.monotonic() - started]
    return [json.dumps(answer).encode()]
"""

#: How each child of these programs is made. `PyDLL` keeps Python's lock meanwhile, as
#: uWSGI does.
FORKS = {
    "python": "from os import fork",
    "c": "import ctypes; fork = ctypes.PyDLL(None).fork",
}

Uwsgi = Callable[..., int]


@pytest.fixture
def uwsgi(tmp_path: Path, broker: Node) -> Iterator[Uwsgi]:
    """Start uWSGI with the application; return its port."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: str, url: str = broker.url) -> int:
        (tmp_path / "app.py").write_text(WSGI)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = int(probe.getsockname()[1])
        program = Path(sys.executable).with_name("uwsgi")
        with (tmp_path / "uwsgi.log").open("wb") as log:
            process = subprocess.Popen(
                [
                    str(program),
                    *("--home", sys.prefix, "--module", "app", "--master"),
                    *("--processes", "2", "--need-app", "--die-on-term"),
                    *("--http-socket", f"127.0.0.1:{port}", *options),
                ],
                cwd=tmp_path,
                env=environment(RABBITMQ_URL=url),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        started.append(process)
        return port

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(port: int, question: object) -> tuple[int, list[str], list[str], float]:
    def answer() -> bytes | None:
        try:
            with urlopen(f"http://127.0.0.1:{port}/?{question}", timeout=120) as page:
                return bytes(page.read())
        except ConnectionRefusedError:
            return None
        except OSError as error:
            if isinstance(getattr(error, "reason", None), ConnectionRefusedError):
                return None
            raise

    return tuple(json.loads(eventually(answer)))  # type: ignore[return-value]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--enable-threads",),
        ("--enable-threads", "--threads", "4"),
        ("--lazy-apps",),
    ],
    ids=["master", "enable-threads", "threads", "lazy-apps"],
)
def test_workers_of_uwsgi_have_their_own_connections(
    broker: Node, uwsgi: Uwsgi, options: tuple[str, ...]
) -> None:
    port = uwsgi(*options)
    ask(port, "first")
    with ThreadPoolExecutor(8) as many:
        answers = list(many.map(lambda number: ask(port, number), range(200)))
    assert len({pid for pid, *_ in answers}) == 2
    ids = {report_id for *_, ids, _ in answers for report_id in ids}
    assert len(ids) == 200
    assert all(before for _, before, *_ in answers)
    sent = {message.headers["id"] for message in broker.messages("oopses")}
    assert ids < sent
    assert "unexpectedly closed" not in broker.log()[broker.log().rindex("accept") :]


def test_workers_of_uwsgi_find_the_broker_that_the_master_did_not(
    broker: Node, uwsgi: Uwsgi
) -> None:
    """The thread that looks for the broker is the master's."""
    thaw = broker.pause()
    try:
        port = uwsgi("--enable-threads")
        first = ask(port, "first")
        assert first[1] == []
    finally:
        thaw()
    pids = set()

    def found() -> bool:
        pid, _, ids, seconds = ask(port, "again")
        assert seconds < 20
        if ids:
            pids.add(pid)
        return len(pids) == 2

    eventually(found, 2 * PATIENCE)


@pytest.mark.parametrize("how", FORKS)
def test_parent_and_child_publish_at_the_same_time(
    broker: Node, run: Callable[..., str], how: str
) -> None:
    program = """
import os, threading, oops_celery
assert oops_celery.publisher({"first": 1})
child = fork()
who = "parent" if child else "child"
ids = []
def work(thread):
    for n in range(50):
        ids.extend(oops_celery.publisher({who: n, "thread": thread}))
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(set(ids)) == 200, (who, len(ids))
if not child:
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert oops_celery.publisher({"last": 1})
"""
    run(FORKS[how] + program)
    assert len({m.headers["id"] for m in broker.messages("oopses")}) == 402


@pytest.mark.parametrize("how", FORKS)
@pytest.mark.parametrize("end", ["raise SystemExit(0)", "os._exit(0)"])
@pytest.mark.parametrize("used", [True, False])
def test_the_end_of_a_child_leaves_the_connection_of_its_parent_alone(
    broker: Node, run: Callable[..., str], how: str, end: str, used: bool
) -> None:
    """A program that has more than publishers: a receiver's link, one in use."""
    run(
        f"""
{FORKS[how]}
import amqp, functools, gc, os, oops_celery
from oops_celery.transport.link import Link, open_link
assert oops_celery.publisher({{"first": 1}})
link = oops_celery.publisher._sender._idle[-1]
other = open_link(amqp.Connection(host={broker.host!r}), False, 5)
child = fork()
if not child:
    if {used}:
        assert oops_celery.publisher({{"child": 1}})
    del other
    gc.collect()
    {end}
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert oops_celery.publisher({{"last": 1}})
assert oops_celery.publisher._sender._idle[-1] is link
other.channel.queue_declare("oopses", passive=True)
"""
    )
    assert broker.count("oopses") == 2 + used


@pytest.mark.parametrize("how", FORKS)
def test_a_child_asks_for_the_broker_by_itself(
    run: Callable[..., str], how: str
) -> None:
    """A thread of the parent's that looks for it looks alive in the child."""
    program = """
import os, oops_celery
assert oops_celery.publisher({"k": 1}) == []
child = fork()
if not child:
    health = oops_celery.publisher._health
    before = health._prober
    oops_celery.publisher({"k": 1})
    os._exit(0 if health._prober is not before and health._prober.is_alive() else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        run(FORKS[how] + program, RABBITMQ_URL=f"amqp://127.0.0.1:{port}/")


@pytest.mark.parametrize("how", FORKS)
def test_a_fork_while_other_threads_publish(
    broker: Node, run: Callable[..., str], how: str
) -> None:
    """What they hold is not waited for, and they go on."""
    program = """
import os, signal, threading, time, oops_celery
publish = oops_celery.publisher
assert publish({"first": 1})
brokers = int(os.environ["BROKERS_PID"])
os.kill(brokers, signal.SIGSTOP)
ids = []
def work(number):
    ids.extend(publish({"parent": number}))
threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
for thread in threads: thread.start()
time.sleep(1)  # one waits for a confirm, and two for a connection
child = fork()
if not child:
    signal.alarm(20)
    assert publish({"child": 1}) == []
    os.kill(brokers, signal.SIGCONT)
    while not publish({"child": 2}):
        time.sleep(0.1)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
for thread in threads: thread.join()
while not publish({"last": 1}):
    time.sleep(0.1)
"""
    pid = broker.pid
    try:
        run(FORKS[how] + program, BROKERS_PID=str(pid))
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("how", FORKS)
def test_many_reports_go_on_in_a_child(
    broker: Node, run: Callable[..., str], how: str
) -> None:
    program = """
import os, oops_celery
reports = ({"n": n} for n in range(3000))
many = oops_celery.publisher.publish_many(reports)
assert next(many)
child = fork()
assert all(many), bool(child)
if not child:
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    run(FORKS[how] + program)
    assert len({m.headers["id"] for m in broker.messages("oopses")}) == 3000
