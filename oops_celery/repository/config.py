"""The `oops.Config` that takes the reports in the worker, or the repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oops_celery.errors import SettingsError
from oops_celery.repository.folder import FolderRepository
from oops_celery.repository.store import Repository
from oops_celery.settings import Settings, import_from_cwd
from oops_celery.settings import repository_url as urls

if TYPE_CHECKING:
    import oops


def load_config(settings: Settings) -> oops.Config | Repository | FolderRepository:
    """Return the config, or the repository that ``OOPS_REPOSITORY`` names.

    Raises:
        SettingsError: It cannot be loaded; the text says what to do.
    """
    if settings.config is None:
        try:
            if urls.is_url(settings.repository):
                return Repository(settings.repository)
            return FolderRepository(settings.repository)
        except OSError as error:  # the current folder was removed
            raise SettingsError(
                f"OOPS_REPOSITORY={settings.repository!r}: the current folder cannot "
                f"be found: {error.strerror}; start this in another folder"
            ) from error
    module_name, _, attribute = settings.config.partition(":")
    try:
        config = getattr(import_from_cwd(module_name), attribute)
    except Exception as error:  # the module may raise anything
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
