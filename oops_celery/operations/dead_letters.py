"""Count the dead letters: those in the database, and those that wait in queues."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from oops_celery.operations.depths import Depth
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
