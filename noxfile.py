"""The versions that oops-celery is tested with: ``make matrix``.

Three dimensions, one at a time: Celery on this Python, Python with the newest Celery,
and RabbitMQ with the newest Celery. Each session is one cell; `table` writes what
they found into docs/compatibility.md.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nox

ROOT = Path(__file__).parent
RECORDS = ROOT / "var/matrix"

#: What runs in a cell: everything but what takes long or installs something.
PUBLISHER = ["tests/test_wire.py", "tests/test_publisher.py"]
WORKER = [
    *PUBLISHER,
    "tests/test_failures.py",
    "tests/test_worker.py",
    "tests/test_cli_doctor.py",
    "tests/test_journey.py",
]

#: The lowest and the highest release of each series. Before 5.5 for publishers alone.
CELERY = ["5.3.0", "5.3.6", "5.4.0", "5.5.0", "5.5.3", "5.6.0", "5.6.3", "5.7.0"]
PYTHON = ["3.10", "3.11", "3.12", "3.13", "3.14"]
#: Suite of Debian, and whether its RabbitMQ denies what it deprecates.
RABBITMQ = [("trixie", False), ("sid", False), ("sid", True)]

TOOLS = [
    *("pytest", "pytest-xdist", "pytest-rerunfailures", "hypothesis", "rabbitfixture"),
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


def pins(celery: str) -> list[str]:
    """What a cell of this Celery installs beside what pyproject.toml asks for."""
    if celery != CELERY[0]:
        return [f"celery=={celery}"]
    # The lowest is the lowest of everything that a publisher needs.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [
        re.sub(r">=([\d.]+).*", r"==\1", asked) for asked in project["dependencies"]
    ]


def constraints() -> str:
    """Return what the tests' own versions are, without those that a cell chooses."""
    chosen = ("amqp", "billiard", "celery", "kombu", "click", "pymongo", "oops", "rich")
    path = RECORDS / "constraints.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(
            line
            for line in (ROOT / "constraints.txt").read_text().splitlines(True)
            if line.partition("==")[0] not in (*chosen, "bson")
        )
    )
    return str(path)


def installs(celery: str = CELERY[-1], extra: str = "[worker]") -> list[list[str]]:
    """Return what pip installs for a cell, one call an item."""
    limits = ["-c", constraints()]
    return [
        ["-e", f".{extra}", *pins(celery), *TOOLS, *limits],
        ["--no-deps", *BARE, *limits],
    ]


def cell(
    session: nox.Session,
    name: str,
    tests: list[str],
    celery: str = CELERY[-1],
    extra: str = "[worker]",
) -> None:
    """Install one combination of versions, and run the tests on it."""
    record = RECORDS / f"{name}.json"
    record.unlink(missing_ok=True)
    for words in installs(celery, extra):
        session.install(*words)
    session.run("python", "tests/matrix.py", str(record), *tests, *session.posargs)


@nox.session(python=sys.executable)
@nox.parametrize("celery", [nox.param(each, id=each) for each in CELERY])
def celery(session: nox.Session, celery: str) -> None:
    """Celery, from the lowest release to the highest."""
    old = celery < "5.5"
    tests = PUBLISHER if old else WORKER
    cell(session, f"celery-{celery}", tests, celery, "" if old else "[worker]")


@nox.session(python=PYTHON)
def python(session: nox.Session) -> None:
    """Each Python that is found."""
    cell(session, f"python-{session.python}", WORKER)


@nox.session(python=False)
@nox.parametrize(
    ("suite", "denied"),
    [
        nox.param(suite, denied, id=f"{suite}-denied" if denied else suite)
        for suite, denied in RABBITMQ
    ],
)
def rabbitmq(session: nox.Session, suite: str, denied: bool) -> None:
    """A newer RabbitMQ and a newer Python, those of a later Debian."""
    record = RECORDS / f"rabbitmq-{suite}{'-denied' if denied else ''}.json"
    record.unlink(missing_ok=True)
    debian = "tests/in-debian"
    try:
        session.run(debian, suite, "true", external=True, success_codes=[0])
    except nox.command.CommandFailed as failed:
        if failed.reason == CANNOT:
            session.skip(f"Debian {suite} cannot be run here")
        raise
    venv = RECORDS / suite
    pip = f"{venv}/bin/python -m pip install --quiet"
    online = [debian, "--online", suite]
    session.run(*online, "python3", "-m", "venv", "--clear", str(venv), external=True)
    for words in installs():
        session.run(*online, *pip.split(), *words, external=True)
