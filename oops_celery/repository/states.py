"""What people say of a group: open, resolved or muted."""

from __future__ import annotations

from datetime import datetime, timezone

from sqlalchemy import update

from oops_celery.repository.schema import report_group
from oops_celery.repository.store import Repository

#: A resolved group whose failure comes back is "regressed", which the worker says.
STATES = ("open", "resolved", "muted")


def set_state(repository: Repository, group: int, state: str) -> bool:
    """Set the state of a group; return whether there is such a group.

    Args:
        repository: The database.
        group: The group's number.
        state: One of `STATES`.

    Raises:
        ValueError: It is none of these.
        RepositoryError: The database does not take it.
    """
    if state not in STATES:
        raise ValueError(f"{state!r} is not one of {', '.join(STATES)}")
    resolved = datetime.now(timezone.utc) if state == "resolved" else None
    query = update(report_group).where(report_group.c.id == group)
    query = query.values(state=state, resolved_at=resolved)
    return repository.write(lambda connection: connection.execute(query).rowcount == 1)
