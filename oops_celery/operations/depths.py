"""Count the messages and consumers of a topology's queues, without taking any."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import amqp

from oops_celery.errors import Unavailable
from oops_celery.topology.entities import Channel
from oops_celery.topology.model import Topology
from oops_celery.transport.sender import Sender
from oops_celery.transport.troubles import in_a_line

if TYPE_CHECKING:
    from oops_celery.celery import App


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


def ask(app: App, queues: Iterable[str], timeout: float) -> list[Depth]:
    """Return the depth of each queue that exists, over a connection for this alone.

    Args:
        app: Has the broker's URL.
        queues: The queues' names.
        timeout: Seconds for connecting, and for each answer after that.

    Raises:
        Unavailable: The broker does not tell; the text begins with its URL.
    """
    try:
        link = Sender(app.connection_for_read, timeout, confirm=False).open()
        try:
            if link.is_amqp:
                return list(depths(link.connection.channel, queues))
        finally:
            link.close()
    except (OSError, amqp.ConnectionError, Unavailable) as error:
        raise Unavailable(f"{app.broker_name}: {in_a_line(error, timeout)}") from error
    raise Unavailable(f"{app.broker_name}: only a RabbitMQ tells what waits in a queue")


def report_queues(topology: Topology, reports: str) -> list[str]:
    """Return the names of the queues in which a report may wait.

    Args:
        topology: The topology.
        reports: The queue that the worker takes reports from.
    """
    retries = topology.retry_queues(reports)
    dead = topology.dead_letter_queues(reports)
    return [reports, *(queue.name for queue in (*retries, *dead))]


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
