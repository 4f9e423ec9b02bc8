"""Write reports to a folder: ``<folder>/<YYYY-MM-DD>/<id>``, one BSON file each.

The format is oops-datedir-repo's; its programs and `oops_celery.repository.reader` read
it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from hashlib import md5
from typing import Any

from oops_celery import wire
from oops_celery.transport import reentry

#: Bytes of a file name; most file systems allow 255.
MAX_NAME = 200

#: Suffix of unfinished files, which readers skip (oops-datedir-repo).
UNFINISHED = ".tmp"

#: Readable by the group and nobody else: reports contain user input.
FILE_MODE = 0o640
FOLDER_MODE = 0o750

#: A report whose ``time`` is at most this old goes to that day, so that it has the same
#: file when it comes again. A clock that is further off would hide a report.
OWN_DAY = timedelta(days=31)


class FolderPublisher:
    """Keep reports in a folder: behind a worker, or while RabbitMQ is away.

    ::

        config.publisher = oops.publish_with_fallback(
            oops_celery.publisher, oops_celery.FolderPublisher("./fallback")
        )

    It accepts every report that `oops_celery.Publisher` accepts, with the same id; an
    id that a report has is kept. ``oops-celery resubmit`` sends them to the broker.

    Safe with many threads and processes.

    Args:
        folder: The folder; made at the first report.
        sync: Whether a report is on disk when the call returns, safe from a power cut.
            That may take 10 ms; without it, about 1.
    """

    def __init__(self, folder: str | os.PathLike[str], *, sync: bool = True) -> None:
        self.folder = os.path.abspath(os.fsdecode(folder))
        self.sync = sync

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {self.folder!r}>"

    def __call__(self, report: Mapping[str, Any]) -> list[str]:
        """Keep a report, which is not changed.

        Returns:
            The report's id in a list; an empty list for a line logged during a publish,
            which would run in a circle.

        Raises:
            OSError: The file cannot be written.
        """
        if reentry.inside():
            return []
        with reentry.publishing():
            encoded = wire.encode(report, inherit_id=True)
            write(self.folder, encoded, sync=self.sync)
        return [encoded.id]


class FolderRepository:
    """A folder behind the worker: keeps the bytes of reports as they came.

    It does not wait for the disk, which would keep ten times fewer reports a second
    (docs/reliability.md says what a power cut may lose).

    Args:
        folder: The folder; made at the first report.
    """

    def __init__(self, folder: str) -> None:
        self._folder = os.path.abspath(folder)

    def keep(self, report: Mapping[str, Any], body: bytes) -> list[str]:
        """Keep a report; return its id in a list.

        Raises:
            OSError: The file cannot be written.
        """
        encoded = as_it_came(report, body)
        write(self._folder, encoded, sync=False)
        return [encoded.id]


def as_it_came(report: Mapping[str, Any], body: bytes) -> wire.Encoded:
    """Return a report with the bytes it came in, if they contain its id.

    Args:
        report: The report.
        body: The same as BSON.
    """
    report_id = report.get("id")
    if not isinstance(report_id, str) or not report_id:
        return wire.encode(report, inherit_id=True)
    return wire.Encoded(report_id, wire.task_id(report_id, body), body)


def write(
    folder: str, report: wire.Encoded, day: datetime | None = None, sync: bool = True
) -> None:
    """Write a report.

    The same report, written again or by several processes at once, is one file. A
    different report with the same id gets its own file.

    Args:
        folder: The folder of the days; made if needed.
        report: The report.
        day: The day that it belongs to; by default that of the report's own time.
        sync: Whether to wait until it is on disk, safe from a power cut.

    Raises:
        OSError: It cannot be written.
    """
    days = f"{folder}/{(day or _day(report.body)).date()}"
    path = f"{days}/{file_name(report.id)}"
    if _holds_another(path, report.body):
        path = f"{path}.{md5(report.body, usedforsecurity=False).hexdigest()}"
    unfinished = f"{path}.{os.urandom(8).hex()}{UNFINISHED}"
    file = _open(unfinished)
    try:
        with open(file, "wb") as opened:
            os.fchmod(file, FILE_MODE)  # whatever the umask
            opened.write(report.body)
            opened.flush()
            if sync:
                os.fsync(file)
        os.rename(unfinished, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(unfinished)
        raise
    if sync:
        _sync(days)


def file_name(report_id: str) -> str:
    """Return the name of a report's file: its id, or a hash of an unusable id."""
    usable = (
        0 < len(report_id.encode()) <= MAX_NAME
        and report_id.isprintable()
        and "/" not in report_id
        and not report_id.startswith(".")
        and not report_id.endswith(UNFINISHED)
    )
    if usable:
        return report_id
    return f"OOPS-{md5(report_id.encode(), usedforsecurity=False).hexdigest()}"


def _day(body: bytes) -> datetime:
    now = datetime.now(timezone.utc)
    time = wire.peek_time(body, "time")
    return time if time is not None and now - OWN_DAY < time <= now else now


def _holds_another(path: str, body: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read() != body
    except FileNotFoundError:
        return False


def _open(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        return os.open(path, flags, FILE_MODE)
    except FileNotFoundError:  # the first report of the day
        _make(os.path.dirname(path))
        return os.open(path, flags, FILE_MODE)


def _make(folder: str) -> None:
    parent = os.path.dirname(folder)
    if not os.path.isdir(parent):
        _make(parent)
    with suppress(FileExistsError):
        os.mkdir(folder)
        os.chmod(folder, FOLDER_MODE)
        _sync(parent)


def _sync(folder: str) -> None:
    """Wait until the names in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
