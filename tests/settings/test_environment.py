"""The application's environment around ours: its result backend, its Celery."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kombu
import pytest
from celery.app.defaults import NAMESPACES, flatten

from oops_celery import Publisher
from oops_celery.errors import SettingsError
from oops_celery.settings import load
from oops_celery.settings.celery_settings import _OF_RESULTS, _REFUSED
from tests.support import PACKAGED, Node, Worker, environment, eventually

StartWorker = Callable[..., Worker]

POOLS = ["prefork", "threads", "solo", "gevent", "eventlet"]

#: Nobody listens there.
CLOSED = "redis://127.0.0.1:1/0"


@pytest.fixture
def publish(broker: Node) -> Publisher:
    """Declares nothing: the worker does."""
    return Publisher(lambda: kombu.Connection(broker.url), "oopses", "", timeout=60)


def seen(worker: Worker, report_id: str) -> int:
    """Return how often a report came to the operator's config."""
    return len((worker.folder / f"seen-{report_id}").read_bytes())


# -- A result backend ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pool", "backend"),
    [*((pool, CLOSED) for pool in POOLS), ("solo", "no.such.module:Backend")],
)
def test_a_result_backend_is_not_used(
    broker: Node,
    worker: StartWorker,
    publish: Publisher,
    keeper: Any,
    pool: str,
    backend: str,
) -> None:
    """A refused report becomes one dead letter, a kept one a file."""
    settings = keeper(
        """
        if report["n"] < 5: raise OSError("disk full")
        return repository.publish(report)
        """
    )
    started = worker(
        *("-P", pool, "-c", "2"),
        **settings,
        OOPS_MAX_RETRIES="2",
        CELERY_RESULT_BACKEND=backend,
    )
    sent = [publish({"n": n})[0] for n in range(10)]
    eventually(lambda: broker.count("oopses.dead") == 5)
    eventually(lambda: len(started.files()) == 5)
    eventually(lambda: started.text().count("raised unexpected") == 5)
    started.stop()
    assert broker.count("oopses.dead") == 5
    assert [seen(started, one) for one in sent] == 5 * [3] + 5 * [1]
    for queue in ("oopses", "oopses.retry.1", "oopses.retry.2", "oopses.retry.3"):
        assert broker.count(queue) == 0
    assert "CELERY_RESULT_BACKEND ignored" in started.text()


@pytest.fixture
def mine(broker: Node) -> Iterator[None]:
    """A queue that is not ours."""
    with broker.connect() as connection:
        connection.channel().queue_declare("mine", auto_delete=False)
    yield
    with broker.connect() as connection:
        connection.channel().queue_delete("mine")


CONSUMER = """
class Consumer:
    def consume(self, proxy, msg):
        open("consumed", "a").write(msg.body.decode())
        proxy.ack() if msg.body == b"a" else None
    def shutdown(self, exception=None):
        pass
"""


@pytest.mark.parametrize("pool", POOLS)
def test_a_message_of_a_consumer_is_consumed_once(
    broker: Node, worker: StartWorker, tmp_path: Path, mine: None, pool: str
) -> None:
    (tmp_path / "mine.py").write_text(CONSUMER)
    (tmp_path / "topology.yml").write_text(
        "queues: [{queue: mine, durable: false}]\n"
        "consumers: [{consumer: 'mine:Consumer', queue: mine, consumer_count: 1}]\n"
    )
    started = worker(
        *("-P", pool),
        OOPS_TOPOLOGY="topology.yml",
        PYTHONPATH=".",
        CELERY_RESULT_BACKEND=CLOSED,
    )
    for body in (b"a", b"b", b"a"):
        broker.publish("mine", body)
    consumed = tmp_path / "consumed"
    eventually(lambda: consumed.exists() and len(consumed.read_text()) == 3)
    eventually(lambda: started.text().count("succeeded in") == 3)
    started.stop()
    assert consumed.read_text() == "aba"
    assert broker.count("mine") == 0


