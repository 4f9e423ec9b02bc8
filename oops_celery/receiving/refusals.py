"""What the repository refuses: counted in the worker, and said once a minute."""

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

#: Seconds between two looks at whether a warning is due.
TICK = 5.0

#: Characters of a reason that are told.
MOST = 300

logger = logging.getLogger(__name__)


class Refusals:
    """Counts reports that were refused, for the log and for ``doctor``.

    The first refusal is said at once. From then on there is a line a minute while there
    are more, and one when reports are taken again. Safe to use from many threads.

    Args:
        clock: Tells the seconds, as `time.monotonic`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._told_at: float | None = None
        #: Since the last line.
        self._refused = self._taken = 0
        #: Since the trouble began; it is over where this is 0.
        self._total = 0
        self._known: dict[str, Any] = {}

    def refused(self, reason: str, place: str) -> None:
        """Count a report that was refused.

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
        """Log what is to be said now."""
        with self._lock:
            now = self._clock()
            if self._told_at is not None and now - self._told_at < WARNING_INTERVAL:
                return
            refused, taken, total = self._refused, self._taken, self._total
            if not total or not (refused or taken):
                return
            first = self._told_at is None
            # When reports are taken again, the next refusal is the first one.
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
        """Return how many were refused, since when, and why the last one was."""
        with self._lock:
            return {"refused": self._total, **self._known}


#: Those of this worker.
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
        app: Knows how to ask.
        connection: kombu's connection to the broker.
        workers: Their names; those of others would log that they don't know this.
        timeout: Seconds that they may take.
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
