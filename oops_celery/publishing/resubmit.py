"""Send the reports of a fallback folder to the broker, and remove their files."""

from __future__ import annotations

import fcntl
import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from oops_celery import wire
from oops_celery.publishing.publisher import Publisher
from oops_celery.repository.folder import as_it_came


class FileOutcome(NamedTuple):
    """The outcome for one file.

    Attributes:
        path: The file.
        id: The report's id; None if the file is still there.
        reason: Why the file is still there; empty if it is not.
    """

    path: Path
    id: str | None
    reason: str = ""


def resubmit(files: list[Path], publisher: Publisher) -> Iterator[FileOutcome]:
    """Publish the report of each file, and remove the file when the broker has it.

    A file that this user may not remove is not sent, as every call would send it again.
    An interruption loses nothing: the next call sends the files that were not removed.
    A file that another process sends is skipped.

    Args:
        files: From `oops_celery.repository.reader.waiting`.
        publisher: One that keeps the reports' ids (``inherit_id``).

    Yields:
        The outcome of each file, as soon as it is known.
    """
    outcomes: deque[FileOutcome] = deque()
    sent: deque[tuple[Path, int, int]] = deque()

    def reports() -> Iterator[tuple[wire.Encoded, dict[str, Any]]]:
        for path in files:
            file = None
            try:
                file = _taken(path)
                if file is None:
                    continue
                body = _content(path, file)
                report = wire.decode(body)
            except (OSError, wire.Undecodable) as error:
                outcomes.append(FileOutcome(path, None, _error_in_words(error)))
                if file is not None:
                    os.close(file)
                continue
            sent.append((path, file, len(body)))
            yield as_it_came(report, body), report

    try:
        for ids in publisher.publish_encoded(reports()):
            path, file, size = sent.popleft()
            if ids:
                reason = _remove(path)
                outcomes.append(FileOutcome(path, None if reason else ids[0], reason))
            else:
                outcomes.append(FileOutcome(path, None, _refusal(publisher, size)))
            os.close(file)
            yield from _all_of(outcomes)
    finally:
        for _, file, _ in sent:
            os.close(file)
    yield from _all_of(outcomes)


def _error_in_words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _refusal(publisher: Publisher, size: int) -> str:
    if size > publisher.max_size:
        most = publisher.max_size
        return f"it has {size} bytes, and {most} are allowed (OOPS_MAX_SIZE)"
    return f"the broker has not taken it: {publisher.trouble or 'see the log'}"


def _content(path: Path, file: int) -> bytes:
    """Return the content of a file that this user may remove.

    Raises:
        OSError: It cannot be read, or this user may not remove it.
        wire.Undecodable: It is not a report.
    """
    known = os.fstat(file)
    if not stat.S_ISREG(known.st_mode):
        raise wire.Undecodable("not a file")
    _check_removable(path)
    # A BSON document begins with its length: another length is not read on. On Linux a
    # read has at most 2 GB, and so has a document.
    length = os.pread(file, 4, 0)
    if int.from_bytes(length, "little") != known.st_size:
        raise wire.Undecodable(
            "not a BSON document: it says another length than it has"
        )
    return os.pread(file, known.st_size, 0)


def _check_removable(path: Path) -> None:
    """Raise the `OSError` that removing a file would raise, without removing it.

    For ``rmdir`` of a file, the system checks permissions, the sticky bit, attributes
    and a read-only mount first, as for ``unlink``, and the file's type last.
    """
    try:
        os.rmdir(path)
    except NotADirectoryError:
        return
    except OSError as error:
        why = f"it could not be removed: {_error_in_words(error)}"
        raise OSError(error.errno, why, str(path)) from None


def _remove(path: Path) -> str:
    """Remove a file that was sent; if that fails, empty it and return the reason.

    An empty file is not sent again.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        return ""
    except OSError as error:
        emptied = ""
        try:
            os.truncate(path, 0)
        except OSError:
            emptied = ", nor emptied: the next run sends it again"
        return f"it was sent, and cannot be removed{emptied}: {_error_in_words(error)}"
    return ""


def _taken(path: Path) -> int | None:
    """Open a file for this process alone; None if another process has it, or had it.

    Returns:
        Its file descriptor.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # it may be a pipe
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file).st_nlink:
            return file
    except BlockingIOError:
        pass
    except OSError:
        os.close(file)
        raise
    os.close(file)
    return None


def _all_of(outcomes: deque[FileOutcome]) -> Iterator[FileOutcome]:
    while outcomes:
        yield outcomes.popleft()
