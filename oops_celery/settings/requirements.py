"""The packages that a worker needs beside a publisher's: the extra ``[worker]``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import celery

from oops_celery.errors import SettingsError

INSTALL = "pip install 'celery-oops[worker]'"

#: The oldest Celery whose worker reads quorum queues (their prefetch limits), and the
#: first that declares no queues which RabbitMQ 4.3 may deny.
OLDEST_CELERY = (5, 5)
SAFE_CELERY = (5, 6)

#: The oldest billiard that tells when the pool ends a process; before, a report at work
#: at that time would be retried as a refused one.
OLDEST_BILLIARD = (4, 3, 1)

#: The packages that read a topology file; the packaged topology needs none.
_OPTIONAL = ("yaml", "pydantic", "pydantic_core")
_NAMES = "PyYAML and pydantic"

#: The packages behind a repository in a database.
_DATABASE = ("sqlalchemy", "alembic", "zstandard")
_DATABASE_NAMES = "SQLAlchemy, Alembic and zstandard"

#: The packages behind the pages.
_WEB = ("starlette", "uvicorn", "jinja2", "multipart", "itsdangerous", "bcrypt")
_WEB_NAMES = "Starlette, uvicorn and Jinja2"
INSTALL_WEB = "pip install 'celery-oops[web]'"


def check_worker() -> None:
    """Check that a worker can run here.

    Raises:
        SettingsError: A package is missing, or too old.
    """
    import billiard

    found = (
        ("celery", celery.__version__, OLDEST_CELERY),
        ("billiard", billiard.__version__, OLDEST_BILLIARD),
    )
    problems = [
        f"{name}>={'.'.join(map(str, oldest))}, and this is {name} {version}"
        for name, version, oldest in found
        if numbers(version) < oldest
    ]
    if not all(map(find_spec, _OPTIONAL)):
        problems.append(_NAMES)
    if problems:
        raise SettingsError(f"a worker needs {'; and '.join(problems)}: {INSTALL}")


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, for comparison."""
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


def missing(error: ImportError, what: str) -> SettingsError | None:
    """Return an error that says what to install, if a missing package is the cause."""
    name = (error.name or "").partition(".")[0]
    for packages, names, install in (
        (_OPTIONAL, _NAMES, INSTALL),
        (_DATABASE, _DATABASE_NAMES, INSTALL),
        (_WEB, _WEB_NAMES, INSTALL_WEB),
    ):
        if name in packages:
            return SettingsError(f"{what} needs {names}: {install}")
    return None


@contextmanager
def needed_by(what: str) -> Iterator[None]:
    """Turn a missing package of the extra into a one-line error.

    Raises:
        SettingsError: A package is missing.
    """
    try:
        yield
    except ImportError as error:
        told = missing(error, what)
        if told is None:
            raise
        raise told from None
