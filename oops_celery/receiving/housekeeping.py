"""Have old reports removed once an hour, by one of the workers.

In a process of its own: it takes a while, and a worker may fork at any time.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

from celery import bootsteps

from oops_celery.repository.store import Repository

#: Seconds between two looks whether it is due; the database knows when it was done.
LOOK_EVERY = 300.0

#: Seconds after the start until the first look.
FIRST_LOOK = 10.0

logger = logging.getLogger(__name__)


class Housekeeping(bootsteps.StartStopStep):
    """Starts ``oops-celery prune --if-due``, if there is anything to limit."""

    requires = ("celery.worker.components:Timer",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        settings = worker.app.oops
        self.enabled = settings.config is None and any(
            (settings.keep_days, settings.keep_bytes, settings.keep_per_group)
        )
        if self.enabled and not isinstance(worker.app.oops_config, Repository):
            logger.warning(
                "OOPS_KEEP_DAYS, OOPS_KEEP_BYTES and OOPS_KEEP_PER_GROUP have no "
                "effect on a folder: set OOPS_REPOSITORY to the URL of a database"
            )
            self.enabled = False
        self._process: subprocess.Popen[bytes] | None = None
        self._entries: list[Any] = []
        super().__init__(worker, **kwargs)

    def include_if(self, worker: Any) -> bool:  # noqa: ARG002 - Celery's
        """Return whether it is of use."""
        return bool(self.enabled)

    def start(self, worker: Any) -> None:
        """Look soon, and again and again."""
        self._entries = [
            worker.timer.call_after(FIRST_LOOK, self._look),
            worker.timer.call_repeatedly(LOOK_EVERY, self._look),
        ]

    def stop(self, worker: Any) -> None:  # noqa: ARG002 - Celery's
        """End it: what it has not removed is removed next time."""
        for entry in self._entries:
            entry.cancel()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()

    terminate = stop

    def _look(self) -> None:
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-m", "oops_celery.cli", "prune", "--if-due"]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
