"""The content of ``default.yml`` as a value: publishing needs no YAML and no pydantic.

A process with something to report reads no file for it, which would take 150 ms and
more of the failing request. A test compares this with the file.
"""

from __future__ import annotations

from typing import Any

import kombu

from oops_celery.topology.entities import Exchange, Queue
from oops_celery.topology.model import Topology

#: The file with the same content.
SOURCE = "oops_celery/topology/default.yml"

#: A dead letter leaves its queue only when it has arrived in the other one.
_AT_LEAST_ONCE = {
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}


def _quorum_queue(name: str, exchange: str = "", **arguments: Any) -> Queue:
    bindings = []
    if exchange:
        bindings = [kombu.binding(Exchange(exchange, no_declare=True), "", None)]
    named = {key.replace("_", "-"): value for key, value in arguments.items()}
    return Queue(
        name,
        bindings=bindings,
        queue_arguments={"x-queue-type": "quorum", **named},
    )


def _waiting_room(number: int, milliseconds: int) -> Queue:
    return _quorum_queue(
        f"oopses.retry.{number}",
        x_message_ttl=milliseconds,
        x_dead_letter_exchange="",
        x_dead_letter_routing_key="oopses",
        **_AT_LEAST_ONCE,
    )


DEFAULT = Topology(
    exchanges=(
        Exchange("oopses", type="fanout"),
        Exchange("oopses.dead", type="fanout"),
    ),
    queues=(
        _quorum_queue(
            "oopses",
            exchange="oopses",
            x_delivery_limit=20_000,
            x_dead_letter_exchange="oopses.dead",
            **_AT_LEAST_ONCE,
        ),
        _waiting_room(1, 10_000),
        _waiting_room(2, 60_000),
        _waiting_room(3, 600_000),
        _quorum_queue(
            "oopses.dead", exchange="oopses.dead", x_delivery_limit=1_000_000_000
        ),
    ),
    source=SOURCE,
)
