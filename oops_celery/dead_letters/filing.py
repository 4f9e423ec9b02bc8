"""File dead letters in the database: each once, as it came."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from oops_celery.dead_letters.letter import Content, Letter, read_letter
from oops_celery.repository import store

if TYPE_CHECKING:
    from sqlalchemy import Connection

#: Columns that a letter has by the same names.
COLUMNS = (
    *("queue", "id", "key", "is_report", "type", "time", "reason", "attempts"),
    *("came_from", "first_failed_at", "parked_at", "parked_by", "traceback", "size"),
)

#: Of AMQP's and of the databases' numbers.
_MOST = 2**63 - 1

#: Properties that are not in an envelope beside the headers.
_HEADERS = ("application_headers", "headers")


class Filing:
    """Files dead letters in the database of a repository.

    Args:
        repository: The database.
    """

    def __init__(self, repository: store.Repository) -> None:
        self._repository = repository

    @cached_property
    def name(self) -> str:
        """The database, without its password."""
        return str(self._repository)

    def file(self, content: Content, queue: str) -> Letter:
        """File a dead letter; within `store.stored_together`, with the others.

        Args:
            content: The message.
            queue: The queue of dead letters that it was in.

        Raises:
            RepositoryError: It is not filed.
        """
        letter = read_letter(content, queue)
        store.together(self, row_of(letter, content))
        return letter

    def store(self, rows: list[dict[str, Any]]) -> None:
        """Write letters in one transaction.

        Raises:
            RepositoryError: None of them is filed.
        """
        self._repository.write(lambda connection: insert(connection, rows))


def insert(connection: Connection, rows: list[dict[str, Any]]) -> None:
    """Insert letters; one that is there already changes nothing."""
    from sqlalchemy.dialects import postgresql, sqlite

    from oops_celery.repository.schema import dead_letter

    is_postgresql = connection.dialect.name == "postgresql"
    into = (postgresql if is_postgresql else sqlite).insert(dead_letter)
    # In the same order in every process: so none waits for one that waits for it.
    rows = sorted(rows, key=lambda row: (row["queue"], row["key"]))
    connection.execute(into.on_conflict_do_nothing(), rows)


def row_of(letter: Letter, content: Content) -> dict[str, Any]:
    """Return a letter as a row of the table."""
    from oops_celery.repository.groups import normalised
    from oops_celery.repository.row import packed

    own = {name: getattr(letter, name) for name in COLUMNS}
    texts = {name: _clean(one) for name, one in own.items() if isinstance(one, str)}
    if letter.attempts is not None:
        own["attempts"] = max(min(letter.attempts, _MOST), -_MOST)
    compressed, body = packed(content.body)
    return {
        **own,
        **texts,
        "reason_group": normalised(texts["reason"]),
        "envelope": envelope_of(content),
        "compressed": compressed,
        "body": body,
    }


def _clean(text: str) -> str:
    """Return a text that every database can hold."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def envelope_of(content: Content) -> bytes:
    """Return the headers and properties of a message, as an AMQP table."""
    from amqp.serialization import dumps

    properties = {
        name: value
        for name, value in content.properties.items()
        if name not in _HEADERS and value is not None
    }
    both = {"headers": dict(content.headers), "properties": properties}
    return bytes(dumps("F", [both]))


def content_of(body: bytes, envelope: bytes) -> Content:
    """Return a message as it came."""
    from amqp.serialization import loads

    (both,), _ = loads("F", envelope, 0)
    headers: Mapping[str, Any] = both["headers"]
    return Content(body, headers, both["properties"])