#: What fails when a task has ended, in Celery's own code and in what it calls.
TROUBLES = {
    "a logging filter": """
        import logging
        def fails(record):
            if "oops_celery.republish" in record.getMessage():
                raise OSError("no room for a line")
            return True
        logging.getLogger("celery.app.trace").addFilter(fails)
    """,
    "a signal handler, gravely": """
        import asyncio
        from celery import signals
        def fails(**_): raise asyncio.CancelledError("after the end")
        for signal in (signals.task_postrun, signals.task_success, signals.task_retry,
                       signals.task_failure):
            signal.connect(fails, weak=False)
    """,
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_is_settled_is_not_settled_again(
    broker: Node,
    worker: StartWorker,
    publish: Publisher,
    keeper: Any,
    tmp_path: Path,
    pool: str,
    trouble: str,
) -> None:
    settings = keeper(
        """
        if report["n"] == 0: raise OSError("disk full")
        return repository.publish(report)
        """
    )
    with (tmp_path / "keeper.py").open("a") as file:
        file.write(textwrap.dedent(TROUBLES[trouble]))
    started = worker(*("-P", pool, "-c", "2"), **settings, OOPS_MAX_RETRIES="2")
    sent = [publish({"n": n})[0] for n in range(2)]
    eventually(lambda: broker.count("oopses.dead") == 1)
    eventually(lambda: len(started.files()) == 1)
    started.stop()
    assert [seen(started, one) for one in sent] == [3, 1]
    assert broker.count("oopses.dead") == 1
    for queue in ("oopses", "oopses.retry.1", "oopses.retry.2", "oopses.retry.3"):
        assert broker.count(queue) == 0
    assert "after that Celery failed" in started.text()


# -- Variables and options -------------------------------------------------------------


def test_the_variables_of_the_application(
    broker: Node, worker: StartWorker, mine: None, run: Callable[..., str]
) -> None:
    """Reports go to our broker and come from there; other queues are left alone."""
    closed = "amqp://guest:guest@127.0.0.1:1//"
    variables = {
        "CELERY_BROKER_URL": closed,
        "CELERY_BROKER_READ_URL": closed,
        "CELERY_BROKER_WRITE_URL": closed,
        "CELERY_RESULT_BACKEND": CLOSED,
        "CELERY_LOADER": "no.such:Loader",
        "CELERY_WORKER_QUEUES": "mine",
        "CELERY_WORKER_EXCLUDE_QUEUES": "oopses",
        "CELERY_WORKER_HOSTNAME": "theirs@%h",
        "CELERY_WORKER_INCLUDE": "no_such_module",
        "CELERY_WORKER_BEAT": "1",
        "CELERY_WORKER_PURGE": "1",
        "CELERY_WORKER_CONCURRENCY": "none",
        "BROKER_URL": closed,
        "RESULT_BACKEND": CLOSED,
        "LOADER": "no.such:Loader",
    }
    broker.publish("mine", b"theirs", content_type="application/json")
    program = "import oops_celery; print(oops_celery.publisher({'n': 1}))"
    assert run(program, **variables).startswith("['OOPS-")
    started = worker("-P", "solo", **variables)
    eventually(lambda: len(started.files()) == 1)
    text = started.text()
    assert "ready." in text
    for name in variables:
        assert name in text, name
    started.stop()
    assert broker.count("mine") == 1
    assert broker.count("oopses.dead") == 0


def celery(tmp_path: Path, url: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("celery")), "-A", "oops_celery", *words],
        cwd=tmp_path,
        env=environment(RABBITMQ_URL=url),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            "worker -Q other",
            "Error: -Q other: the worker takes reports from OOPS_QUEUE",
        ),
        ("worker -Q oopses,other", "Error: -Q other:"),
        ("worker -X oopses", "Error: -X oopses: the worker would take no reports"),
        ("worker -B", "Error: -B: nothing is scheduled here"),
        ("worker --prefetch-multiplier=-1", "--prefetch-multiplier=-1: must be 0 or"),
        ("worker --time-limit=-2.5", "--time-limit=-2.5: must be 0 or more"),
        ("worker --max-tasks-per-child=0", "--max-tasks-per-child=0: must be 1 or"),
        ("worker --autoscale=0", "Error: --autoscale=0,0: must be at least one"),
        ("worker -P threads --autoscale=2", "this kind of pool cannot grow"),
        ("worker -- worker.direct=1", "set settings of Celery in the environment"),
        ("-b amqp://x worker", "Error: --broker: set RABBITMQ_URL"),
        ("-b amqp://x inspect ping", "Error: --broker: set RABBITMQ_URL"),
        ("--result-backend rpc:// worker", "Error: --result-backend: reports have no"),
        ("--loader x:y worker", "Error: --loader: settings come from"),
    ],
)
def test_an_option_that_is_refused(tmp_path: Path, options: str, expected: str) -> None:
    done = celery(tmp_path, "amqp://127.0.0.1:1", *options.split())
    assert done.returncode != 0
    assert expected in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.slow
