"""Exit codes of the commands, and output that cannot be written."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn, TextIO

#: The exit codes of every command, for its help. A command may add to 0 and 1.
EXIT_CODES = """\b
Exit codes:
    0  done, and all is well
    1  it found something wrong, or did not do everything
    2  wrong usage, settings or file, or no broker
   74  its output cannot be written
  130  Ctrl-C
  141  the reader of its output has gone
"""

#: An error of input or output: EX_IOERR in sysexits.h.
NOT_WRITTEN = 74

#: Errors of writing to a file, but not to a broker.
_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}

#: The exit code after Ctrl-C, as in shells: 128 and the number of SIGINT.
INTERRUPTED = 130

#: The same for SIGPIPE, which ends programs in a pipe whose reader has gone.
BROKEN_PIPE = 141


@contextmanager
def well_ended() -> Iterator[None]:
    """End the program without a traceback if its output cannot be written.

    It flushes output here: an error while Python itself ends has a traceback, and exit
    code 120.

    Raises:
        SystemExit: Something could not be written or read.
    """
    _open_closed_streams()
    try:
        try:
            yield
        finally:
            for stream in _outputs():
                stream.flush()
    except SystemExit as end:
        # click and rich exit with 1 when the reader of a pipe has gone.
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        _end(end.__context__)
    except OSError as error:
        _end(error)


def _end(error: OSError) -> NoReturn:
    for stream in _outputs():
        _forget(stream)
    if isinstance(error, BrokenPipeError):
        raise SystemExit(BROKEN_PIPE) from None
    from oops_celery.cli.console import escaped

    what, code = f"{error.filename}: " if error.filename else "", 1
    if not what and error.errno in _OF_WRITING:
        what, code = "what it prints cannot be written: ", NOT_WRITTEN
    with suppress(OSError):  # if stderr itself cannot be written
        text = escaped(f"{what}{error.strerror or error or type(error).__name__}")
        print(f"Error: {text}", file=sys.stderr, flush=True)  # noqa: T201
    raise SystemExit(code) from None


def _forget(stream: TextIO) -> None:
    """Flush a stream; if that fails, drop its data so that Python does not retry."""
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _outputs() -> list[TextIO]:
    return [stream for stream in (sys.stdout, sys.stderr) if stream is not None]


def _open_closed_streams() -> None:
    """Open /dev/null for each standard stream that the shell has closed (``>&-``).

    Otherwise the next file or connection gets its number, and output for the stream,
    for example by a started program, goes there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115 - until the program ends
            setattr(sys, name, stream)
