"""``report_failures``: real workers of somebody's own app, whose tasks fail."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import celery
import oops
import pytest
from celery import Celery, current_app, signals
from celery.exceptions import Ignore, Reject

import oops_celery
from oops_celery import wire
from oops_celery.settings.requirements import numbers
from tests.support import PATIENCE, Node, environment, eventually

#: Whether Celery tells all that it does since 5.7 of processes that end.
OF_5_7 = numbers(celery.__version__) >= (5, 7)

SHOP = """
import os, sys, threading, time
import oops
from celery import Celery, shared_task
from celery.exceptions import Reject
import oops_celery

config = oops.Config()
config.publisher = oops_celery.FolderPublisher("oopses", sync=False)
config.template["reporter"] = "shop"

app = Celery("shop", broker=os.environ["BROKER"])
app.conf.task_default_queue = os.environ["QUEUE"]
app.conf.worker_redirect_stdouts = False
oops_celery.report_failures(app, config)

class Odd(Exception):
    def __init__(self, a, b):
        super().__init__(a)
        self.lock = threading.Lock()  # what pickle cannot do

@app.task
def login(user, password, *more, **rest): raise KeyError(user)

@app.task
def bill(card, when=None): raise ValueError("not paid")

@app.task
def pay(card, password): raise ValueError("not paid")

@app.task
def ship(sizes, token): raise ValueError("too large")

@app.task
def odd(): raise Odd("odd", 2)

@app.task(bind=True, max_retries=2, default_retry_delay=0)
def thrice(self):
    try:
        1 / 0
    except ZeroDivisionError as error:
        raise self.retry(exc=error)

@app.task(bind=True, max_retries=2, default_retry_delay=0)
def second_time(self):
    if not self.request.retries:
        raise self.retry(exc=ValueError())

@app.task(throws=(KeyError,))
def expected(): raise KeyError("expected")

@app.task
def rejects(): raise Reject("no", requeue=False)

@app.task
def works(): pass

@app.task(name="oops_celery.like_ours")
def like_ours(): raise ValueError("not to be reported")

@shared_task
def shared(): raise LookupError("of every app")

@app.task(soft_time_limit=1, acks_late=True)
def soft(): time.sleep(60)

@app.task(time_limit=1)
def hard(password): time.sleep(60)

@app.task(time_limit=1, acks_late=True)
def hard_late(): time.sleep(60)

@app.task
def dies(): os._exit(3)

@app.task
def exits(): sys.exit(3)

