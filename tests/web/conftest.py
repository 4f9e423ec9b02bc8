"""A server of the pages for each test, on a database of either kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oops_celery.repository.store import Repository
from tests.web.serving import Pages, a_report, store, users

#: No RabbitMQ listens there.
NOBODY = "amqp://127.0.0.1:1/"

Serve = Callable[..., Pages]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers; they end with the test."""
    started: list[Pages] = []

    def start(database: str, *options: str, **env: str) -> Pages:
        Repository(database).upgrade()
        folder = tmp_path / f"web-{len(started)}"
        folder.mkdir()
        environ = {"RABBITMQ_URL": NOBODY, **env}
        started.append(Pages(folder, database, *options, **environ))
        return started[-1]

    yield start
    for pages in started:
        assert pages.stop() == 0, pages.log.read_text()
        assert "Traceback" not in pages.log.read_text()


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    """The URL of an empty database."""
    return f"sqlite:///{tmp_path}/oopses.db"


Start = Callable[..., Pages]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('web')}/oopses.db"
    Repository(url).upgrade()
    store(url, a_report(1))
    return url


@pytest.fixture
def start(tmp_path: Path, filled: str) -> Iterator[Start]:
    """Start the pages with options and settings; stopped in the end."""
    started: list[Pages] = []

    def begin(*options: str, **env: str) -> Pages:
        started.append(Pages(tmp_path, filled, *options, **env))
        return started[-1]

    yield begin
    for pages in started:
        pages.stop()
        assert "Traceback" not in pages.log.read_text()


@pytest.fixture
def guarded(start: Start, tmp_path: Path) -> Pages:
    """Pages with a login, and ann logged in."""
    pages = start("--htpasswd", users(tmp_path))
    assert pages.log_in().status_code == 303
    return pages
