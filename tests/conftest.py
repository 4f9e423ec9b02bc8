"""What the tests share: a private RabbitMQ node, real workers, real folders."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from hashlib import md5
from pathlib import Path
from typing import Any

import amqp
import pytest
from hypothesis import HealthCheck, settings
from rabbitfixture.server import RabbitServer

# A shell has what it starts in the background ignore Ctrl-C, and all that descends from
# it; tests send that signal.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# So that a failing assertion there says what it compared.
pytest.register_assert_rewrite("faults")

settings.register_profile(
    "shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("shared machine")

#: Seconds that anything asynchronous may take here.
PATIENCE = 30.0

ROOT = Path(__file__).parent.parent

#: The default topology, with its pauses shortened to milliseconds.
QUICK_TOPOLOGY = re.sub(
    r"x_message_ttl: (\d+)",
    lambda found: f"x_message_ttl: {int(found[1]) // 200}",
    (ROOT / "oops_celery/topology/default.yml").read_text(),
)


#: Modules whose tests are for `make test-long`; and so are those of other pools.
LONG = ("benchmarks", "deploying", "django", "failures_pools", "forks", "package")
OTHER_POOLS = {"threads", "solo", "gevent", "eventlet"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that `make test`, or a cell of the matrix, leaves out."""
    for item in items:
        if "old_python" in getattr(item, "fixturenames", ()):
            item.add_marker("installs")  # a cell has no network
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if (
            item.path.stem.removeprefix("test_") in LONG
            or OTHER_POOLS & set(re.findall(r"\w+", str([*parameters.values()])))
            or any(map(item.get_closest_marker, ("slow", "restarts")))
        ):
            item.add_marker("long")


def eventually(check: Callable[[], Any], timeout: float = PATIENCE) -> Any:
    """Poll until the check returns something true; return that."""
    deadline = time.monotonic() + timeout
    while True:
        result = check()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(
                f"did not happen within {timeout:g} s: last {result!r}"
            )
        time.sleep(0.05)


