"""Take dead letters out of the database: discard them, or export them to files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from oops_celery import wire
from oops_celery.dead_letters.letter import Content, Letter
from oops_celery.dead_letters.letters import Letters, pages
from oops_celery.errors import ExportError
from oops_celery.repository import folder


class LetterOutcome(NamedTuple):
    """The outcome for a letter: why nothing was done; empty if it was done."""

    id: str
    why: str = ""


def discard(letters: Letters, wanted: Iterable[Letter]) -> Iterator[LetterOutcome]:
    """Remove letters for good; nothing is yielded for those that somebody else took.

    Raises:
        RepositoryError: The database is in trouble. The remaining letters stay.
    """
    for page in pages(wanted):
        with letters.turn():
            removed = letters.remove(page)
        yield from (LetterOutcome(letter.id) for letter in removed)


def export(
    letters: Letters, wanted: Iterable[Letter], to: str, remove: bool
) -> Iterator[LetterOutcome]:
    """Write reports to a folder; see `oops_celery.repository.folder`.

    A report always has the same file: exported again after an interruption, it is not
    doubled. A message that is not a report stays in the database.

    Args:
        letters: The database.
        wanted: The letters.
        to: The folder; made if needed.
        remove: Whether to remove a letter when its file is on disk.

    Raises:
        RepositoryError: The database is in trouble.
        ExportError: A file cannot be written.
    """
    for letter, content in letters.contents(wanted):
        if not letter.is_report:
            yield LetterOutcome(letter.id, "no report; it stays a dead letter")
            continue
        try:
            _write(letter, content, to)
        except wire.Undecodable as error:
            yield LetterOutcome(letter.id, f"{error}; it stays a dead letter")
            continue
        if remove:
            letters.remove([letter])
        yield LetterOutcome(letter.id)


def _write(letter: Letter, content: Content, to: str) -> None:
    report = folder.as_it_came(wire.decode(content.body), content.body)
    try:
        folder.write(os.path.abspath(to), report, letter.parked_at)
    except OSError as error:
        raise ExportError(f"{to}: {error.strerror or error}") from error
