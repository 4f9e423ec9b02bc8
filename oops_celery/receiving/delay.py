"""Delay redelivered reports a moment, so that others are done before them.

One of them may have ended the whole worker. RabbitMQ puts it back in its place each
time; begun at once, it would keep all others waiting, at each start of the worker.
"""

from __future__ import annotations

import random
from typing import Any

from celery.worker.request import Request

#: Least seconds of the delay.
DELAY = 0.1


class Later:
    """Celery's consumer, for pools without batches: redelivered reports wait a moment.

    Each waits a random time, so they begin in any order.

    Args:
        consumer: Celery's consumer, with a new connection.
    """

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._connection = consumer.connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def on_task_request(self, request: Request) -> None:
        """Begin a report: at once if it is new, else after the delay."""
        if request.delivery_info["redelivered"]:
            pause = random.uniform(1, 3) * DELAY
            self._consumer.timer.call_after(pause, self._begin, (request,))
        else:
            self._consumer.on_task_request(request)

    def _begin(self, request: Request) -> None:
        if self._consumer.connection is self._connection:  # else it is redelivered
            self._consumer.on_task_request(request)
