"""Count reports that ended without an outcome in this worker, as their process died.

RabbitMQ's count of deliveries says nothing about one report: a lost connection counts
for every message that the worker had.
"""

from __future__ import annotations

import threading

#: Most reports to remember; then the oldest one is forgotten.
MAX_KNOWN = 10_000

_times: dict[str, int] = {}
_lock = threading.Lock()  # in a pool of threads, any thread counts


def add(report_id: str) -> int:
    """Count such an end of a report; return how many it had."""
    with _lock:
        times = _times[report_id] = _times.pop(report_id, 0) + 1
        if len(_times) > MAX_KNOWN:
            del _times[next(iter(_times))]
    return times


def forget(report_id: str) -> None:
    """Forget a report: it has an outcome."""
    _times.pop(report_id, None)
