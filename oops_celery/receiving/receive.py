"""Decide what becomes of a report: taken, filtered, refused or undecodable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oops_celery import wire
from oops_celery.errors import NotTaken
from oops_celery.repository.folder import FolderRepository
from oops_celery.repository.store import Repository, message_body

if TYPE_CHECKING:
    import oops

try:
    from billiard.common import terminate_handler_fired
except ImportError:  # before 4.3.1, which a worker needs; `Receiver` does not

    def terminate_handler_fired() -> bool:
        """Return whether the pool ends this process: there is no pool."""
        return False


def receive(
    config: oops.Config | Repository | FolderRepository, body: bytes
) -> list[str] | None:
    """Give the report in a message body to a config's publisher.

    Args:
        config: Its `publish` decides; or the repository, which takes all.
        body: The message body.

    Returns:
        The ids that the publisher returned (taken), or None (filtered).

    Raises:
        wire.Undecodable: The body is not a report, and never will be.
        NotTaken: The publisher raised an exception or returned an empty list.
    """
    report = wire.decode(body)
    try:
        if isinstance(config, (Repository, FolderRepository)):
            ids = config.keep(report, body)
        else:
            token = message_body.set(body)
            try:
                ids = config.publish(report)
            finally:
                message_body.reset(token)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # an operator's publisher may raise anything
        if terminate_handler_fired():
            raise  # the pool ends this process; the worker requeues the report
        raise NotTaken(f"{type(error).__name__}: {error}") from error
    if ids is None:
        return None
    if not ids:
        raise NotTaken("the publisher returned no id")
    return [str(one) for one in ids]
