"""Python imports this at its start: `time.time` is moved by what a file says.

Only that clock: `datetime.now`, and all that C code asks for, stay right.
"""

import time
from pathlib import Path

FILE = Path("clock")  # seconds, in the current folder

right = time.time


def moved() -> float:
    try:
        return right() + float(FILE.read_text() or 0)
    except OSError:
        return right()


time.time = moved
