"""``report_failures`` in each pool, where Celery's own handling of a failure fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import oops
import pytest
from celery import Celery, Task

import oops_celery
from oops_celery import wire
from tests.support import PATIENCE, Node, environment, eventually

SHOP = """
import asyncio, os, sys, time
import oops, oops_celery
from celery import Celery, Task
from celery.exceptions import Ignore, Reject
from celery.signals import task_prerun

config = oops.Config()
config.publisher = oops_celery.FolderPublisher("oopses", sync=False)
app = Celery("shop", broker=os.environ["BROKER"])
app.conf.task_default_queue = os.environ["QUEUE"]
app.conf.worker_redirect_stdouts = False
if "BACKEND" in os.environ:
    app.conf.result_backend = os.environ["BACKEND"]
    app.conf.result_backend_transport_options = {"retry_policy": {"max_retries": 0}}
oops_celery.report_failures(app, config)

@task_prerun.connect
def runs(task, **_):
    with open("runs", "a") as file:
        file.write(f"{task.name} {task.request.id} {task.request.retries}\\n")

class Hooked(Task):
    def on_failure(self, *args): raise RuntimeError("of the hook")

class HookedOnce(Task):
    def on_failure(self, *args):
        if not os.path.exists("hooked"):
            open("hooked", "w").close()
            raise RuntimeError("of the hook")

class After(Task):
    def after_return(self, *args): raise RuntimeError("of the hook")

class OnRetry(Task):
    def on_retry(self, *args): raise RuntimeError("of the hook")

class Own(BaseException): pass

@app.task
def fails(password): {}["key"]

@app.task(base=Hooked)
def hooked(): raise ValueError("of the task")

@app.task(base=HookedOnce)
def hooked_once(): raise ValueError("of the task")

@app.task(base=Hooked)
def chained():
    try:
        1 / 0
    except ZeroDivisionError:
        raise ValueError("of the task")

@app.task(base=After)
def after(): raise ValueError("of the task")

@app.task(bind=True, base=OnRetry, max_retries=1, default_retry_delay=0)
def on_retry(self):
    try:
        1 / 0
    except ZeroDivisionError as error:
        raise self.retry(exc=error)

@app.task
def cancelled(): raise asyncio.CancelledError("of the task")

@app.task
def own(): raise Own("of the task")

@app.task(bind=True, max_retries=2, default_retry_delay=0)
def thrice(self):
    try:
        1 / 0
    except ZeroDivisionError as error:
        raise self.retry(exc=error)

@app.task(acks_late=True)
def late(): raise ValueError("of the task")

@app.task(ignore_result=True)
def ignored(): raise ValueError("of the task")

@app.task
def unjson(): return object()

@app.task(bind=True, max_retries=2, default_retry_delay=0)
def second_time(self):
    if not self.request.retries:
        raise self.retry(exc=ValueError())

@app.task(throws=(KeyError,))
def expected(): raise KeyError("expected")

@app.task(throws=(KeyError,), base=Hooked)
def expected_hooked(): raise KeyError("expected")

@app.task
def rejects(): raise Reject("no", requeue=False)

@app.task
def ignores(): raise Ignore()

@app.task
def works(): return 1

@app.task(time_limit=1)
def hard(): time.sleep(60)

@app.task
def dies(): os._exit(3)

