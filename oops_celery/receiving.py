"""What becomes of a report that arrives: taken, filtered, refused or undecodable."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from billiard.common import terminate_handler_fired
from celery.utils.imports import import_from_cwd

from oops_celery import wire
from oops_celery.settings import Settings, SettingsError

if TYPE_CHECKING:
    import oops


class NotTaken(Exception):
    """Nobody took the report: the publisher failed, or returned no id. Retry later."""


def receive(config: oops.Config, body: bytes) -> list[str] | None:
    """Give the report in a message body to a config's publisher.

    Args:
        config: Its `publish` decides.
        body: The message body.

    Returns:
        The ids that the publisher gave (taken), or None (filtered).

    Raises:
        wire.Undecodable: The body is no report. It never will be one.
        NotTaken: The publisher raised an exception or returned an empty list.
    """
    report = wire.decode(body)
    try:
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


def configured(settings: Settings) -> oops.Config:
    """Return the config that takes the reports in the worker.

    Raises:
        SettingsError: It cannot be had. Says what to do.
    """
    if settings.config is None:
        return _repository(settings.repository)
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


def _repository(folder: str) -> oops.Config:
    import oops

    try:
        from oops_datedir_repo import DateDirRepo
    except ImportError as error:
        raise SettingsError(
            f"the default repository needs oops-datedir-repo ({error}): pip install "
            "'oops-celery[worker]', or name your own oops.Config in OOPS_CONFIG"
        ) from None
    config: Any = oops.Config()
    config.publisher = DateDirRepo(os.path.abspath(folder), inherit_id=True).publish
    return config
