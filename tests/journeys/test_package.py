"""What is installed, and that it is enough."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import kombu
import pytest

from oops_celery import Topology, wire
from tests.support import ROOT, Node, Worker, environment, eventually

pytestmark = pytest.mark.slow

PROGRAM = (
    "import oops, oops_celery; c = oops.Config(); c.publisher = oops_celery.publisher;"
    "print(c.publish(c.create()))"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT],
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


def installed(folder: Path, *what: str, newest: bool = False) -> Path:
    """Install into a clean environment; return its programs' folder.

    Args:
        folder: The environment.
        what: What pip gets.
        newest: Whether not to take the versions that are pinned for the tests.
    """
    venv.create(folder, with_pip=True)
    pip = [folder / "bin/pip", "install", "-q", "--disable-pip-version-check"]
    pinned = [] if newest else ["-c", ROOT / "constraints.txt"]
    subprocess.run([*pip, *pinned, *what], check=True)
    subprocess.run([folder / "bin/pip", "check"], check=True)
    return folder / "bin"


def packages(programs: Path) -> set[str]:
    """Return the names of the distributions in an environment."""
    done = subprocess.run(
        [programs / "pip", "list", "--format=json", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {one["name"].lower().replace("_", "-") for one in json.loads(done.stdout)}


def call(
    folder: Path, url: str, *command: str | Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(RABBITMQ_URL=url),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_the_wheel_holds_nothing_that_shadows_an_application(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"oops_celery", f"celery_oops-{version()}.dist-info"}
    assert "oops_celery/tasks/republish.py" in names
    assert "oops_celery/topology/default.yml" in names
    assert "oops_celery/py.typed" in names


def version() -> str:
    import oops_celery

    return oops_celery.__version__


def test_without_extras_it_publishes(wheel: Path, broker: Node, tmp_path: Path) -> None:
    programs = installed(tmp_path / "venv", str(wheel))
    assert not packages(programs) & {"pyyaml", "pydantic", "flower", "bson"}
    assert_it_publishes(programs, broker, tmp_path)
    site = {path.name for path in (tmp_path / "venv").glob("lib/*/site-packages/*")}
    assert not site & {"tasks", "celeryconfig.py", "flowerconfig.py", "flower"}
    # What needs more says so in a line, and how to get it.
    (tmp_path / "config.yml").write_text("queues: []\n")
    for command in (
        ["celery", "-A", "oops_celery", "worker"],
        ["oops-celery", "validate", "config.yml"],
        ["oops-celery", "topology", "graph", "--file", "config.yml"],
        ["oops-celery", "schema"],
        ["oops-celery", "metrics"],
    ):
        done = call(tmp_path, broker.url, programs / command[0], *command[1:])
        assert done.returncode in (1, 2), command
        (line,) = done.stderr.splitlines()
        assert "pip install 'celery-oops[worker]'" in line


def assert_it_publishes(programs: Path, broker: Node, folder: Path) -> None:
    with kombu.Connection(broker.url) as connection:
        assert Topology.load().declare(connection.channel) == []
    program = [programs / "python", "-W", "error::DeprecationWarning:oops_celery"]
    done = call(folder, broker.url, *program, "-c", PROGRAM)
    assert re.fullmatch(r"\['OOPS-[0-9a-f]{32}'\]\n", done.stdout), done.stderr
    assert broker.count("oopses") == 1


@pytest.mark.parametrize("celery", ["5.3.6", "5.4.0"])
def test_an_older_celery_publishes_and_is_no_worker(
    celery: str, wheel: Path, broker: Node, tmp_path: Path
) -> None:
    what = (str(wheel), f"celery=={celery}")
    programs = installed(tmp_path / "venv", *what, newest=True)
    assert_it_publishes(programs, broker, tmp_path)
    done = call(
        tmp_path, broker.url, programs / "celery", "-A", "oops_celery", "worker"
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"a worker needs celery>=5.5, and this is celery {celery}" in line
    assert "pip install 'celery-oops[worker]'" in line


@pytest.mark.parametrize("celery", ["", "==5.5.3", "==5.6.3"])
def test_with_the_worker_extra_it_keeps_reports(
    celery: str, wheel: Path, broker: Node, tmp_path: Path
) -> None:
    what = [f"{wheel}[worker]", *([f"celery{celery}"] if celery else [])]
    programs = installed(tmp_path / "venv", *what, newest=bool(celery))
    unwanted = {"bson", "launchpadlib", "oops-datedir-repo"}
    assert not packages(programs) & unwanted
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    worker = Worker(folder, broker.url, python=programs / "python")
    try:
        done = call(folder, broker.url, programs / "python", "-c", PROGRAM)
        (path,) = eventually(worker.files)
        assert done.stdout == f"['{path.name}']\n"
        assert wire.decode(path.read_bytes())["id"] == path.name
        found = call(folder, broker.url, programs / "oops-celery", "doctor")
        assert found.returncode == 0, found.stdout
        hint = "which RabbitMQ 4.3 may deny (transient_nonexcl_queues)"
        assert (hint in " ".join(found.stdout.split())) == (celery == "==5.5.3")
    finally:
        worker.stop()
    assert "Traceback" not in worker.text()


def test_the_pure_python_bson_is_noticed(wheel: Path, tmp_path: Path) -> None:
    """Another package may bring it. Then not all that is sent can be read."""
    programs = installed(tmp_path / "venv", str(wheel))
    pip = [programs / "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", ROOT / "constraints.txt", "bson"], check=True)
    program = (
        "import sys; from oops_celery import wire; print(wire.BSON_LIBRARY);"
        "print(wire.decode(bytes.fromhex(sys.argv[1])))"
    )
    body = wire.encode({"pattern": re.compile("a")}).body.hex()
    read = [programs / "python", "-c", program, body]
    done = subprocess.run(read, capture_output=True, text=True, check=False)
    assert done.stdout == "bson\n"
    assert "pip install --force-reinstall --no-deps pymongo" in done.stderr
    subprocess.run([*pip, "--force-reinstall", "--no-deps", "pymongo"], check=True)
    done = subprocess.run(read, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("pymongo\n{'pattern': ")


def test_importing_takes_no_time(tmp_path: Path) -> None:
    """At most 50 ms of CPU more than Celery itself: the best of five tries."""
    program = (
        "import time; a = time.process_time(); import celery; b = time.process_time();"
        "import oops_celery; c = time.process_time(); print(c - b)"
    )
    seconds = [
        float(
            subprocess.run(
                [sys.executable, "-c", program],
                cwd=tmp_path,
                env=dict(os.environ),
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for _ in range(5)
    ]
    assert min(seconds) < 0.05