@app.task
def last(): open("last", "w").close()
"""

FAILING = {
    "fails": "KeyError",
    "hooked": "ValueError",
    "hooked_once": "ValueError",
    "chained": "ValueError",
    "after": "ValueError",
    "thrice": "ZeroDivisionError",
    "late": "ValueError",
    "ignored": "ValueError",
    "unjson": "EncodeError",
}
#: They end a process of the prefork pool.
BARE = {"cancelled": "CancelledError", "own": "Own"}
IN_PROCESSES = {
    **BARE,  # with billiard before 4.3: WorkerLostError
    "hard": "TimeLimitExceeded",
    "dies": "WorkerLostError",
}
FINE = ("second_time", "expected", "expected_hooked", "rejects", "ignores", "works")

POOLS = ["prefork", "threads", "solo", "gevent", "eventlet"]


def reports(folder: Path) -> list[dict[str, Any]]:
    return [
        wire.decode(path.read_bytes())
        for path in folder.glob("oopses/*/*")
        if not path.name.endswith(".tmp")
    ]


@pytest.mark.parametrize("backend", ["away", "there"])
@pytest.mark.parametrize("pool", POOLS)
def test_a_task_that_fails_is_one_report(
    rabbitmq: Node, tmp_path: Path, pool: str, backend: str
) -> None:
    """A worker a task: Celery's own may end by what such a task raises."""
    queue = f"{pool}.{backend}"
    environ = {"BROKER": rabbitmq.url, "QUEUE": queue}
    (tmp_path / "results").mkdir()
    closed, open_ = "redis://127.0.0.1:1/0", f"file://{tmp_path}/results"
    environ["BACKEND"] = closed if backend == "away" else open_
    (tmp_path / "shop.py").write_text(SHOP)
    failing = FAILING | (IN_PROCESSES if pool == "prefork" else BARE)
    if backend == "away":
        failing.pop("unjson")  # nobody looks at its result
    green = pool in ("gevent", "eventlet")
    if backend == "away" and green:
        # Celery cannot send a retry there without Redis, and gives the task up.
        failing["second_time"] = "RuntimeError"
    expected = Counter((f"shop.{name}", kind) for name, kind in failing.items())
    topics = [name for name, _ in expected]
    sender = Celery(broker=rabbitmq.url, set_as_current=False)
    for name in {*failing, *FINE}:
        arguments = {"args": ("s3cr3t",)} if name == "fails" else {}
        sender.send_task(f"shop.{name}", queue=queue, **arguments)
    command = [sys.executable, "-m", "celery", "-A", "shop", "worker"]
    command += ["-P", pool, "-c", "2", "-l", "INFO", "--without-gossip"]
    workers: list[subprocess.Popen[bytes]] = []

    def found() -> bool:
        # An error in the solo pool ends the worker: somebody starts it again.
        if not workers or workers[-1].poll() is not None:
            with (tmp_path / "log").open("ab") as log:
                workers.append(
                    subprocess.Popen(
                        command,
                        cwd=tmp_path,
                        env=environment(**environ),
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )
        return (tmp_path / "last").exists()

    try:
        eventually(
            lambda: found() or {one["topic"] for one in reports(tmp_path)} >= {*topics},
            4 * PATIENCE,
        )
        sender.send_task("shop.last", queue=queue)
        eventually(found, 2 * PATIENCE)
        workers[-1].terminate()  # what is at work is finished
        with suppress(subprocess.TimeoutExpired):
            workers[-1].wait(PATIENCE / 3)
    finally:
        for worker in workers:
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
    found_reports = reports(tmp_path)
    found_kinds = Counter((one["topic"], one["type"]) for one in found_reports)
    if pool == "solo":
        # An error ends it before RabbitMQ has all acknowledgements: some run again.
        runs = Counter((tmp_path / "runs").read_text().splitlines())
        reported = Counter(one["topic"] for one in found_reports)
        again = runs - Counter(set(runs))
        allowed = Counter(line.split()[0] for line in again.elements())
        assert not reported - Counter(topics) - allowed
        assert set(found_kinds) == set(expected)
    else:
        assert found_kinds == expected
    for report in found_reports:
        name = report["topic"].removeprefix("shop.")
        assert report["value"] != "of the hook"
        retries = report["task"]["retries"]
        last = 0 if backend == "away" and green else 2
        assert retries == (last if name == "thrice" else 0)
        assert report["task"]["routing_key"] == queue
        if name not in IN_PROCESSES:
            late = name in ("unjson", "second_time")  # not raised by the task
            assert late or f"in {name}" in report["tb_text"]
        assert "s3cr3t" not in str(report["req_vars"])


# -- Eager tasks, in this process -----------------------------------------------------


@pytest.fixture
def app() -> Celery:
    return Celery("own", broker="memory://", set_as_current=False)


@pytest.fixture
def kept(app: Celery) -> list[dict[str, Any]]:
    config, reports = oops.Config(), []

    def publisher(report: dict[str, Any]) -> list[str]:
        reports.append(report)
        return [f"OOPS-{len(reports)}"]

    config.publisher = publisher
    oops_celery.report_failures(app, config)
    return reports


class Broken(Task):
    def on_failure(self, *_: Any) -> None:
        raise RuntimeError("of the hook")


@pytest.mark.parametrize("options", [{}, {"throw": True}])
@pytest.mark.parametrize("base", [Task, Broken])
@pytest.mark.parametrize("error", [ValueError("x"), GeneratorExit("x")])
def test_an_eager_task(
    app: Celery,
    kept: list[dict[str, Any]],
    options: dict[str, Any],
    base: Any,
    error: BaseException,
) -> None:
    @app.task(base=base, name="own.fails")
    def fails() -> None:
        raise error

    for number in (1, 2):
        try:
            fails.apply(**options)
        except (ValueError, GeneratorExit, RuntimeError):
            pass
        assert [one["type"] for one in kept] == [type(error).__name__] * number
        assert error.oops_id == f"OOPS-{number}"  # type: ignore[attr-defined]


def test_an_eager_task_that_works_while_an_error_is_handled(
    app: Celery, kept: list[dict[str, Any]]
) -> None:
    @app.task(name="own.works")
    def works() -> None: ...

    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        works.apply()
        works()
    assert kept == []


def test_a_task_in_a_task(app: Celery, kept: list[dict[str, Any]]) -> None:
    """Each that fails is a report, and the outer one that copes is none."""

    @app.task(name="own.inner")
    def inner() -> None:
        raise KeyError("inner")

    @app.task(name="own.outer")
    def outer(copes: bool) -> None:
        try:
            inner.apply(throw=True)
        except KeyError:
            if not copes:
                raise ValueError("outer") from None

    outer.apply((True,))
    assert [one["topic"] for one in kept] == ["own.inner"]
    outer.apply((False,))
    assert [one["topic"] for one in kept[1:]] == ["own.inner", "own.outer"]
    assert kept[-1]["value"] == "outer"


def test_ctrl_c_in_an_eager_task_is_no_failure(
    app: Celery, kept: list[dict[str, Any]]
) -> None:
    @app.task(name="own.interrupted")
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted.apply()
    assert kept == []


def test_an_error_before_the_task_runs(app: Celery, kept: list[dict[str, Any]]) -> None:
    class Early(Task):
        def before_start(self, *_: Any) -> None:
            raise LookupError("early")

    @app.task(base=Early, name="own.early")
    def early() -> None: ...

    early.apply()
    assert [one["type"] for one in kept] == ["LookupError"]


def test_a_handler_that_publishes_makes_no_second_report(tmp_path: Path) -> None:
    """Our own line, which has the id, is no failure; Celery's line is the handler's."""
    program = """
import logging, oops, oops_celery
from celery import Celery
config = oops.Config()
config.publisher = oops_celery.FolderPublisher("oopses")
class Handler(logging.Handler):
    def emit(self, record):
        config.publish({"line": record.getMessage(), "logger": record.name})
logging.getLogger().addHandler(Handler())
app = Celery(broker="memory://")
oops_celery.report_failures(app, config)
@app.task
def fails(): 1 / 0
fails.apply()
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    loggers = [one.get("logger") for one in reports(tmp_path)]
    assert Counter(loggers) == {None: 1, "celery.app.trace": 1}
