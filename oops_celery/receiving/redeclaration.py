"""Declare again what the broker refused, until it accepts.

Another program may declare an exchange later, or a right may be granted later.
Otherwise a queue would stay unbound until the next lost connection, and messages would
be lost.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import amqp
from celery import bootsteps

if TYPE_CHECKING:
    from oops_celery.topology.declare import Refusal
    from oops_celery.topology.model import Topology

logger = logging.getLogger(__name__)

#: Seconds before the next try: at first, and at most.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 8.0

#: Refusals that may end, and cost a channel at most: no right, not found, another
#: connection's exclusive queue. A difference (406) stays; others close the connection.
LATER = {amqp.AccessRefused.code, amqp.NotFound.code, amqp.ResourceLocked.code}


class RefusedDeclarations:
    """The broker's refusals of a topology, logged when they begin and end.

    Args:
        topology: The topology; its warnings are logged with the first refusals.
    """

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        #: All refusals of the last declaration.
        self.now: list[Refusal] = []
        self._said: set[str] = set()

    def note(self, refusals: list[Refusal]) -> None:
        """Log the changes.

        Args:
            refusals: All current refusals.
        """
        warnings, source = self._topology.warnings, self._topology.source
        for level, problem in (
            *((logging.WARNING, each) for each in warnings),
            *((logging.ERROR, each) for each in refusals),
        ):
            if str(problem) not in self._said:
                logger.log(level, "%s: %s", source, problem)
        still = {(each.kind, each.name) for each in refusals}
        for each in self.now:
            if (each.kind, each.name) not in still:
                logger.warning(
                    "%s: %s %s is declared now", source, each.kind, each.name
                )
        self._said = {*map(str, warnings), *map(str, refusals)}
        self.now = refusals


class Redeclaration(bootsteps.StartStopStep):
    """A step of Celery's consumer that declares again what was refused.

    Args:
        consumer: Celery's consumer.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, _: Any, **__: Any) -> None:
        self._pause = FIRST_PAUSE
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        """Schedule the first try; called again after each lost connection."""
        self._pause = FIRST_PAUSE
        self._wait(consumer)

    def stop(self, _: Any) -> None:
        """Stop trying."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _wait(self, consumer: Any) -> None:
        if any(map(_may_be_granted, consumer.refused.now)):
            again = (self._declare, consumer, consumer.connection)
            self._timer = consumer.timer.call_after(
                self._pause, consumer.call_soon, again
            )
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _declare(self, consumer: Any, connection: Any) -> None:
        if consumer.connection is not connection or not connection.connected:
            return  # it was lost: the next connection declares everything
        raw = connection.connection
        refused = consumer.refused
        missing = list(filter(_may_be_granted, refused.now))
        again = consumer.app.topology.part(missing).declare(connection.channel)
        # A queue without its binding may also be refused for a difference.
        refused.note([*{*refused.now} - {*missing} - {*again}, *again])
        if connection.connection is not raw:
            raise amqp.RecoverableConnectionError("a refusal has closed the connection")
        self._wait(consumer)


def _may_be_granted(refusal: Refusal) -> bool:
    return refusal.code in LATER