class Node:
    """A private RabbitMQ node."""

    def __init__(self, server: RabbitServer) -> None:
        self._server = server
        config = server.config
        self.host = f"{config.hostname}:{config.port}"
        self.port: int = config.port
        self._name = config.fq_nodename
        self.home: str = config.homedir
        self.url = f"amqp://guest:guest@{self.host}/"

    def ctl(self, *command: str) -> str:
        """Run rabbitmqctl; return what it prints."""
        out, err = self._server.runner.environment.rabbitctl(command, timeout=60)
        assert "Error" not in err, err
        return str(out)

    @property
    def pid(self) -> int:
        return int(self.ctl("eval", "os:getpid().").strip().strip('"'))

    def log(self) -> str:
        (path,) = Path(self._server.config.homedir).glob(f"{self._name}.log")
        return path.read_text(errors="replace")

    def connect(self) -> amqp.Connection:
        connection = amqp.Connection(host=self.host)
        connection.connect()
        return connection

    def pause(self) -> Callable[[], None]:
        """Freeze the broker; return what thaws it."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        return lambda: os.kill(pid, signal.SIGCONT)

    def restart(self) -> None:
        self.ctl("stop_app")
        self.ctl("start_app")

    def count(self, queue: str) -> int:
        """Return the number of messages that are ready in a queue."""
        with self.connect() as connection:
            return int(connection.channel().queue_declare(queue, passive=True)[1])

    def messages(self, queue: str) -> list[amqp.Message]:
        """Take all messages out of a queue."""
        taken = []
        with self.connect() as connection:
            channel = connection.channel()
            channel.auto_decode = False
            while (message := channel.basic_get(queue, no_ack=True)) is not None:
                taken.append(message)
        return taken

    def publish(self, queue: str, body: bytes, **properties: Any) -> None:
        """Put a message into a queue, as any AMQP program would."""
        with self.connect() as connection:
            connection.channel().basic_publish_confirm(
                amqp.Message(body, **properties), "", queue, mandatory=True
            )

    def clean(self) -> None:
        """Remove what the default topology has."""
        with self.connect() as connection:
            for queue in ("", ".retry.1", ".retry.2", ".retry.3", ".dead"):
                connection.channel().queue_delete(f"oopses{queue}")
            for exchange in ("oopses", "oopses.dead"):
                connection.channel().exchange_delete(exchange)


def start_node() -> RabbitServer:
    server = RabbitServer(ctltimeout=60)
    server.setUp()
    return server


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[Node]:
    """A RabbitMQ node for the whole run."""
    server = start_node()
    yield Node(server)
    server.cleanUp()


@pytest.fixture
def own_node() -> Iterator[Node]:
    """A RabbitMQ node for one test."""
    server = start_node()
    yield Node(server)
    server.cleanUp()


@pytest.fixture
def any_node(request: pytest.FixtureRequest) -> Node:
    """The node of this run; for a test marked ``restarts``, one of its own.

    RabbitMQ 3.10 sometimes deletes a quorum queue once more when it is started again
    soon after the queue was deleted and declared anew, as happens between our tests.
    """
    own = request.node.get_closest_marker("restarts")
    return request.getfixturevalue("own_node" if own else "rabbitmq")  # type: ignore[no-any-return]


@pytest.fixture
def broker(any_node: Node) -> Iterator[Node]:
    """A node with nothing of ours on it."""
    any_node.clean()
    yield any_node
    any_node.clean()


@pytest.fixture(scope="session")
def old_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with oops-amqp as it is installed: with the pure Python bson package."""
    what = f"-c {ROOT / 'constraints.txt'} oops-amqp oops-datedir-repo"
    return install(tmp_path_factory, f"pip install {what}") / "python"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Type a line with pip, in an empty environment, in a copy of this checkout.

    Returns the folder of the environment's programs.
    """
    return partial(install, tmp_path_factory)


def install(tmp_path_factory: pytest.TempPathFactory, line: str) -> Path:
    """See `installed`; once for all processes of this run."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # the same for each process of this run
    folder = base / f"venv-{md5(line.encode()).hexdigest()}"
    with (base / "venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            venv.create(folder, with_pip=True)
            shutil.copytree(ROOT, folder / "checkout", ignore=_not_of_a_checkout)
            program, *words = shlex.split(line)
            command = [folder / "bin" / program, *words, "-q"]
            environ = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
            subprocess.run(command, cwd=folder / "checkout", check=True, env=environ)
            (folder / "ready").touch()
    return folder / "bin"


_not_of_a_checkout = shutil.ignore_patterns(
    ".*", "build", "dist", "var", "*.egg-info", "__pycache__"
)


class Worker:
    """A real ``celery -A oops_celery worker`` in a folder of its own."""

    def __init__(
        self,
        folder: Path,
        url: str,
        *options: str,
        python: str | Path = sys.executable,
        **environ: str,
    ) -> None:
        self.folder = folder
        self.log = folder / "worker.log"
        self._command = [
            str(Path(python).with_name("celery")),
            *("-A", "oops_celery", "worker", "--loglevel", "INFO", "-n", "w@%h"),
            *(options or ("-c", "2")),
        ]
        self._environ = environment(**{"RABBITMQ_URL": url, **environ})
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env=self._environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        ready = self.text().count(" ready.")
        eventually(
            lambda: self.text().count(" ready.") > ready or process.poll() is not None
        )
        return process

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def restart(self) -> None:
        self.process = self._start()

    def kill(self) -> None:
        """Kill the worker and its pool, as the out-of-memory killer would."""
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def pool_pids(self) -> list[int]:
        out = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        return [int(pid) for pid in out.split()]

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()

    def files(self) -> list[Path]:
        """Return the reports in the repository."""
        return [
            path
            for path in self.folder.glob("oopses/*/*")
            if not path.name.endswith(".tmp")
        ]


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment without settings of ours, then the changes."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        # COLUMNS: set by test runners, and it wraps what a pipe gets.
        if not name.startswith(("OOPS_", "RABBITMQ_", "CELERY_", "COLUMNS"))
    }
    return {**inherited, **changes}


@pytest.fixture
def worker(broker: Node, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Start workers, each ended with the test."""
    started: list[Worker] = []

    def start(*options: str, **environ: str) -> Worker:
        started.append(Worker(tmp_path, broker.url, *options, **environ))
        return started[-1]

    yield start
    for one in started:
        one.kill()  # much faster than a warm shutdown


@pytest.fixture
def run(broker: Node, tmp_path: Path) -> Callable[..., str]:
    """Run a Python program in a process of its own; return what it prints.

    It has a minute to publish, as the machine may be busy.
    """
    patience = {"OOPS_PUBLISH_TIMEOUT": "60"}

    def run_program(source: str, timeout: float = 180, **environ: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(source)],
            cwd=tmp_path,
            env=environment(**{"RABBITMQ_URL": broker.url, **patience, **environ}),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run_program


@pytest.fixture
def keeper(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Write the module of an operator's oops.Config; return the settings for it.

    The source is the body of ``publisher(report, seen)``, where ``seen`` counts how
    often this report came here.
    """

    def write(source: str) -> dict[str, str]:
        (tmp_path / "short.yml").write_text(QUICK_TOPOLOGY)
        body = textwrap.indent(textwrap.dedent(source).strip(), "    ")
        (tmp_path / "keeper.py").write_text(
            f"""
import os, pathlib, sys, time, types
import oops, oops_celery
config = oops.Config()
keep = oops_celery.FolderPublisher("oopses", sync=False)
repository = types.SimpleNamespace(publish=keep)
def publisher(report, seen):
{body}
def counted(report):
    with open("seen-" + report["id"], "a+b", buffering=0) as file:
        file.write(b".")
        seen = file.tell()
    return publisher(report, seen)
config.publisher = counted
"""
        )
        return {"OOPS_CONFIG": "keeper:config", "OOPS_TOPOLOGY": "short.yml"}

    return write
