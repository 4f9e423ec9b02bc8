"""Count the dead letters: those in the database, and those that wait in queues."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from oops_celery.errors import RepositoryError
from oops_celery.operations.depths import Depth
from oops_celery.operations.finding import Finding
from oops_celery.settings import Settings
from oops_celery.settings import repository_url as urls


@dataclass(frozen=True)
class DeadLetters:
    """The dead letters of a queue.

    Attributes:
        queue: The queue of dead letters.
        filed: Those that a worker took from it into the database.
        waiting: Those that are in it.
    """

    queue: str
    filed: int
    waiting: int

    @property
    def count(self) -> int:
        """All of them."""
        return self.filed + self.waiting


def filed(settings: Settings) -> dict[str, int]:
    """Return how many dead letters the database has, by their queue.

    Raises:
        RepositoryError: The database does not say.
    """
    if not urls.is_url(settings.repository):
        return {}
    file = urls.file_of(settings.repository)
    if file is not None and not file.exists():  # no worker has been here
        return {}
    from oops_celery.dead_letters.letters import Letters

    with Letters(urls.check(settings.repository)) as letters:
        return letters.counts()


def together(
    in_database: dict[str, int], queues: Iterable[str], depths: Iterable[Depth]
) -> list[DeadLetters]:
    """Return the dead letters of each queue that is there, or has some filed."""
    waiting = {each.queue: each.messages for each in depths if each.queue in queues}
    names = dict.fromkeys([*waiting, *in_database])
    return [
        DeadLetters(name, in_database.get(name, 0), waiting.get(name, 0))
        for name in names
    ]


def examine_dead_letters(
    settings: Settings, queues: list[str], waiting: list[Depth]
) -> Iterator[Finding]:
    """Count the dead letters in the database and in their queues."""
    try:
        in_database = filed(settings)
    except RepositoryError as error:
        in_database = {}
        yield Finding("dead letters", "unknown", f"in the database: {error}")
    for one in together(in_database, queues, waiting):
        places = [f"{one.filed:,} in the database"] if one.filed else []
        places += [f"{one.waiting:,} in queue {one.queue}"] if one.waiting else []
        if not places:
            yield Finding("dead letters", "ok", f"none in queue {one.queue}")
        elif one.filed:
            text = ", ".join([*places, *([] if one.waiting else [f"from {one.queue}"])])
            fix = "oops-celery dead list --group shows them, with the reasons"
            yield Finding("dead letters", "wrong", text, fix)
        else:
            yield Finding("dead letters", "wrong", places[0], _unfiled(settings))


def _unfiled(settings: Settings) -> str:
    """Return what to do about letters that nobody took into a database."""
    if not settings.files_letters:
        return "no worker takes them: OOPS_FILE_DEAD_LETTERS, OOPS_REPOSITORY"
    return "a worker takes them into the database, for oops-celery dead: start one"
