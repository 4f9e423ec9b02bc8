"""Check everything that a report needs on its way: for ``doctor``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from typing import TYPE_CHECKING, Any

import amqp
import celery

from oops_celery import wire
from oops_celery.errors import (
    ManagementError,
    SettingsError,
    Unavailable,
)
from oops_celery.operations.dead_letters import examine_dead_letters
from oops_celery.operations.depths import (
    consumed_queues,
    depths,
    final_dead_letter_queues,
)
from oops_celery.operations.finding import Finding
from oops_celery.operations.management import Management
from oops_celery.operations.repository import examine_repository
from oops_celery.settings import Settings
from oops_celery.settings.requirements import SAFE_CELERY, check_worker, numbers
from oops_celery.topology.compare import compare
from oops_celery.transport.link import Link
from oops_celery.transport.sender import Sender
from oops_celery.transport.troubles import trouble
from oops_celery.wire.task import TASK_NAME

if TYPE_CHECKING:
    from oops_celery.celery import App
    from oops_celery.topology.model import Topology

#: Seconds for workers to answer. They need a few milliseconds, unless one hangs or the
#: machine is very busy.
PING_TIMEOUT = 1.0

#: Most missing or different things to name; the rest is counted.
NAMED = 5


#: Seconds that two clocks may differ: HTTP has whole seconds.
CLOCK_TOLERANCE = 5.0


def examine_here(settings: Settings) -> Iterator[Finding]:
    """Check what needs no broker: the BSON library and the repository."""
    if wire.BSON_LIBRARY == "pymongo" and _is_installed("bson"):
        yield Finding(
            "bson",
            "wrong",
            "PyMongo's, but the package bson is installed too, which has a module of "
            "that name: whoever needs it, as oops-amqp's Receiver does, fails",
            "give oops-amqp an environment of its own; or, if nothing here needs it: "
            "pip uninstall oops-amqp oops-datedir-repo bson, then pip install "
            "--force-reinstall --no-deps pymongo",
        )
    elif wire.BSON_LIBRARY == "pymongo":
        yield Finding("bson", "ok", "PyMongo's")
    else:
        yield Finding(
            "bson",
            "wrong",
            "the pure Python package bson, some 30 times slower than PyMongo's",
            "pip install --force-reinstall --no-deps pymongo",
        )
    yield examine_repository(settings)


def _is_installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False


def examine_clock(management: Management) -> Finding:
    """Compare this machine's clock with the broker's, which AMQP does not tell."""
    try:
        ahead = time.time() - management.clock()
    except ManagementError as error:
        return Finding("clock", "unknown", str(error), "check --management-url")
    if abs(ahead) <= CLOCK_TOLERANCE:
        return Finding("clock", "ok", "that of the broker")
    way = "ahead of" if ahead > 0 else "behind"
    return Finding(
        "clock",
        "wrong",
        f"{abs(ahead):.0f} s {way} the broker's",
        "synchronise both by NTP: times in reports and dead letters mislead",
    )


def examine_broker(
    app: App, topology: Topology, name: str, timeout: float, ping: bool = True
) -> Iterator[Finding]:
    """Check the broker, and everything that only the broker can tell.

    Args:
        app: Has the broker's URL.
        topology: What should be there.
        name: The broker's name in messages.
        timeout: Seconds for connecting, and for each answer after that.
        ping: Whether to ask workers if they are alive.
    """
    sender = Sender(app.connection_for_read, timeout, confirm=False)
    try:
        link = sender.open()
    except Unavailable as error:
        text, fix = trouble(error)
        yield Finding("broker", "wrong", f"{name}: {text}", fix)
        return
    if not link.is_amqp:
        yield Finding(
            "broker",
            "unknown",
            f"{name} is for trying out: only a RabbitMQ can be looked at",
            "set RABBITMQ_URL",
        )
        if ping:
            yield _examine_workers(app, link, [], 0, enough=1)
        link.close()
        return
    try:
        known = link.raw.server_properties
        version = f"{known.get('product', 'AMQP')} {known.get('version', '')}".strip()
        yield Finding("broker", "ok", f"{version} at {name}")
        yield from _examine_celery()
        yield from _examine_queues(app, topology, link, ping)
        yield _examine_permissions(app, topology, link)
    except (OSError, amqp.exceptions.ConnectionError) as error:
        text, fix = trouble(error)
        yield Finding("broker", "wrong", f"{name}: {text}", fix)
    finally:
        link.close()


def _examine_celery() -> Iterator[Finding]:
    """Report what keeps a worker from running here, now or with a later RabbitMQ."""
    try:
        check_worker()
    except SettingsError as error:
        text, _, fix = str(error).rpartition(": ")
        yield Finding("celery", "unknown", f"no worker can run here: {text}", fix)
        return
    if numbers(celery.__version__) < SAFE_CELERY:
        yield Finding(
            "celery",
            "unknown",
            f"the queues of Celery {celery.__version__} for control messages and events"
            " are transient and not exclusive, which RabbitMQ 4.3 may deny"
            " (transient_nonexcl_queues)",
            "pip install 'celery>=5.6' before you run RabbitMQ 4.3",
        )


def _examine_queues(
    app: App, topology: Topology, link: Link, ping: bool
) -> Iterator[Finding]:
    open_channel = link.connection.channel
    found = compare(topology, open_channel)
    differing = [each for each in found if each.what != "unknown"]
    if differing:
        named = "; ".join(map(_in_words, differing[:NAMED]))
        left = len(differing) - NAMED
        more = f" (and {left} more)" if left > 0 else ""
        yield Finding(
            "topology",
            "wrong",
            f"{named}{more}",
            "oops-celery topology diff tells all, topology declare makes what is"
            " missing, or says why the broker refuses it",
        )
    elif found:
        yield Finding("topology", "unknown", str(found[0]))
    else:
        yield Finding("topology", "ok", f"as in {topology.source}")

    consumed = consumed_queues(topology, app.oops.queue)
    parked = final_dead_letter_queues(topology, app.oops.queue)
    known = {each.queue: each for each in depths(open_channel, [*consumed, *parked])}
    for queue in consumed:
        if queue in known and known[queue].consumers == 0:
            yield Finding(
                "consumers",
                "wrong",
                f"nobody takes from queue {queue}; {known[queue].messages} wait there",
                "start what takes from it: celery -A oops_celery worker",
            )
        elif queue in known:
            text = f"{known[queue].consumers} on queue {queue}"
            yield Finding("consumers", "ok", f"{text}, {known[queue].messages} waiting")
    waiting = [known[queue] for queue in parked if queue in known]
    yield from examine_dead_letters(app.oops, parked, waiting)
    workers: list[str] = []
    if ping:
        busy = [queue for queue in consumed if queue in known]
        consumers = sum(known[each].consumers for each in busy)
        yield _examine_workers(app, link, workers, consumers)
    yield _examine_retries(app, topology, link, workers)


def _in_words(difference: Any) -> str:
    if difference.what != "missing":
        return str(difference)
    note = f" ({difference.note})" if difference.note else ""
    return f"{difference.kind} {difference.name} is missing{note}"


class _Enough(Exception):
    """As many workers have answered as there can be."""


def _examine_retries(
    app: App, topology: Topology, link: Link, workers: list[str]
) -> Finding:
    """Look for refused reports, and ask the workers for the reason."""
    queues = [queue.name for queue in topology.retry_queues(app.oops.queue)]
    found = [each for each in depths(link.connection.channel, queues) if each.messages]
    if not found:
        return Finding("retries", "ok", "no report waits for its next try")
    from oops_celery.receiving.refusals import last_reason

    waiting = ", ".join(f"{each.messages:,} in queue {each.queue}" for each in found)
    return Finding(
        "retries",
        "wrong",
        f"reports were refused, and wait for their next try: {waiting}; last reason:"
        f" {last_reason(app, link.connection, workers, PING_TIMEOUT)}",
        "mend what keeps the repository from taking them: they are tried again by"
        " themselves",
    )


def _examine_workers(
    app: App, link: Link, heard: list[str], consumers: int, enough: int = 0
) -> Finding:
    """Ask which workers there are, and add their names to `heard`."""

    def on_reply(reply: dict[str, Any]) -> None:
        # Every Celery worker of the virtual host answers, also other applications'.
        heard.extend(name for name, tasks in reply.items() if TASK_NAME in tasks)
        if len(heard) >= (consumers or enough) > 0:
            raise _Enough

    try:
        with suppress(_Enough):
            app.control.broadcast(
                "registered",
                reply=True,
                timeout=PING_TIMEOUT,
                callback=on_reply,
                connection=link.connection,
            )
    except amqp.ChannelError as error:
        return Finding("workers", "unknown", f"they cannot be asked: {error}")
    if heard:
        return Finding("workers", "ok", f"{', '.join(sorted(heard))}")
    if consumers:
        return Finding(
            "workers",
            "wrong",
            f"the queues have {consumers} consumers, but no worker answers",
            "kill one that hangs (in a solo pool it may be at work); where reports are"
            " taken by another program, say --no-ping",
        )
    return Finding(
        "workers", "wrong", "no worker", "start one: celery -A oops_celery worker"
    )


def _examine_permissions(app: App, topology: Topology, link: Link) -> Finding:
    """Check that this user may publish and consume, without doing either."""
    exchanges = [each.name for each in topology.exchanges if not each.internal]
    refused = [
        *(f"write to exchange {each}" for each in exchanges if not _writes(link, each)),
        *(
            f"read from queue {each}"
            for each in consumed_queues(topology, app.oops.queue)
            if not _reads(link, each)
        ),
    ]
    if not _writes(link, ""):
        refused.append("write to the default exchange, amq.default")
    if not refused:
        return Finding("permissions", "ok", "to publish and to take")
    return Finding(
        "permissions",
        "wrong",
        f"the user may not {', '.join(refused)}",
        "rabbitmqctl set_permissions -p VHOST USER '.*' '.*' '.*', or less",
    )


def _writes(link: Link, exchange: str) -> bool:
    """Publish in a transaction that is rolled back: no queue gets the message.

    The channel closes with the connection: under an alarm it cannot be closed.
    """
    channel = link.connection.channel()
    try:
        channel.tx_select()
        channel.basic_publish(amqp.Message(""), exchange, "oops-celery-doctor")
        channel.tx_rollback()
    except amqp.ChannelError as error:
        return int(error.reply_code) != 403
    return True


def _reads(link: Link, queue: str) -> bool:
    """Consume with an argument that RabbitMQ refuses after checking the permission."""
    channel = link.connection.channel()
    try:
        channel.basic_consume(queue, arguments={"x-priority": "none"})
    except amqp.ChannelError as error:
        return int(error.reply_code) != 403
    return True
