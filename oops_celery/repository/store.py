"""The repository: an OOPS publisher that keeps reports in a database.

In a pool process of the worker, the reports of a batch are written together, in one
transaction: see `stored_together`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from oops_celery import wire
from oops_celery.errors import Away, RepositoryError, SettingsError
from oops_celery.settings import repository_url as urls
from oops_celery.settings.requirements import needed_by
from oops_celery.transport import reentry

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from oops_celery.repository.row import Row

#: Seconds that a database that was away is left alone: a batch of reports would wait
#: for as many connections.
AWAY_FOR = 2.0

#: Seconds between two warnings that it is away.
WARN_EVERY = 60.0

#: What needs SQLAlchemy and its company.
_DATABASE = "a repository in a database"

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

#: The body of the message that the worker handles now.
message_body: ContextVar[bytes | None] = ContextVar("message_body", default=None)


class Repository:
    """Keep reports in a database; ``oops-celery show`` and ``report`` read it.

    A report is on disk when the call returns, safe from a power cut; within the worker,
    before its message is acknowledged. An id is stored once, however often it comes.

    It is an OOPS publisher, so it can stand beside others::

        config.publisher = oops.publish_to_many(
            oops_celery.Repository("postgresql+psycopg://oops@db/oops").publish, mail
        )

    Safe with many threads and processes, and after a fork.

    Args:
        url: ``sqlite:///FILE`` for one machine, ``postgresql+psycopg://USER@HOST/NAME``
            for any number.

    Raises:
        SettingsError: It is none of these.
    """

    def __init__(self, url: str) -> None:
        try:
            self.url = urls.check(url)
        except ValueError:
            raise SettingsError(
                f"{urls.without_password(url)} is not the URL of a database: it must "
                f"be {urls.FORMS}"
            ) from None
        self._process = 0
        self._engine: Engine | None = None
        self._partitions: Any = None
        self._is_upgraded = False
        self._away_until = 0.0
        self._why_away = ""
        self._warn_from = 0.0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    def __str__(self) -> str:
        return urls.without_password(self.url)

    def publish(self, report: Mapping[str, Any]) -> list[str]:
        """Keep a report, which is not changed; return its id in a list.

        Returns:
            The report's id in a list; an empty list for a line logged during a publish,
            which would run in a circle.

        Raises:
            RepositoryError: It cannot be stored.
        """
        if reentry.inside():
            return []
        with reentry.publishing():
            came = message_body.get()
            if came is not None and wire.decode(came) == report and "id" in report:
                return self.keep(report, came)
            encoded = wire.encode(report, inherit_id=True)
            return self._keep({**report, "id": encoded.id}, came, encoded.body)

    __call__ = publish

    def keep(self, report: Mapping[str, Any], body: bytes) -> list[str]:
        """Keep a report in the bytes that it came in; return its id in a list.

        Args:
            report: The report.
            body: The same as BSON.

        Raises:
            RepositoryError: It cannot be stored.
        """
        report_id = report.get("id")
        if isinstance(report_id, str) and report_id:
            return self._keep(report, body, body)
        encoded = wire.encode(report, inherit_id=True)
        return self._keep({**report, "id": encoded.id}, body, encoded.body)

    def _keep(
        self, report: Mapping[str, Any], came: bytes | None, body: bytes
    ) -> list[str]:
        with needed_by(_DATABASE):
            from oops_celery.repository.row import Row

        row = Row.of(report, body if came is None else came, body)
        together(self, row)
        return [str(report["id"])]

    def store(self, rows: list[Row]) -> int:
        """Write reports in one transaction; return the number of new ones.

        Raises:
            RepositoryError: None of them is stored.
        """
        with needed_by(_DATABASE):
            from oops_celery.repository import rows as tables

        def action(connection: Connection) -> int:
            return tables.store(connection, rows)

        return self.write(action, rows)

    def write(
        self, action: Callable[[Connection], _Result], reports: Iterable[Row] = ()
    ) -> _Result:
        """Do something in one transaction, and return what it returns.

        Args:
            action: Gets the connection.
            reports: What it writes into the table of reports.

        Raises:
            RepositoryError: Nothing of it is done.
        """
        with needed_by(_DATABASE):
            from oops_celery.repository import database

        if self._why_away and time.monotonic() < self._away_until:
            raise Away(self._why_away)
        try:
            engine = self.engine()
            if not self._is_upgraded:
                self.upgrade()
            with database.telling_why(self.url):
                self._partitions.make(engine, reports)
                with engine.begin() as connection:
                    result = action(connection)
        except RepositoryError as error:
            self._partitions_forgotten()
            if isinstance(error, Away):
                self._is_away(error)
            raise
        self._is_back()
        return result

    def engine(self) -> Engine:
        """Return SQLAlchemy's engine: a process that was forked has its own.

        Raises:
            RepositoryError: The file is on another machine.
            SettingsError: A package is missing.
        """
        with needed_by(_DATABASE):
            from oops_celery.repository.database import engine_of
            from oops_celery.repository.partitions import Partitions

        if self._engine is None or self._process != os.getpid():
            if self._engine is not None:
                self._engine.dispose(close=False)  # its connections are the parent's
            self._engine = engine_of(self.url)
            self._partitions = Partitions()
            self._process = os.getpid()
        return self._engine

    def upgrade(self) -> str | None:
        """Make the tables, or bring them up to date; several may do so at once.

        Returns:
            The revision that was found; None if there were no tables.

        Raises:
            RepositoryError: The tables are newer, or the database cannot be used.
        """
        engine = self.engine()
        from oops_celery.repository.database import upgrade

        try:
            found = upgrade(engine, self.url)
        finally:
            engine.dispose()  # the worker is about to fork
        self._is_upgraded = True
        return found

    def _partitions_forgotten(self) -> None:
        if self._partitions is not None:
            self._partitions.forget()

    def _is_away(self, error: Away) -> None:
        self._why_away = str(error)
        now = time.monotonic()
        self._away_until = now + AWAY_FOR
        if now >= self._warn_from:
            self._warn_from = now + WARN_EVERY
            logger.warning(
                "the repository is away, so reports wait in the retry queues: %s", error
            )

    def _is_back(self) -> None:
        if self._why_away:
            self._why_away = ""
            self._warn_from = 0.0
            logger.warning("the repository is back: %s", self)


class Keeper(Protocol):
    """Writes rows of one kind in one transaction."""

    def store(self, rows: list[Any]) -> Any:
        """Write them; one that is there already changes nothing.

        Raises:
            RepositoryError: None of them is stored.
        """


class Batch:
    """What is written together, when a batch of messages is at its end."""

    def __init__(self) -> None:
        self._rows: list[tuple[Keeper, Any]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, keeper: Keeper, row: Any) -> None:
        """Add a row."""
        self._rows.append((keeper, row))

    def store(self) -> None:
        """Write them, in one transaction for each keeper.

        Raises:
            RepositoryError: Those of one keeper are not stored.
        """
        by_keeper: dict[Keeper, list[Any]] = {}
        for keeper, row in self._rows:
            by_keeper.setdefault(keeper, []).append(row)
        for keeper, rows in by_keeper.items():
            keeper.store(rows)


_together: Batch | None = None


def together(keeper: Keeper, row: Any) -> None:
    """Store a row: with the others of a batch within `stored_together`, else at once.

    Raises:
        RepositoryError: It is not stored.
    """
    if _together is not None:
        _together.append(keeper, row)
    else:
        keeper.store([row])


@contextmanager
def stored_together() -> Iterator[Batch]:
    """Within it, rows are collected; the caller stores them afterwards.

    For a process that does one thing after another, as those of the prefork pool.
    """
    global _together
    _together = batch = Batch()
    try:
        yield batch
    finally:
        _together = None
