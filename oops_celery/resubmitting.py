"""Reports of a fallback repository go to the broker, and their files go away."""

from __future__ import annotations

import fcntl
import os
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from oops_celery import wire
from oops_celery.folder import as_it_came
from oops_celery.publishing import Publisher

#: The folders of a repository: see `oops_celery.folder`.
_DATE = re.compile(r"\d{4}-\d\d-\d\d")


class Outcome(NamedTuple):
    """What became of a file.

    Attributes:
        path: The file.
        id: The report's id; None where the file is still there.
        reason: Why it is still there; empty where it is not.
    """

    path: Path
    id: str | None
    reason: str = ""


def waiting(folder: Path) -> list[Path]:
    """Return the files of a folder of reports that are whole, oldest day first.

    Raises:
        OSError: The folder cannot be read.
    """
    days = sorted(name for name in os.listdir(folder) if _DATE.fullmatch(name))
    return [
        folder / day / name
        for day in days
        for name in sorted(os.listdir(folder / day))
        if not name.endswith(".tmp")
    ]


def resubmit(files: list[Path], publisher: Publisher) -> Iterator[Outcome]:
    """Publish the report of each file, and remove the file when the broker has it.

    Interrupted at any moment, it loses nothing: what was not removed is sent by the
    next call. What another process is at is left to it.

    Args:
        files: See `waiting`.
        publisher: One that keeps the reports' ids (``inherit_id``).

    Yields:
        The outcome of each file, as it is known.
    """
    outcomes: deque[Outcome] = deque()
    sent: deque[tuple[Path, int]] = deque()

    def reports() -> Iterator[tuple[wire.Encoded, dict[str, Any]]]:
        for path in files:
            file = None
            try:
                file = _taken(path)
                if file is None:
                    continue
                body = os.read(file, os.fstat(file).st_size)
                report = wire.decode(body)
            except (OSError, wire.Undecodable) as error:
                reason = getattr(error, "strerror", None) or str(error)
                outcomes.append(Outcome(path, None, reason))
                if file is not None:
                    os.close(file)
                continue
            sent.append((path, file))
            yield as_it_came(report, body), report

    try:
        for ids in publisher.publish_encoded(reports()):
            path, file = sent.popleft()
            if ids:
                os.unlink(path)
                outcomes.append(Outcome(path, ids[0]))
            else:
                outcomes.append(Outcome(path, None, "the broker has not taken it"))
            os.close(file)
            yield from _all_of(outcomes)
    finally:
        for _, file in sent:
            os.close(file)
    yield from _all_of(outcomes)


def _taken(path: Path) -> int | None:
    """Open a file for this process alone; None where another one has it, or had it.

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


def _all_of(outcomes: deque[Outcome]) -> Iterator[Outcome]:
    while outcomes:
        yield outcomes.popleft()