@app.task
def last(): open("last", "w").close()
"""

#: Tasks that any pool can run, and what becomes of them.
FAILING = {
    "shop.login": "KeyError",
    "shop.bill": "ValueError",
    "shop.pay": "ValueError",
    "shop.ship": "ValueError",
    "shop.odd": "Odd",
    "shop.thrice": "ZeroDivisionError",
    "shop.shared": "LookupError",
}
FINE = (
    "shop.second_time",
    "shop.expected",
    "shop.rejects",
    "shop.works",
    "oops_celery.like_ours",
)
#: Those that need a process of their own.
FAILING_IN_PROCESSES = {
    "shop.soft": "SoftTimeLimitExceeded",
    "shop.hard": "TimeLimitExceeded",
    "shop.hard_late": "TimeLimitExceeded",
    "shop.dies": "WorkerLostError",
    "shop.exits": "WorkerLostError",
}
OPTIONS: dict[str, dict[str, Any]] = {
    "shop.login": {"args": ("ann", "s3cr3t", {"token": "t0k3n", "size": 5})},
    "shop.bill": {"args": ("4111",), "argsrepr": "(<hidden>,)"},
    "shop.pay": {"args": ("4111", "s3cr3t"), "argsrepr": "(<hidden>, 's3cr3t')"},
    "shop.ship": {"args": ((1, ("a", 2)),), "kwargs": {"token": "s3cr3t"}},
    "shop.hard": {"args": ("s3cr3t",)},
}


@dataclass
class Shop:
    """What a worker has left behind that has run every task."""

    folder: Path
    pool: str

    @property
    def queue(self) -> str:
        return f"shop.{self.pool}"

    def log(self) -> str:
        return (self.folder / "worker.log").read_text()

    def reports(self) -> list[dict[str, Any]]:
        return [
            wire.decode(path.read_bytes())
            for path in self.folder.glob("oopses/*/*")
            if not path.name.endswith(".tmp")
        ]

    def run(self, node: Node) -> None:
        (self.folder / "shop.py").write_text(SHOP)
        command = [sys.executable, "-m", "celery", "-A", "shop", "worker"]
        with (self.folder / "worker.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "-P", self.pool, "-c", "2", "-l", "INFO", "-n", "shop@%h"],
                cwd=self.folder,
                env=environment(BROKER=node.url, QUEUE=self.queue),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        failing = expected_of(self)
        sender = Celery(broker=node.url, set_as_current=False)
        try:
            for name in (*failing, *FINE):
                sender.send_task(name, queue=self.queue, **OPTIONS.get(name, {}))
            eventually(lambda: len(self.reports()) >= len(failing), 3 * PATIENCE)
            sender.send_task("shop.last", queue=self.queue)
            eventually((self.folder / "last").exists)
            process.terminate()  # what is at work is finished
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE / 3)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module", params=["prefork", "threads", "solo"])
def shop(
    request: Any, rabbitmq: Node, tmp_path_factory: pytest.TempPathFactory
) -> Shop:
    """A worker that has run every task, and has ended; one for all test processes."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    one = Shop(base / f"shop-{request.param}", request.param)
    one.folder.mkdir(exist_ok=True)
    with (one.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (one.folder / "begun").exists():
            (one.folder / "begun").touch()
            one.run(rabbitmq)
    return one


def expected_of(shop: Shop) -> dict[str, str]:
    if shop.pool != "prefork":
        return FAILING
    # Before 5.7, Celery tells of a process that exits what billiard 4.3 tells it.
    older = {} if OF_5_7 else {"shop.exits": "SystemExit"}
    return {**FAILING, **FAILING_IN_PROCESSES, **older}


def report_of(shop: Shop, name: str) -> dict[str, Any]:
    (report,) = [one for one in shop.reports() if one["topic"] == name]
    return report


def test_each_failure_is_one_report_and_nothing_else_is_one(shop: Shop) -> None:
    found = Counter((one["topic"], one["type"]) for one in shop.reports())
    assert found == Counter(expected_of(shop).items())


def test_a_report_says_which_task_and_where(shop: Shop) -> None:
    for name in expected_of(shop):
        report = report_of(shop, name)
        assert report["reporter"] == "shop"
        assert report["hostname"]
        task = report["task"]
        assert task["name"] == name
        assert len(task["id"]) == 36
        if name in FAILING_IN_PROCESSES and not OF_5_7:
            continue  # Celery gives no context
        assert task["retries"] == (2 if name == "shop.thrice" else 0)
        assert task["routing_key"] == shop.queue
        assert task["worker"].startswith("shop@")


def test_a_report_has_the_traceback(shop: Shop) -> None:
    assert "in login" in report_of(shop, "shop.login")["tb_text"]
    assert "1 / 0" in report_of(shop, "shop.thrice")["tb_text"]
    odd = report_of(shop, "shop.odd")  # Celery wraps it, as it cannot be pickled
    assert odd["value"] == "odd"
    assert "in odd" in odd["tb_text"]
    if shop.pool == "prefork":
        assert "in soft" in report_of(shop, "shop.soft")["tb_text"]
        assert report_of(shop, "shop.dies")["tb_text"]


def test_arguments_have_their_names_and_no_secrets(shop: Shop) -> None:
    assert report_of(shop, "shop.login")["req_vars"] == {
        "user": "'ann'",
        "password": "'<scrubbed>'",
        "args[2]": "{'token': '<scrubbed>', 'size': 5}",
    }
    if shop.pool == "prefork":
        report = report_of(shop, "shop.hard")
        assert report["req_vars"] == {"password": "'<scrubbed>'"}


def test_a_description_of_the_senders_stands_for_the_arguments(shop: Shop) -> None:
    assert report_of(shop, "shop.bill")["req_vars"] == {
        "argsrepr": "(<hidden>,)",
        "kwargsrepr": "{}",
    }
    # Where an argument is secret, a description may be of it.
    assert report_of(shop, "shop.pay")["req_vars"] == {
        "argsrepr": "<scrubbed>",
        "kwargsrepr": "<scrubbed>",
    }
    # Celery's own description is none, though JSON makes lists of tuples.
    assert report_of(shop, "shop.ship")["req_vars"] == {
        "sizes": "[1, ['a', 2]]",
        "token": "'<scrubbed>'",
    }


def test_the_id_is_logged_with_the_task(shop: Shop) -> None:
    log = shop.log()
    for name in expected_of(shop):
        report = report_of(shop, name)
        line = f"task {name}[{report['task']['id']}] failed: {report['id']}"
        assert log.count(line) == 1
    assert "Signal handler" not in log
    assert "no report" not in log


# -- One at a time, in this process ---------------------------------------------------


@pytest.fixture
def app() -> Celery:
    return Celery("own", broker="memory://", set_as_current=False)


@pytest.fixture
def config() -> oops.Config:
    """A config that keeps the reports in a list, `kept`."""
    made = oops.Config()
    made.kept = []

    def publisher(report: dict[str, Any]) -> list[str]:
        made.kept.append(report)
        return [f"OOPS-{len(made.kept)}"]

    made.publisher = publisher
    return made


def failing(app: Celery, error: BaseException, **options: Any) -> Any:
    @app.task(name=f"own.fails.{type(error).__name__}", **options)
    def fails(*args: Any, **kwargs: Any) -> None:
        raise error

    return fails


def test_the_id_is_on_the_exception(app: Celery, config: oops.Config) -> None:
    oops_celery.report_failures(app, config)
    error = ValueError("x")
    failing(app, error).apply()
    assert error.oops_id == "OOPS-1"  # type: ignore[attr-defined]

    class Closed(Exception):
        __slots__ = ()
        __hash__ = None  # type: ignore[assignment]

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "oops_id":
                raise AttributeError(name)
            super().__setattr__(name, value)

    assert failing(app, Closed()).apply().state == "FAILURE"
    assert len(config.kept) == 2


def test_those_who_see_the_exception_later_see_the_id(
    app: Celery, config: oops.Config
) -> None:
    oops_celery.report_failures(app, config)
    seen = []

    def postrun(retval: Any = None, **_: Any) -> None:
        seen.append(retval.oops_id)

    signals.task_postrun.connect(postrun)
    failing(app, ValueError("x")).apply()
    signals.task_postrun.disconnect(postrun)
    assert seen == ["OOPS-1"]


def test_only_the_given_app_counts(app: Celery, config: oops.Config) -> None:
    oops_celery.report_failures(app, config)
    other = Celery("other", broker="memory://", set_as_current=False)
    failing(other, ValueError()).apply()
    assert config.kept == []
    failing(app, ValueError()).apply()
    assert len(config.kept) == 1


def test_the_current_app_may_be_given(app: Celery, config: oops.Config) -> None:
    before = current_app._get_current_object()
    app.set_current()
    try:
        oops_celery.report_failures(current_app, config)
    finally:
        before.set_current()
    failing(app, ValueError()).apply()
    assert len(config.kept) == 1


def test_a_second_call_changes_the_config(app: Celery, config: oops.Config) -> None:
    first = oops.Config()
    first.publisher = lambda report: pytest.fail("the first config is used")
    oops_celery.report_failures(app, first)
    oops_celery.report_failures(app, config)
    failing(app, ValueError()).apply()
    assert len(config.kept) == 1


def test_the_app_of_oops_celery_is_refused(config: oops.Config) -> None:
    with pytest.raises(ValueError, match="not for that of oops_celery"):
        oops_celery.report_failures(oops_celery.app, config)


@pytest.mark.parametrize("error", [Reject(), Ignore()])
def test_an_answer_is_no_failure(
    app: Celery, config: oops.Config, error: Exception
) -> None:
    oops_celery.report_failures(app, config)
    failing(app, error).apply()
    assert config.kept == []


@pytest.mark.parametrize(
    "trouble",
    [
        lambda config: config.on_create.append(lambda report, context: 1 / 0),
        lambda config: setattr(config, "publisher", lambda report: 1 / 0),
        lambda config: setattr(config, "publisher", lambda report: sys.exit()),
    ],
)
def test_trouble_with_the_report_leaves_the_task_alone(
    app: Celery,
    config: oops.Config,
    caplog: pytest.LogCaptureFixture,
    trouble: Callable[[Any], None],
) -> None:
    trouble(config)
    oops_celery.report_failures(app, config)
    result = failing(app, ValueError("x")).apply()
    assert (result.state, repr(result.result)) == ("FAILURE", "ValueError('x')")
    messages = [record.message for record in caplog.records]
    assert f"task own.fails.ValueError[{result.id}] failed: no report" in messages
    assert not any("Signal handler" in message for message in messages)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [([], "failed: its report is not published"), (None, None)],
)
def test_a_report_that_nobody_took_is_said(
    app: Celery,
    config: oops.Config,
    caplog: pytest.LogCaptureFixture,
    answer: Any,
    expected: str | None,
) -> None:
    config.publisher = lambda report: answer
    if answer is None:
        config.filters.append(lambda report: True)
    oops_celery.report_failures(app, config)
    with caplog.at_level(logging.INFO, "oops_celery"):
        failing(app, ValueError("x")).apply()
    said = [one.message for one in caplog.records if one.name.startswith("oops_celery")]
    assert len(said) == (1 if expected else 0)
    assert all((expected or "") in message for message in said)


