"""Ends what ``make run`` has started, if that was killed and could not do so itself.

It reads the processes from its standard input, which ends when `examples.tour` ends,
whatever by. It is nobody's child: what kills the tour with its children spares it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress

#: Seconds that a program may take to finish what it has.
PATIENCE = 20


def end(group: int) -> None:
    """End a process and its group: politely, and after a while by force."""
    with suppress(ProcessLookupError):  # all of it has gone
        deadline = time.monotonic() + PATIENCE
        with suppress(ProcessLookupError):  # a pool without its worker may be left
            os.kill(group, signal.SIGTERM)
            while time.monotonic() < deadline:
                os.killpg(group, 0)
                time.sleep(0.1)
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    if os.fork():
        sys.exit()
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.SIG_IGN)
    for leader in [int(line) for line in sys.stdin]:
        end(leader)
