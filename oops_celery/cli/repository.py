"""Read the repository's database in a command; what cannot be used ends it: code 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oops_celery.repository.queries import Reports


def setting() -> str:
    """Return what OOPS_REPOSITORY names."""
    from oops_celery.cli.broker import telling_why
    from oops_celery.settings import load

    with telling_why():
        return load().repository


def database(option: str | None) -> str:
    """Return the URL of the database that an option or OOPS_REPOSITORY names."""
    from oops_celery.cli.broker import CannotTell
    from oops_celery.settings.repository_url import FORMS, is_url

    if option is not None:
        return checked(option)
    if not is_url(named := setting()):
        raise CannotTell(
            f"OOPS_REPOSITORY={named!r} is a folder: set it, or --repository, to the "
            f"URL of a database: {FORMS}"
        )
    return named


def checked(url: str) -> str:
    """Return the URL of a database, made whole."""
    from oops_celery.cli.broker import telling_why
    from oops_celery.repository.store import Repository

    with telling_why():
        return Repository(url).url


@contextmanager
def reading(url: str) -> Iterator[Reports]:
    """Open the database at a URL, to be read."""
    url = checked(url)
    from oops_celery.repository.queries import Reports

    with told(), Reports(url) as reports:
        yield reports


@contextmanager
def told() -> Iterator[None]:
    """End the command when the database cannot be used, with one line."""
    from oops_celery.cli.broker import CannotTell
    from oops_celery.errors import RepositoryError

    try:
        yield
    except RepositoryError as error:
        raise CannotTell(str(error)) from None
