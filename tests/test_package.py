"""What is installed, and that it is enough."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, Node, Worker, environment, eventually

from oops_celery import wire

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


def installed(folder: Path, what: str) -> Path:
    """Install into a clean environment; return its programs' folder."""
    venv.create(folder, with_pip=True)
    pip = [folder / "bin/pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", ROOT / "constraints.txt", what], check=True)
    return folder / "bin"


def test_the_wheel_holds_nothing_that_shadows_an_application(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"oops_celery", f"oops_celery-{version()}.dist-info"}
    assert "oops_celery/tasks/republish.py" in names
    assert "oops_celery/topology.yml" in names
    assert "oops_celery/py.typed" in names


def version() -> str:
    import oops_celery

    text = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{oops_celery.__version__}"' in text
    return oops_celery.__version__


def test_without_extras_it_publishes(wheel: Path, broker: Node, tmp_path: Path) -> None:
    programs = installed(tmp_path / "venv", str(wheel))
    done = subprocess.run(
        [programs / "python", "-W", "error::DeprecationWarning", "-c", PROGRAM],
        cwd=tmp_path,
        env=environment(RABBITMQ_URL=broker.url),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert re.fullmatch(r"\['OOPS-[0-9a-f]{32}'\]\n", done.stdout), done.stderr
    assert broker.count("oopses") == 1
    packages = {path.name for path in (tmp_path / "venv").glob("lib/*/site-packages/*")}
    assert not packages & {"tasks", "celeryconfig.py", "flowerconfig.py", "flower"}
    # A worker needs somewhere to keep the reports: it says so, and how to get it.
    done = subprocess.run(
        [programs / "celery", "-A", "oops_celery", "worker"],
        cwd=tmp_path,
        env=environment(RABBITMQ_URL=broker.url),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'celery-oops[worker]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_with_the_worker_extra_it_keeps_reports(
    wheel: Path, broker: Node, tmp_path: Path
) -> None:
    programs = installed(tmp_path / "venv", f"{wheel}[worker]")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    worker = Worker(folder, broker.url, python=programs / "python")
    try:
        done = subprocess.run(
            [programs / "python", "-c", PROGRAM],
            cwd=folder,
            env=environment(RABBITMQ_URL=broker.url),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        (path,) = eventually(worker.files)
        assert wire.decode(path.read_bytes())["id"] in done.stdout
    finally:
        worker.stop()
    assert "bson" in worker.text()
    # The README's next line. Without it, not all that a publisher sends can be read.
    program = (
        "import sys; from oops_celery import wire; print(wire.BSON_LIBRARY);"
        "print(wire.decode(bytes.fromhex(sys.argv[1])))"
    )
    body = wire.encode({"pattern": re.compile("a")}).body.hex()
    read = [programs / "python", "-c", program, body]
    done = subprocess.run(read, capture_output=True, text=True, check=False)
    assert done.stdout == "bson\n"
    assert "pip install --force-reinstall --no-deps pymongo" in done.stderr
    subprocess.run(
        [
            programs / "pip",
            "install",
            "-q",
            "--force-reinstall",
            "--no-deps",
            "pymongo",
        ],
        check=True,
    )
    done = subprocess.run(read, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("pymongo\n{'pattern': ")


def test_importing_takes_no_time(tmp_path: Path) -> None:
    """At most 50 ms more than Celery itself: the fastest of several tries counts."""
    program = (
        "import time; a = time.perf_counter(); import celery; b = time.perf_counter();"
        "import oops_celery; c = time.perf_counter(); print(c - b)"
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
