"""The counts of the first page, shared by those who look within two seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from oops_celery.repository.queries import Reports
from oops_celery.repository.reader import Overview

#: The periods: hours, and the hours of a bar.
PERIODS = {"1h": (1, 1), "24h": (24, 1), "7d": (168, 24), "30d": (720, 24)}

#: Seconds for which counts are good.
FRESH = 2.0


class Overviews:
    """Reads the counts of a period, at most every two seconds.

    Args:
        reports: Returns the database.
    """

    def __init__(self, reports: Callable[[], Reports]) -> None:
        self._reports = reports
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Overview]] = {}

    def of(self, period: str) -> Overview:
        """Return the groups of one of `PERIODS`, up to now."""
        with self._lock:
            found = self._known.get(period)
            if found is None or time.monotonic() - found[0] > FRESH:
                found = (time.monotonic(), self._read(period))
                self._known[period] = found
            return found[1]

    def forget(self) -> None:
        """Have changes be seen at once."""
        with self._lock:
            self._known.clear()

    def _read(self, period: str) -> Overview:
        hours, width = PERIODS[period]
        today = datetime.now(timezone.utc).date()
        if width > 1:
            return self._reports().overview(today, hours // width, by_hour=False)
        since = datetime.now(timezone.utc) - timedelta(hours=hours - 1)
        days = (today - since.date()).days + 1
        return self._reports().overview(today, days, since)