def test_without_a_broker_a_task_waits_once_at_most(app: Celery) -> None:
    config = oops.Config()
    # A network that answers nothing: TEST-NET-1 (RFC 5737).
    unreachable = Celery(broker="amqp://192.0.2.1/", set_as_current=False)
    config.publisher = oops_celery.Publisher(unreachable, timeout=1)
    oops_celery.report_failures(app, config)
    task = failing(app, ValueError("x"))
    started = time.monotonic()
    for _ in range(60):
        assert task.apply().state == "FAILURE"
    assert time.monotonic() - started < 30  # 60 s, were each to wait


def test_arguments_that_do_not_fit_the_task(app: Celery, config: oops.Config) -> None:
    oops_celery.report_failures(app, config)

    @app.task(name="own.two")
    def two(password: str, other: int = 0) -> None: ...

    two.apply(("s3cr3t", 1, 2, "https://h/?token=t0k3n"), {"api_key": "k"})
    (report,) = config.kept
    assert report["type"] == "TypeError"
    assert report["req_vars"] == {
        "password": "'<scrubbed>'",
        "other": "1",
        "args[2]": "2",
        "args[3]": "'https://h/?token=<scrubbed>'",
        "api_key": "'<scrubbed>'",
    }


def test_an_argument_is_short_and_can_be_anything(
    app: Celery, config: oops.Config
) -> None:
    oops_celery.report_failures(app, config)

    class Bad:
        def __repr__(self) -> str:
            raise OSError

    failing(app, ValueError()).apply(("x" * 100_000, Bad()))
    texts = list(config.kept[0]["req_vars"].values())
    assert len(texts[0]) < 1100
    assert "Bad" in texts[1]