def test_no_other_queue_by_remote_control(
    broker: Node,
    worker: StartWorker,
    mine: None,
    publish: Publisher,
    tmp_path: Path,
) -> None:
    started = worker("-Q", "oopses", "-P", "threads")
    broker.publish("mine", b"theirs", content_type="application/json")

    def control(*words: str) -> str:
        done = celery(tmp_path, broker.url, "control", "-t", "10", *words)
        return done.stdout + done.stderr

    assert "takes reports from oopses alone" in control("add_consumer", "mine")
    assert "no longer consuming" in control("cancel_consumer", "oopses")
    eventually(lambda: "Canceling queue oopses" in started.text())
    publish({"n": 1})
    eventually(lambda: broker.count("oopses") == 1)
    assert "add consumer oopses" in control("add_consumer", "oopses")
    eventually(lambda: len(started.files()) == 1)
    assert broker.count("mine") == 1


# -- Celery's settings -----------------------------------------------------------------

OPTIONS = dict(flatten(NAMESPACES))
REFUSED = {*_REFUSED, "broker_transport"}

#: A value that is plausible, and not the default, by Celery's type.
PLAUSIBLE: dict[Any, Any] = {
    "bool": True,
    "int": 5,
    int: 5,
    "float": 7.5,
    "dict": {},
    "tuple": [],
    "list": ["json"],
    "any": None,
    "string": "x",
    "str": "x",
    "bytes": None,
}
PLAUSIBLE_FOR = {
    "broker_failover_strategy": "shuffle",
    "broker_login_method": "AMQPLAIN",
    "broker_pool_limit": 1,
    "broker_transport_options": {"confirm_publish": True},
    "broker_url": "amqp://elsewhere/",
    "enable_utc": False,
    "imports": ["json"],
    "task_acks_late": False,
    "task_acks_on_failure_or_timeout": False,
    "task_create_missing_queues": False,
    "task_default_rate_limit": "1000/s",
    "task_reject_on_worker_lost": False,
    "timezone": "Europe/Berlin",
    "worker_concurrency": 1,
    "worker_log_color": False,
    "worker_log_datefmt": "%H",
    "worker_log_format": "%(message)s",
    "worker_pool": "prefork",
    "worker_prefetch_multiplier": 1,
    "worker_redirect_stdouts_level": "INFO",
    "worker_send_task_events": False,
    "worker_state_db": "state",
    "worker_task_log_datefmt": "%H",
    "worker_task_log_format": "%(message)s",
    # Tried by themselves, below.
    "worker_enable_remote_control": True,
    "worker_pool_start_method": "fork",
    "worker_max_memory_per_child": 1_000_000,
}


def plausible(key: str) -> Any:
    return PLAUSIBLE_FOR.get(key, PLAUSIBLE[OPTIONS[key].type])


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize("key", OPTIONS)
def test_each_setting_of_celery_is_taken_or_refused_by_name(key: str) -> None:
    name = f"OOPS_{key.upper()}"
    environ = {name: as_text(plausible(key))}
    if key not in REFUSED:
        assert (key in load(environ).celery) != key.startswith(_OF_RESULTS)
        return
    with pytest.raises(SettingsError, match=f"^{name}: has no place here: ") as error:
        load(environ)
    assert "\n" not in str(error.value)


def test_a_report_arrives_with_all_settings_of_celery_that_are_taken(
    broker: Node, worker: StartWorker, publish: Publisher
) -> None:
    settings = {
        f"OOPS_{key.upper()}": as_text(plausible(key))
        for key in OPTIONS
        if key not in REFUSED and plausible(key) is not None and key != "broker_url"
    }
    # Its own log says "ready" in the format of this test.
    started = worker("-P", "prefork", **settings)
    publish({"n": 1})
    eventually(lambda: len(started.files()) == 1)
    publish({"n": 2})
    eventually(lambda: len(started.files()) == 2)
    started.stop()
    assert broker.count("oopses") == broker.count("oopses.dead") == 0
    assert "Traceback" not in started.text()


