"""Check that reports can be kept: for ``doctor``."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from oops_celery.errors import Away, RepositoryError, SettingsError
from oops_celery.operations.finding import Finding
from oops_celery.repository.config import load_config
from oops_celery.settings import Settings
from oops_celery.settings.repository_url import file_of, is_url, without_password
from oops_celery.text import counted


def examine_repository(settings: Settings) -> Finding:
    """Examine what takes the reports in the worker."""
    try:
        load_config(settings)
    except SettingsError as error:
        text, _, fix = str(error).rpartition("; ")
        return Finding("repository", "wrong", text or str(error), text and fix)
    if settings.config is not None:
        return Finding("repository", "ok", f"OOPS_CONFIG={settings.config}")
    if not is_url(settings.repository):
        return _examine_folder(os.path.abspath(settings.repository))
    file = file_of(settings.repository)
    if file is not None and not file.exists():
        found = _examine_folder(str(file.parent))
        name = without_password(settings.repository)
        if found.state != "ok":
            return found
        return Finding("repository", "ok", f"{name}, which a worker makes")
    return _examine_database(settings.repository, file)


def _examine_folder(folder: str) -> Finding:
    place = folder
    while not os.path.lexists(place):  # a worker makes it
        place = os.path.dirname(place)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"\0" * 4096)  # to notice a full disk
            file.flush()
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        mend = "make room there" if full else "give this user the right to"
        return Finding(
            "repository",
            "wrong",
            f"{place} cannot be written to: {error.strerror}",
            f"{mend}, or set OOPS_REPOSITORY to another place",
        )
    return Finding("repository", "ok", folder)


def _examine_database(url: str, file: Path | None) -> Finding:
    from oops_celery.repository.queries import Reports

    try:
        with Reports(url) as reports:
            count = reports.count()
    except Away as error:
        fix = "start it, or set OOPS_REPOSITORY; until then reports wait in the queues"
        return Finding("repository", "wrong", str(error), fix)
    except RepositoryError as error:
        text, _, fix = str(error).rpartition(": ")
        return Finding("repository", "wrong", text, fix)
    if file is not None:
        found = _examine_folder(str(file.parent))
        if found.state != "ok":
            return found
    told = f"{without_password(url)}, {counted(count, 'report')} ever stored"
    return Finding("repository", "ok", told)
