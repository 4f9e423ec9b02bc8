"""What becomes of a report that arrives: taken, filtered, refused or undecodable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery.utils.imports import import_from_cwd

from oops_celery import wire
from oops_celery.repository.folder import Repository
from oops_celery.settings import Settings, SettingsError

if TYPE_CHECKING:
    import oops

try:
    from billiard.common import terminate_handler_fired
except ImportError:  # before 4.3.1, which a worker needs; `Receiver` needs no billiard

    def terminate_handler_fired() -> bool:
        """Say whether the pool is ending this process: there is no pool."""
        return False


class NotTaken(Exception):
    """Nobody took the report: the publisher failed, or returned no id. Retry later."""


def receive(config: oops.Config | Repository, body: bytes) -> list[str] | None:
    """Give the report in a message body to a config's publisher.

    Args:
        config: Its `publish` decides; or the default repository, which takes all.
        body: The message body.

    Returns:
        The ids that the publisher gave (taken), or None (filtered).

    Raises:
        wire.Undecodable: The body is no report. It never will be one.
        NotTaken: The publisher raised an exception or returned an empty list.
    """
    report = wire.decode(body)
    try:
        if isinstance(config, Repository):
            ids = config.keep(report, body)
        else:
            ids = config.publish(report)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the operator's publishers do
        if terminate_handler_fired():
            raise  # the pool ends this process; the worker sends the report again
        raise NotTaken(f"{type(error).__name__}: {error}") from error
    if ids is None:
        return None
    if not ids:
        raise NotTaken("the publisher returned no id")
    return [str(one) for one in ids]


def configured(settings: Settings) -> oops.Config | Repository:
    """Return what takes the reports in the worker.

    Raises:
        SettingsError: It cannot be had. Says what to do.
    """
    if settings.config is None:
        try:
            return Repository(settings.repository)
        except OSError as error:  # the current folder is gone
            raise SettingsError(
                f"OOPS_REPOSITORY={settings.repository!r}: the current folder cannot "
                f"be found: {error.strerror}; start this in another folder"
            ) from error
    module_name, _, attribute = settings.config.partition(":")
    try:
        config = getattr(import_from_cwd(module_name), attribute)
    except Exception as error:  # it is a program: anything may happen in it
        raise SettingsError(
            f"OOPS_CONFIG={settings.config!r}: {type(error).__name__}: {error}; it "
            "must be package.module:attribute, importable from the folder of the worker"
        ) from error
    if not callable(getattr(config, "publish", None)):
        raise SettingsError(
            f"OOPS_CONFIG={settings.config!r} is a {type(config).__name__}: it must be "
            "an oops.Config"
        )
    return config
