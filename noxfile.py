"""The versions that oops-celery is tested with: ``make matrix``.

Three dimensions, one at a time: Celery on this Python, Python with the newest Celery,
and RabbitMQ with the newest Celery. Each session is one cell; `table` writes what
they found into docs/compatibility.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nox

ROOT = Path(__file__).parent
RECORDS = ROOT / "var/matrix"
PAGE = ROOT / "docs/compatibility.md"
START, END = "<!-- make matrix writes this -->", "<!-- up to here -->"
COLUMNS = ["Python", "Celery", "kombu", "amqp", "billiard", "RabbitMQ"]
#: Exit code of tests/in-debian on a machine that cannot have one.
CANNOT = 77

#: What runs in a cell, which is for what differs between versions: no other pools.
CHOSEN = ["-m", "not long and not installs"]
PUBLISHER = [
    "tests/wire/test_report.py",
    "tests/publishing/test_publisher.py",
    "tests/publishing/test_task_failures.py",
]
WORKER = [
    *PUBLISHER,
    "tests/receiving/test_worker.py",
    "tests/cli/test_doctor.py",
    "tests/journeys/test_journey.py",
]

#: The lowest and the highest release of each series, and what is installed for it; the
#: lowest of all with the lowest of the other libraries that pyproject.toml permits.
CELERY = {
    "5.3.0": ["celery==5.3.0", "kombu==5.3.0", "amqp==5.1.1", "pymongo==4.0"],
    "5.3.6": ["celery==5.3.6"],
    "5.4.0": ["celery==5.4.0"],
    "5.5.0": ["celery==5.5.0", "billiard==4.3.1"],
    "5.5.3": ["celery==5.5.3"],
    "5.6.0": ["celery==5.6.0"],
    "5.6.3": ["celery==5.6.3"],
    "5.7.0": ["celery==5.7.0"],
}
NEWEST = "5.7.0"
#: Before it, Celery is for publishers alone.
WORKER_FROM = "5.5"
PYTHON = ["3.10", "3.11", "3.12", "3.13", "3.14"]
#: Suites of Debian; `-denied`: its RabbitMQ permits nothing that it deprecates.
RABBITMQ = ["trixie", "sid", "sid-denied"]
CELLS = [
    *(f"celery-{each}" for each in CELERY),
    *(f"python-{each}" for each in PYTHON),
    *(f"rabbitmq-{each}" for each in RABBITMQ),
]

TOOLS = [
    *("pytest", "pytest-xdist", "hypothesis", "rabbitfixture"),
    *("gevent", "eventlet", "psutil", "iso8601"),
]
#: Without the package bson that they ask for, which has PyMongo's name.
BARE = ["oops-amqp", "oops-datedir-repo"]

nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["celery", "python", "rabbitmq", "table"]

# nox looks for Pythons on the PATH only.
os.environ["PATH"] = os.pathsep.join(
    [
        os.environ["PATH"],
        *map(str, sorted(Path.home().glob(".pyenv/versions/*/bin"), reverse=True)),
    ]
)


def constraints() -> str:
    """Return what the tests' own versions are, without those that a cell chooses."""
    chosen = ("amqp", "billiard", "celery", "kombu", "click", "pymongo", "oops", "rich")
    path = RECORDS / "constraints.txt"
    path.write_text(
        "".join(
            line
            for line in (ROOT / "constraints.txt").read_text().splitlines(True)
            if line.partition("==")[0] not in (*chosen, "bson")
        )
    )
    return str(path)


def installs(celery: str = NEWEST, extra: str = "[web]") -> list[list[str]]:
    """Return what pip installs for a cell, one call an item."""
    limits = ["-c", constraints()]
    return [
        ["-e", f".{extra}", *CELERY[celery], *TOOLS, *limits],
        ["--no-deps", *BARE, *limits],
    ]


def begin(name: str) -> str:
    """Return where a cell writes down what it found: nothing, until its tests ran."""
    record = RECORDS / f"{name}.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text("{}")
    return str(record)


def cell(session: nox.Session, name: str, celery: str = NEWEST) -> None:
    """Install one combination of versions, and run the tests on it."""
    record = begin(name)
    worker = celery >= WORKER_FROM
    for words in installs(celery, "[web]" if worker else ""):
        session.install(*words)
    tests = session.posargs or (WORKER if worker else PUBLISHER)
    session.run("python", "tests/matrix.py", record, *CHOSEN, *tests)


@nox.session(python=sys.executable)
@nox.parametrize("celery", [nox.param(each, id=each) for each in CELERY])
def celery(session: nox.Session, celery: str) -> None:
    """Celery, from the lowest release to the highest."""
    cell(session, f"celery-{celery}", celery)


@nox.session(python=PYTHON)
def python(session: nox.Session) -> None:
    """Each Python that is found."""
    cell(session, f"python-{session.python}")


@nox.session(python=False)
@nox.parametrize("suite", [nox.param(each, id=each) for each in RABBITMQ])
def rabbitmq(session: nox.Session, suite: str) -> None:
    """The RabbitMQ and the Python of a later Debian."""
    debian, _, denied = suite.partition("-")
    record = begin(f"rabbitmq-{suite}")
    venv = f"var/matrix/{debian}"
    inside = ["tests/in-debian", debian]
    online = ["tests/in-debian", "--online", debian]
    possible = subprocess.run([*inside, "true"], cwd=ROOT, check=False).returncode
    if possible == CANNOT:
        Path(record).unlink()
        session.skip(f"no Debian {debian} here")
    session.run(*online, "python3", "-m", "venv", "--clear", venv, external=True)
    for words in installs():
        pip = [f"{venv}/bin/python", "-m", "pip", "install", "--quiet", *words]
        session.run(*online, *pip, external=True)
    session.run(
        *inside,
        *(f"{venv}/bin/python", "tests/matrix.py", record, *CHOSEN),
        *(session.posargs or WORKER),
        external=True,
        env={"RABBITMQ_CONFIG_FILE": f"{ROOT}/tests/rabbitmq-denied.conf"}
        if denied
        else {},
    )


@nox.session(python=False)
def table(session: nox.Session) -> None:
    """Write what the cells found into docs/compatibility.md."""
    lines = [f"| {' | '.join(['cell', *COLUMNS, 'tests'])} |", "|---" * 8 + "|"]
    ends: Counter[str] = Counter()
    for name in CELLS:
        found, end, words = {}, "not run", ""
        if (path := RECORDS / f"{name}.json").exists():
            found = json.loads(path.read_text())
            end = "passed" if found.get("code") == 0 else "failed"
            words = ", ".join(
                f"{found[each]} {each}"
                for each in ("passed", "failed", "error")
                if found.get(each)
            )
        ends[end] += 1
        cells = [name, *(found.get(each, "") for each in COLUMNS), words or end]
        lines.append(f"| {' | '.join(cells)} |")
    before, _, rest = PAGE.read_text().partition(START)
    after = rest.partition(END)[2]
    PAGE.write_text("\n".join([before + START, *lines, END + after]))
    counts = [f"{ends[each]} {each}" for each in ("passed", "failed", "not run")]
    session.log(f"Cells: {', '.join(counts)}")
