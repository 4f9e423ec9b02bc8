"""Count the messages and consumers of a topology's queues, without taking any."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import amqp

from oops_celery.dead_letters.queues import lock_of
from oops_celery.errors import Hidden
from oops_celery.topology.entities import Channel
from oops_celery.topology.model import Topology

#: Seconds between two checks whether somebody still hides messages.
POLL = 0.1


@dataclass(frozen=True)
class Depth:
    """What RabbitMQ tells about a queue.

    Attributes:
        queue: Its name.
        messages: Messages that are ready; without unacknowledged ones.
        consumers: Consumers of the queue.
    """

    queue: str
    messages: int
    consumers: int


def depths(
    open_channel: Callable[[], Channel], queues: Iterable[str]
) -> Iterator[Depth]:
    """Yield the depth of each queue that exists.

    Args:
        open_channel: Opens a channel; called again after each missing queue.
        queues: The queues' names.

    Raises:
        OSError, amqp.exceptions.ConnectionError: Whatever the connection raises.
    """
    channel = None
    for queue in queues:
        channel = channel or open_channel()
        try:
            found = channel.queue_declare(queue, passive=True)
        except amqp.ChannelError:  # missing, or another connection's own
            channel.close()
            channel = None
            continue
        yield Depth(queue, found.message_count, found.consumer_count)
    if channel is not None:
        channel.close()


def whole_depth(
    open_channel: Callable[[], Channel], queue: str, patience: float
) -> Depth | None:
    """Return a queue's depth while nobody looks into it; None if it is missing.

    RabbitMQ counts the ready messages, not those that somebody holds.

    Args:
        open_channel: Opens a channel.
        queue: The queue's name.
        patience: Seconds to wait for others, who hold messages for a moment.

    Raises:
        Hidden: They hold them for longer.
        OSError, amqp.exceptions.ConnectionError: Whatever the connection raises.
    """
    deadline = time.monotonic() + patience
    while True:
        if not _looked_into(open_channel, queue):
            found = next(depths(open_channel, [queue]), None)
            if not _looked_into(open_channel, queue):
                return found
        if time.monotonic() > deadline:
            raise Hidden(queue)
        time.sleep(POLL)


def _looked_into(open_channel: Callable[[], Channel], queue: str) -> bool:
    channel = open_channel()
    try:
        channel.queue_declare(lock_of(queue), passive=True)
    except amqp.ChannelError as error:
        return isinstance(error, amqp.ResourceLocked)
    finally:
        channel.close()
    return False


def all_queues(topology: Topology, reports: str) -> list[str]:
    """Return the names of all queues of a topology and its consumers.

    Args:
        topology: The topology.
        reports: The queue that the worker takes reports from.
    """
    named = [queue.name for queue in topology.queues]
    return list(dict.fromkeys([*named, *consumed_queues(topology, reports)]))


def consumed_queues(topology: Topology, reports: str) -> list[str]:
    """Return the names of the queues that should have a consumer."""
    queues = [reports] if topology.queue(reports) else []
    return list(dict.fromkeys([*queues, *(each.queue for each in topology.consumers)]))


def final_dead_letter_queues(topology: Topology, reports: str) -> list[str]:
    """Return the names of the queues where dead letters end, for a person to look at.

    Dead letters reach them, nobody consumes them, and they have no TTL after which
    messages go on, as a retry queue has.
    """
    exchanges: set[str] = set()
    names: set[str] = set()
    for queue in topology.queues:
        target = topology.dead_letter_target(queue.name)
        if target is not None:
            exchange, key = target
            (exchanges if exchange else names).add(exchange or key)
    consumed = consumed_queues(topology, reports)
    return [
        queue.name
        for queue in topology.queues
        if queue.name not in consumed
        and "x-message-ttl" not in (queue.queue_arguments or {})
        and (
            queue.name in names
            or any(binding.exchange.name in exchanges for binding in queue.bindings)
        )
    ]
