"""The fixtures that all tests share, and which tests are for `make test-long`."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.support import (
    QUICK_TOPOLOGY,
    ROOT,
    Node,
    Worker,
    environment,
    install,
    start_node,
)

if TYPE_CHECKING:
    from tests.support.postgresql import PostgreSQL

# A shell has what it starts in the background ignore Ctrl-C, and all that descends from
# it; tests send that signal.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("shared machine")

#: Modules whose tests are for `make test-long`; and so are those of other pools.
LONG = (
    *("benchmarks", "deploying", "django", "forks", "package"),
    "task_failures_pools",
)
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
            # The commands on the second database: what they do there has tests below.
            or (item.path.parent.name == "cli" and "postgresql" in parameters.values())
            or any(map(item.get_closest_marker, ("slow", "restarts")))
        ):
            item.add_marker("long")


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[Node]:
    """A RabbitMQ node for the whole run."""
    server = start_node()
    yield Node(server)
    server.cleanUp()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL server for the whole run."""
    from tests.support.postgresql import PostgreSQL

    server = PostgreSQL()
    try:
        server.start()
        yield server
    finally:
        server.clean_up()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/oopses.db"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.database()


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
