"""Read a topology file as bytes; a problem in it."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A problem in a topology file.

    Attributes:
        path: Its place: ``queues[1].x_message_ttl``; empty for the file itself.
        line: Its line in the file, from 1, if known.
        text: What is wrong, with the value and the way out.
        fatal: Whether the file cannot be used. Otherwise it is a warning.
    """

    path: str
    line: int | None
    text: str
    fatal: bool = True

    def __str__(self) -> str:
        at = f"line {self.line}" if self.line else ""
        where = f"{self.path} ({at})" if self.path and at else self.path or at
        return f"{where}: {self.text}" if where else self.text


#: Bytes of the largest topology file: some 10,000 queues.
MAX_FILE = 4 * 1024 * 1024

#: Seconds in which somebody must begin to write into a named pipe.
WRITER_WITHIN = 3.0


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a topology file, or of a pipe.

    Raises:
        OSError, ValueError: It cannot be read, or is too large. A pipe without a writer
            is not waited for.
    """
    # Without O_NONBLOCK, opening a named pipe waits for a writer.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:
        text: bytes | None = b""
        if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
            deadline = time.monotonic() + WRITER_WITHIN
            # None: there is a writer, which has not written yet.
            while not (text := file.read(MAX_FILE + 1)) and text is not None:
                if time.monotonic() > deadline:
                    raise ValueError("it is a pipe that nobody writes into")
                time.sleep(0.02)
        text = text or b""
        os.set_blocking(file.fileno(), True)
        while len(text) <= MAX_FILE and (more := file.read(MAX_FILE + 1 - len(text))):
            text += more
    if len(text) > MAX_FILE:
        raise ValueError(f"it has more than {MAX_FILE} bytes")
    return text
