"""Wait for an event, with a limit that a busy machine does not reach."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

#: Seconds that anything asynchronous may take here.
PATIENCE = 120.0


def eventually(check: Callable[[], Any], timeout: float = PATIENCE) -> Any:
    """Poll until the check returns something true; return that."""
    deadline = time.monotonic() + timeout
    while True:
        result = check()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(
                f"did not happen within {timeout:g} s: last {result!r}"
            )
        time.sleep(0.05)
