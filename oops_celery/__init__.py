"""Error reports (OOPSes) carried by Celery.

Three ways to use it::

    config.publisher = oops_celery.publisher    # in an application
    celery -A oops_celery worker                # where the reports are kept
    celery -A oops_celery flower                # to watch them

The public names; everything else may change in any release:

    app                the Celery app of the worker
    publisher          publishes reports, with the settings of this process
    Publisher          the same, with settings of its own
    FolderPublisher    keeps reports in a folder: a fallback, or a repository
    report_failures    turns the failing tasks of a Celery app into reports
    scrub, Scrubber    hooks that blank secrets in a report
    plain              a hook that replaces values BSON cannot hold by their text
    Repository         keeps reports in a database, SQLite or PostgreSQL
    Receiver           takes reports from a queue in a program without a worker
    Topology           the exchanges, queues and consumers of a topology file
    url                the address of a report's page, where OOPS_WEB_URL is set

`oops_celery.testing` collects an application's reports in its tests.

Importing this package opens no connection, reads no file and starts no thread: each
public name is loaded when it is first used (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oops_celery.celery import app
    from oops_celery.publishing.publisher import Publisher, publisher
    from oops_celery.publishing.scrubbing import Scrubber, plain, scrub
    from oops_celery.publishing.task_failures import report_failures
    from oops_celery.receiving.receiver import Receiver
    from oops_celery.repository.folder import FolderPublisher
    from oops_celery.repository.store import Repository
    from oops_celery.settings.links import url
    from oops_celery.topology.model import Topology

__version__ = "0.1.0"

__all__ = [
    "FolderPublisher",
    "Publisher",
    "Receiver",
    "Repository",
    "Scrubber",
    "Topology",
    "app",
    "plain",
    "publisher",
    "report_failures",
    "scrub",
    "url",
]

#: Where each public name lives.
_HOMES = {
    "app": "oops_celery.celery",
    "publisher": "oops_celery.publishing.publisher",
    "Publisher": "oops_celery.publishing.publisher",
    "report_failures": "oops_celery.publishing.task_failures",
    "FolderPublisher": "oops_celery.repository.folder",
    "plain": "oops_celery.publishing.scrubbing",
    "Receiver": "oops_celery.receiving.receiver",
    "Scrubber": "oops_celery.publishing.scrubbing",
    "Repository": "oops_celery.repository.store",
    "scrub": "oops_celery.publishing.scrubbing",
    "Topology": "oops_celery.topology.model",
    "url": "oops_celery.settings.links",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'oops_celery' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
