"""Print to a terminal of any width, or into a pipe."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from rich.console import Console
from rich.text import Text

from oops_celery.text import printable

#: Least columns of a line, however narrow the terminal claims to be.
MIN_WIDTH = 20


def say(console: Console, text: str, label: str = "", style: str = "") -> None:
    """Print one text: wrapped for a person, on one line for a program.

    A terminal wraps at its width, and so does any output if COLUMNS is set. A pipe gets
    one line, so that grep finds all of it.

    Args:
        console: The console.
        text: The text; control characters, and what the encoding lacks, are escaped.
        label: Its beginning, in `style`.
        style: A style of rich.
    """
    line = Text.assemble((label, style), escaped(text, console.encoding))
    if console.is_terminal or os.environ.get("COLUMNS"):
        width = max(console.width - 2, MIN_WIDTH)
        lines = line.wrap(console, width, overflow="fold")
        for part in lines:
            part.rstrip()
        line = Text("\n  ").join(lines)
    console.print(line, soft_wrap=True)


def escaped(text: str, encoding: str = "utf-8") -> str:
    """Return a text without control characters, which `encoding` can encode."""
    return printable(text).encode(encoding, "backslashreplace").decode(encoding)


@contextmanager
def others_on_stderr() -> Iterator[None]:
    """Send what other people's code prints to standard error.

    So too what programs that it starts print, and what it prints at the end of the
    process: standard output is for the command alone, which may write JSON.
    """
    if sys.stdout is None:  # closed by the shell: nothing to keep clean
        yield
        return
    sys.stdout.flush()
    ours = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if sys.__stdout__:
            sys.__stdout__.flush()
        os.dup2(ours, 1)
        os.close(ours)
        # The last to register is called first.
        atexit.register(setattr, sys, "stdout", sys.__stderr__)
