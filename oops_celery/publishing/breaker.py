"""A circuit breaker: while the broker is in trouble, a publisher answers at once."""

from __future__ import annotations

import logging
import os
import threading
import time

from oops_celery.errors import Refused, SendError, SettingsError, Unavailable
from oops_celery.transport import reentry
from oops_celery.transport.sender import Sender
from oops_celery.transport.troubles import in_a_line

#: Seconds before a broker in trouble is tried again: at first, and at most.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0

#: Seconds within which a failure costs the application nothing (connection refused).
QUICK = 0.1

logger = logging.getLogger(__name__)


class Breaker:
    """A circuit breaker: while the broker is in trouble, no report waits for it.

    Args:
        sender: Opens a connection to see whether the broker is back.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._good = True
        #: Whether the last failure was quick: then a report itself may try again.
        self._quick = True
        self._retry_at = 0.0
        self._pause = FIRST_PAUSE
        #: Why the last report was not taken, and what to do; empty if it was.
        self.reason = ""
        self._prober: threading.Thread | None = None
        #: The prober thread's process: threads do not survive a fork.
        self._pid = 0

    def admit(self) -> bool:
        """Let a report try the broker, or turn it away while that is in trouble."""
        if self._good:
            return True
        if not self._quick:
            self._probe()  # the thread did not survive a fork
            return False
        if time.monotonic() < self._retry_at:
            return False
        self._wait_longer()  # one report is enough
        return True

    def worked(self) -> None:
        """Record that the broker took a report."""
        self._good = True
        self._pause = FIRST_PAUSE
        if self.reason:
            self.reason = ""
            logger.info("reports are published again")

    def failed(self, error: SendError, seconds: float) -> None:
        """Record that a report was not taken.

        Args:
            error: Why.
            seconds: How long that took.
        """
        reason = _in_words(error, self._sender)
        new, self.reason = reason != self.reason, reason
        if isinstance(error, Unavailable):
            self._quick = seconds < QUICK
            if self._good:
                self._wait_longer()
            self._good = False
            if not self._quick:
                self._probe()
        if new:
            logger.warning("reports are not published: %s", reason)

    def _wait_longer(self) -> None:
        self._retry_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _probe(self) -> None:
        """Find out in a thread when the broker is back."""
        if self._pid != os.getpid():
            self._pid, self._prober = os.getpid(), None
        if self._prober is not None and self._prober.is_alive():
            return
        self._prober = reentry.thread(self._wait_for_broker, "oops_celery-probe")
        try:
            self._prober.start()
        except RuntimeError:  # the interpreter is shutting down: no more threads
            self._good = True

    def _wait_for_broker(self) -> None:
        while not self._good:
            time.sleep(max(self._retry_at - time.monotonic(), 0))
            self._wait_longer()
            try:
                link = self._sender.open()
            except Unavailable:
                continue
            self._sender.put(link)
            self._good = True


def _in_words(error: SendError, sender: Sender) -> str:
    if isinstance(error, Refused):
        return str(error)
    try:
        return in_a_line(error, sender.timeout)
    except SettingsError:  # the timeout itself is the unusable setting
        return str(error)