@pytest.mark.parametrize(
    "setting",
    [
        "BROKER_CHANNEL_ERROR_RETRY=false",
        "BROKER_CONNECTION_RETRY=false",
        "BROKER_HEARTBEAT=0",
        "BROKER_HEARTBEAT=1",
        "BROKER_POOL_LIMIT=0",
        "TASK_ALWAYS_EAGER=true",
        "TASK_DEFAULT_RATE_LIMIT=1000/s",
        "WORKER_CONCURRENCY=0",
        "WORKER_CONCURRENCY=auto",
        "WORKER_ENABLE_REMOTE_CONTROL=false",
        "WORKER_MAX_TASKS_PER_CHILD=1",
        "WORKER_POOL_PUTLOCKS=false",
        "WORKER_POOL_START_METHOD=spawn",
        "WORKER_PREFETCH_MULTIPLIER=0",
    ],
)
def test_a_report_arrives_with(
    broker: Node, worker: StartWorker, publish: Publisher, setting: str
) -> None:
    name, _, value = setting.partition("=")
    options = () if name == "WORKER_CONCURRENCY" else ("-c", "2")
    started = worker("-P", "prefork", *options, **{f"OOPS_{name}": value})
    for n in range(2):
        publish({"n": n})
        eventually(lambda n=n: len(started.files()) == n + 1)
    assert "Traceback" not in started.text()


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("BROKER_CONNECTION_TIMEOUT=0", "must be a number, more than 0"),
        ("BROKER_HEARTBEAT=-1", "must be a whole number, 0 or more"),
        ("BROKER_HEARTBEAT=1.5", "must be a whole number, 0 or more"),
        ("BROKER_HEARTBEAT_CHECKRATE=0", "must be a whole number, more than 0"),
        ("BROKER_TRANSPORT_OPTIONS=[]", "must be an object"),
        ("BROKER_LOGIN_METHOD=NONE", "must be PLAIN, AMQPLAIN or EXTERNAL"),
        ("IMPORTS=5", "must be a list"),
        ("TASK_TIME_LIMIT=true", "must be a number, 0 or more"),
        ("TASK_DEFAULT_RATE_LIMIT=often", "must be a rate, as 10/s"),
        ("TIMEZONE=Nowhere", "must be the name of a time zone"),
        ("WORKER_CONCURRENCY=-1", "must be a whole number, or auto"),
        ("WORKER_LOG_FORMAT=%(", "must be a format of Python's logging"),
        ("WORKER_PREFETCH_MULTIPLIER=-1", "must be a whole number, 0 or more"),
        ("WORKER_SEND_TASK_EVENTS=[]", "must be true or false"),
    ],
)
def test_a_value_that_is_refused(setting: str, expected: str) -> None:
    name, _, value = f"OOPS_{setting}".partition("=")
    with pytest.raises(SettingsError) as error:
        load({name: value})
    assert str(error.value).startswith(f"{name}=")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["s3cr3t", '["s3cr3t"]', '{"a": "s3cr3t"'])
def test_a_value_that_may_be_a_password_is_not_shown(value: str) -> None:
    with pytest.raises(SettingsError, match=r"TRANSPORT_OPTIONS=\*\*") as error:
        load({"OOPS_BROKER_TRANSPORT_OPTIONS": value})
    assert "s3cr3t" not in str(error.value)
    read = load({"OOPS_SECURITY_KEY_PASSWORD": value})
    assert read.celery["security_key_password"] == value


def test_what_may_be_another_programs_has_no_effect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert load({"OOPS_REDIS_PORT": "tcp://10.0.0.1:6379"}).celery == {}
    assert "OOPS_REDIS_PORT: has no effect" in caplog.text


# -- Autoscaling -----------------------------------------------------------------------

SLOW = """
import pathlib, time

class Consumer:
    def consume(self, proxy, msg):
        pathlib.Path("at-work").open("a").write(".")
        while not pathlib.Path("go-on").exists():
            time.sleep(0.05)
        proxy.ack()
    def shutdown(self, exception=None):
        pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_autoscale_leaves_the_consumers_their_places(
    broker: Node,
    worker: StartWorker,
    publish: Publisher,
    tmp_path: Path,
    mine: None,
    pool: str,
) -> None:
    """A report arrives while two slow consumers are at work."""
    (tmp_path / "mine.py").write_text(SLOW)
    topology = PACKAGED.read_text()
    (tmp_path / "topology.yml").write_text(
        topology
        + "consumers: [{consumer: 'mine:Consumer', queue: mine, consumer_count: 2,"
        " prefetch_count: 2}]\n"
    )
    started = worker(
        *("-P", pool, "--autoscale=1,1"), OOPS_TOPOLOGY="topology.yml", PYTHONPATH="."
    )
    for _ in range(2):
        broker.publish("mine", b"x")
    at_work = tmp_path / "at-work"
    eventually(lambda: at_work.exists() and len(at_work.read_text()) == 2)
    publish({"n": 1})
    eventually(lambda: len(started.files()) == 1)
    changed = celery(tmp_path, broker.url, "control", "-t", "10", "autoscale", "1", "1")
    assert "autoscale now max=1 min=1" in changed.stdout
    publish({"n": 2})
    eventually(lambda: len(started.files()) == 2)
    assert len(at_work.read_text()) == 2
    (tmp_path / "go-on").touch()
    eventually(lambda: broker.count("mine") == 0)


def test_autoscale_without_a_place_at_first(
    broker: Node, worker: StartWorker, publish: Publisher
) -> None:
    started = worker("--autoscale=2,0")
    for n in range(5):
        publish({"n": n})
    eventually(lambda: len(started.files()) == 5)
