"""Reports that ended without an outcome, in this worker: their process died, say.

RabbitMQ's own count of deliveries says nothing about a report: a lost connection counts
for each message that the worker had.
"""

from __future__ import annotations

import threading

#: Reports that are known, at most; then the oldest one is forgotten.
MAX_KNOWN = 10_000

_times: dict[str, int] = {}
_lock = threading.Lock()  # a pool of threads tells of ends in any of them


def add(report_id: str) -> int:
    """Count one more such end of a report; return how many it had."""
    with _lock:
        times = _times[report_id] = _times.pop(report_id, 0) + 1
        if len(_times) > MAX_KNOWN:
            del _times[next(iter(_times))]
    return times


def forget(report_id: str) -> None:
    """Forget such ends of a report: it has come to an outcome."""
    _times.pop(report_id, None)
