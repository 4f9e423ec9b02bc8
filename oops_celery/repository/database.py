"""Connect to the database of the repository, and make or upgrade its tables."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from oops_celery.errors import Away, RepositoryError, WrongSchema
from oops_celery.repository import schema
from oops_celery.repository.folder import FILE_MODE
from oops_celery.settings.repository_url import (
    file_of,
    network_file_system,
    without_password,
)
from oops_celery.settings.requirements import needed_by

if TYPE_CHECKING:
    from typing_extensions import Self

#: Seconds that a connection may take, and that SQLite waits for another writer.
CONNECT_TIMEOUT = 5
BUSY_TIMEOUT = 10

#: Of PostgreSQL: held by the one that changes the tables.
_UPGRADE_LOCK = 0x6F6F7073  # "oops"

#: Whether there are tables: SQLAlchemy's inspection asks more, and takes longer.
_HAS_TABLES = {
    "sqlite": "SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'",
    "postgresql": "SELECT to_regclass('alembic_version')",
}

_MIGRATIONS = Path(__file__).parent / "migrations"


def engine_of(url: str, *, writes: bool = True, pooled: bool = False) -> Engine:
    """Return SQLAlchemy's engine for a database.

    Args:
        url: From `repository_url.check`.
        writes: Whether transactions write: with SQLite such a one waits for its turn
            when it begins. Without, a missing file is not made.
        pooled: Whether connections for reading are kept.

    Raises:
        RepositoryError: The file is on another machine, or is missing.
    """
    file = file_of(url)
    if file is None:
        if not find_spec("psycopg"):
            raise RepositoryError(
                f"{without_password(url)} needs psycopg: "
                "pip install 'celery-oops[worker,postgresql]'"
            )
        return sqlalchemy.create_engine(
            url,
            hide_parameters=True,  # reports contain user input
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT,
                "application_name": "oops-celery",
            },
            **({} if writes or pooled else {"poolclass": NullPool}),
        )
    if kind := network_file_system(file):
        raise RepositoryError(
            f"{without_password(url)} is on a network file system ({kind}), where "
            "SQLite may lose data; use a local disk, or PostgreSQL"
        )
    if not writes and not file.exists():
        raise RepositoryError(
            f"{without_password(url)} is not there: a worker makes it when it starts"
        )
    engine = sqlalchemy.create_engine(
        sqlalchemy.URL.create("sqlite", database=str(file)),
        hide_parameters=True,
        poolclass=None if writes or pooled else NullPool,
        pool_recycle=60 if pooled else -1,  # another file may be put in its place
        connect_args={"timeout": BUSY_TIMEOUT, "check_same_thread": False},
    )

    @event.listens_for(engine, "do_connect")
    def make(*_: Any) -> None:
        # SQLite gives its other files the mode of this one.
        with suppress(FileExistsError):
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE))

    @event.listens_for(engine, "connect")
    def set_up(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # no transactions of the driver's own
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA secure_delete=ON")  # erased is overwritten

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


class Reader:
    """A database to be read. Use it in a ``with`` statement.

    Args:
        url: From `repository_url.check`.
        pooled: Whether to keep connections, for many questions by many threads.

    Raises:
        RepositoryError: The database cannot be used; by each method, too.
    """

    def __init__(self, url: str, pooled: bool = False) -> None:
        self.name = without_password(url)
        self._url = url
        self._reads = engine_of(url, writes=False, pooled=pooled)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reads.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """Look at the database as it is at one moment."""
        with telling_why(self._url), self._reads.begin() as connection:
            check(connection, self._url)
            yield connection


@contextmanager
def telling_why(url: str) -> Iterator[None]:
    """Turn SQLAlchemy's errors into one line that names the database.

    Raises:
        Away: Nobody can use the database now.
        RepositoryError: It did not take this.
    """
    try:
        yield
    except SQLAlchemyError as error:
        raise _error(url, error) from error
    except OSError as error:
        raise Away(f"{without_password(url)}: {error.strerror or error}") from error


def _error(url: str, error: SQLAlchemyError) -> RepositoryError:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    what = " ".join(str(cause).split()) or type(cause).__name__
    line = f"{without_password(url)}: {what}"
    away = isinstance(error, (OperationalError, InterfaceError))
    return Away(line) if away else RepositoryError(line)


def check(connection: Connection, url: str) -> None:
    """Check that the tables are those of this program.

    Raises:
        WrongSchema: They are older or newer, or there are none.
    """
    found = revision(connection)
    if found == schema.HEAD:
        return
    name = without_password(url)
    if found is None:
        raise WrongSchema(
            f"{name} has no tables of oops-celery yet: start a worker, or run "
            "oops-celery repository upgrade"
        )
    if found > schema.HEAD:
        raise WrongSchema(
            f"{name} was upgraded by a newer oops-celery (schema {found}; this one "
            f"has {schema.HEAD}): upgrade oops-celery here, too"
        )
    raise WrongSchema(
        f"{name} has schema {found}, this oops-celery needs {schema.HEAD}: start a "
        "worker, or run oops-celery repository upgrade"
    )


def revision(connection: Connection) -> str | None:
    """Return the revision of the tables; None if there are none."""
    if connection.scalar(text(_HAS_TABLES[connection.dialect.name])) is None:
        return None
    found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return None if found is None else str(found)


def upgrade(engine: Engine, url: str) -> str | None:
    """Make the tables, or bring them to the revision of this program.

    Several processes may do so at once: one does, the others wait.

    Returns:
        The revision that was found; None if there were no tables.

    Raises:
        WrongSchema: The tables are newer.
        RepositoryError: The database cannot be used.
    """
    with telling_why(url):
        if engine.dialect.name == "sqlite":
            with engine.connect() as connection:
                # Both last, and cannot be changed within a transaction; the first not
                # even when there is a table.
                raw: Any = connection.connection.dbapi_connection
                raw.execute("PRAGMA auto_vacuum=INCREMENTAL")
                raw.execute("PRAGMA journal_mode=WAL")
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                lock = text("SELECT pg_advisory_xact_lock(:lock)")
                connection.execute(lock, {"lock": _UPGRADE_LOCK})
            found = revision(connection)
            if found is None or found < schema.HEAD:
                _migrate(connection)
            check(connection, url)
            return found


def _migrate(connection: Connection) -> None:
    with needed_by("an upgrade of the database"):
        from alembic import command
        from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
