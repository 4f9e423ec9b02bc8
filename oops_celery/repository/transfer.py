"""Bring the reports of folders into the database, and write them to a folder again."""

from __future__ import annotations

import bz2
import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timezone
from itertools import islice
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import NamedTuple

from oops_celery import wire
from oops_celery.repository import folder
from oops_celery.repository.queries import Reports
from oops_celery.repository.reader import Unreadable, as_bson
from oops_celery.repository.row import Row
from oops_celery.repository.store import Repository

#: Files, and bytes of reports, that one transaction has.
FILES = 200
BYTES = 4_000_000

#: A folder of oops-datedir-repo's that has no reports.
_NO_REPORTS = "metadata"


class Imported(NamedTuple):
    """What became of some files.

    Attributes:
        files: Their number.
        new: The reports that were not stored before.
        unreadable: The files that are no reports, and why.
    """

    files: int
    new: int
    unreadable: list[Unreadable]


def report_files(root: str) -> list[str]:
    """Return the finished files in a folder, however deep, those of a day together.

    Raises:
        OSError: The folder cannot be read.
    """
    os.scandir(root).close()
    found = []
    for place, folders, names in os.walk(root):
        folders[:] = sorted(one for one in folders if one != _NO_REPORTS)
        found += [
            os.path.join(place, name)
            for name in sorted(names)
            if not name.endswith(folder.UNFINISHED)
        ]
    return found


def import_files(url: str, files: list[str], processes: int) -> Iterator[Imported]:
    """Store the reports in files, which stay; what is stored already is not changed.

    It may be interrupted and done again, and may run while workers store reports.

    Args:
        url: The database, from `repository_url.check`.
        files: From `report_files`.
        processes: How many may do it at the same time.

    Raises:
        RepositoryError: The database cannot be used.
    """
    Repository(url).upgrade()
    parts = [files[begin : begin + FILES] for begin in range(0, len(files), FILES)]
    if processes == 1 or len(parts) == 1:
        repository = Repository(url)
        for part in parts:
            yield _import(repository, part)
        return
    with ProcessPoolExecutor(
        min(processes, len(parts)), get_context("spawn"), _begin, (url,)
    ) as pool:
        try:
            with _without_interrupts():
                done = pool.map(_import_part, parts)
            yield from done
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_repository: Repository


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Start processes that never see Ctrl-C: it is for the one that starts them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _begin(url: str) -> None:
    """Set up a process that imports, and ends with the one that started it."""
    global _repository
    Thread(target=_end_with_the_parent, daemon=True).start()
    _repository = Repository(url)


def _end_with_the_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def _import_part(files: list[str]) -> Imported:
    return _import(_repository, files)


def _import(repository: Repository, files: list[str]) -> Imported:
    unreadable: list[Unreadable] = []
    rows: list[Row] = []
    new = size = 0
    for file in files:
        try:
            row = _read(file)
        except FileNotFoundError:  # somebody removed it
            continue
        except OSError as error:
            unreadable.append(Unreadable(file, error.strerror or str(error)))
        except wire.Undecodable as error:
            unreadable.append(Unreadable(file, str(error)))
        else:
            rows.append(row)
            size += row.size
        if size > BYTES:
            new += repository.store(rows)
            rows, size = [], 0
    new += repository.store(rows)
    return Imported(len(files), new, unreadable)


def _read(file: str) -> Row:
    # A named pipe contains no report, and may have no writer.
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    with open(descriptor, "rb") as opened:
        content = opened.read()
        written = os.fstat(descriptor).st_mtime
    if content.startswith(b"BZh"):
        with suppress(OSError, ValueError):
            content = bz2.decompress(content)
    body = as_bson(content)
    report = wire.decode(body)
    if not isinstance(report.get("id"), str) or not report["id"]:
        report["id"] = os.path.basename(file)
        body = wire.encode(report, inherit_id=True).body
    row = Row.of(report, body, body)
    if row.has_time:
        return row
    return replace(row, time=datetime.fromtimestamp(int(written), timezone.utc))


def export(
    reports: Reports,
    to: str,
    ids: Iterable[str] = (),
    kind: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Iterator[str]:
    """Write reports to a folder as oops-datedir-repo lays it out; yield their ids.

    Each is in the folder of its day, in a file named by its id. A file that is there
    already, with the same report, stays as it is: so it may be done again.

    Args:
        reports: The database.
        to: The folder; made if needed.
        ids: Only these.
        kind: Only those whose exception's type matches this pattern (`fnmatch`).
        since: Only those since then.
        until: Only those before then.

    Raises:
        OSError: A file cannot be written.
        RepositoryError: The database cannot be used.
    """
    to = os.path.abspath(to)
    found = reports.bodies(ids, kind, since, until)
    while part := list(islice(found, FILES)):
        for one in part:
            encoded = wire.Encoded(one.id, one.id, one.body)
            folder.write(to, encoded, day=one.time, sync=False)
            yield one.id
