"""Count the reports that the repository refuses, and log them once a minute."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import amqp
from celery.worker.control import inspect_command

if TYPE_CHECKING:
    from celery import Celery

#: Seconds between two warnings.
WARNING_INTERVAL = 60.0

#: Seconds between two checks whether a warning is due.
TICK = 5.0

#: Most characters of a reason.
MOST = 300

logger = logging.getLogger(__name__)


class Refusals:
    """Counts refused reports, for the log and for ``doctor``.

    The first refusal is logged at once. Then there is a line a minute while there are
    more, and one when reports are taken again. Safe with many threads.

    Args:
        clock: Returns seconds, as `time.monotonic`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._told_at: float | None = None
        #: Since the last warning.
        self._refused = self._taken = 0
        #: Since the trouble began; 0 when it is over.
        self._total = 0
        self._known: dict[str, Any] = {}

    def refused(self, reason: str, place: str) -> None:
        """Count a refused report.

        Args:
            reason: Why.
            place: Where it waits now.
        """
        with self._lock:
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            self._known = {
                "since": self._known["since"] if self._total else now,
                "last": now,
                "reason": reason[:MOST],
                "place": place,
            }
            self._refused += 1
            self._total += 1
        self.tell()

    def taken(self) -> None:
        """Count a report that was taken."""
        with self._lock:
            self._taken += 1

    def tell(self) -> None:
        """Log a warning if one is due."""
        with self._lock:
            now = self._clock()
            if self._told_at is not None and now - self._told_at < WARNING_INTERVAL:
                return
            refused, taken, total = self._refused, self._taken, self._total
            if not total or not (refused or taken):
                return
            first = self._told_at is None
            # When reports are taken again, the next refusal counts as the first.
            self._told_at = now if refused else None
            self._refused = self._taken = 0
            self._total = total if refused else 0
            known = self._known
        if refused:
            lately = "" if first else f", {refused} of them in the last minute"
            logger.warning(
                "reports refused since %s: %d%s; last reason: %s; they wait in %s",
                known["since"],
                total,
                lately,
                known["reason"],
                known["place"],
            )
        else:
            logger.warning(
                "reports are taken again; %d were refused since %s",
                total,
                known["since"],
            )

    def known(self) -> dict[str, Any]:
        """Return the number of refusals, since when, and the last reason."""
        with self._lock:
            return {"refused": self._total, **self._known}


#: The counter of this worker.
refusals = Refusals()


@inspect_command(name="oops_refusals")
def _tell(_: Any, **__: Any) -> dict[str, Any]:
    """Reports that the repository has refused, and why."""
    return refusals.known()


class _AllHeard(Exception):
    """Every worker has answered."""


def last_reason(
    app: Celery, connection: Any, workers: list[str], timeout: float
) -> str:
    """Ask workers why they had a report refused; return the newest reason in words.

    Args:
        app: Its `control` asks.
        connection: kombu's connection to the broker.
        workers: Their names; workers of other apps would log an error.
        timeout: Seconds for their answers.
    """
    if not workers:
        return "unknown, as no worker was heard"
    told: dict[str, Any] = {}

    def on_reply(reply: dict[str, Any]) -> None:
        told.update(reply)
        if len(told) >= len(workers):
            raise _AllHeard

    with suppress(amqp.ChannelError, _AllHeard):
        app.control.broadcast(
            "oops_refusals",
            reply=True,
            timeout=timeout,
            callback=on_reply,
            connection=connection,
            destination=workers,
        )
    known = [one for one in told.values() if "reason" in one]
    if not known:
        return "unknown to the workers: they have had none refused since their start"
    last = max(known, key=lambda one: str(one["last"]))
    return f"{last['reason']} (at {last['last']})"
