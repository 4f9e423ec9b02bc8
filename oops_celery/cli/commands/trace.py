"""``oops-celery trace``: show reports as they arrive, and leave them in their queue."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import click

from oops_celery.cli.broker import BROKER_TIMEOUT, CannotTell, broker_name, connected

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from oops_celery.celery import App
    from oops_celery.transport.link import Link

    #: Texts of which a report must have one, by their field.
    Filters = dict[str, list[str]]

#: The fields to filter by.
FILTERED = ("type", "topic", "reporter")

#: Most reports that wait for us at the broker; it drops older ones.
BACKLOG = 10_000

#: Seconds between two checks of the connection, and between two attempts to connect
#: again.
POLL = 1.0

#: Columns of a line with more than the time and the id; a narrower one is broken into
#: two or three.
WIDE = 100

#: Most characters of type, topic and value.
MOST = 300


class _Refused(CannotTell):
    """The broker works, and refuses."""


def _filters(_context: Any, _option: Any, values: tuple[str, ...]) -> Filters:
    found: Filters = {}
    for value in values:
        name, equals, pattern = value.partition("=")
        if not equals or name not in FILTERED:
            names = ", ".join(f"{one}=..." for one in FILTERED)
            raise click.BadParameter(f"{value!r} must be one of {names}")
        found.setdefault(name, []).append(pattern)
    return found


@click.command(
    "trace",
    short_help="Show reports as they arrive.",
    help="""Show reports as they arrive, one line each, until Ctrl-C.

    RabbitMQ copies them to a queue of this command, which ends with it: no other
    consumer misses one. Earlier reports are not shown. A lost connection is replaced;
    reports that arrive meanwhile are not shown either.

    A line has the time (UTC), the id, the type of the exception, topic and value.

    The exit code is 0 after Ctrl-C; 2 when there is no broker or no exchange, or when
    the command is not used as described here.
    """,
    epilog="""\b
Examples:
  oops-celery trace
  oops-celery trace --filter 'type=*Timeout*' --full
  oops-celery trace --json | jq -r .url
""",
)
@click.option(
    "--filter",
    "filters",
    multiple=True,
    callback=_filters,
    metavar="NAME=GLOB",
    help="Only reports whose type, topic or reporter is like GLOB (* and ? are"
    " wildcards). May be repeated: one of the same name, and each name, must fit.",
)
@click.option("--full", is_flag=True, help="Show each report in full.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.option(
    "--exchange",
    metavar="NAME",
    help="The exchange; by default OOPS_EXCHANGE.",
)
@click.option(
    "--routing-key",
    metavar="KEY",
    help="The routing key; by default # for a topic exchange of the topology, else"
    " OOPS_ROUTING_KEY.",
)
def command(
    filters: Filters,
    full: bool,
    as_json: bool,
    exchange: str | None,
    routing_key: str | None,
) -> None:
    """Listen, and show the reports that arrive."""
    from oops_celery.celery import app

    show = _print_json if as_json else _print_full if full else _print_line
    source = _source(app, exchange, routing_key)
    with suppress(KeyboardInterrupt), closing(_bodies(app, *source)) as bodies:
        for body in bodies:
            _show(body, filters, show)


def _source(app: App, exchange: str | None, key: str | None) -> tuple[str, str]:
    """Return the exchange and the routing key to listen to."""
    from oops_celery.cli.broker import telling_why

    with telling_why():
        name = app.oops.exchange if exchange is None else exchange
        if not name:
            raise CannotTell(
                "the default exchange gives each message to one queue only: set "
                "OOPS_EXCHANGE, or --exchange"
            )
        if key is None:
            topics = [one.name for one in app.topology.exchanges if one.type == "topic"]
            key = "#" if name in topics else app.oops.routing_key
    return name, key


def _bodies(app: App, exchange: str, key: str) -> Generator[bytes, None, None]:
    """Yield the bodies that arrive; reconnect if needed."""
    place = f"exchange {exchange!r} at {broker_name(app)}"
    begun = lost = False
    while True:
        try:
            with connected(app, any_broker=True) as link:
                listen = _listen if link.is_amqp else _listen_elsewhere
                for come in listen(app, link, exchange, key):
                    if come is not None:
                        yield come
                        continue
                    _say("listening again" if begun else f"Listening to {place}", begun)
                    begun, lost = True, False
        except CannotTell as error:
            if not begun or isinstance(error, _Refused):
                raise
            if not lost:
                _say(f"{error.message}; trying again until Ctrl-C", True)
            lost = True
        time.sleep(POLL)


def _listen(_: App, link: Link, exchange: str, key: str) -> Iterator[bytes | None]:
    """Yield None when it starts, then the bodies that arrive."""
    from oops_celery.wire.task import body_of

    raw = link.raw
    come = _subscribe(raw, exchange, key)
    yield None
    while True:
        with suppress(TimeoutError):
            raw.drain_events(timeout=POLL)
        raw.heartbeat_tick()
        while come:
            yield body_of(come.popleft())


def _listen_elsewhere(
    app: App, link: Link, exchange: str, key: str
) -> Iterator[bytes | None]:
    """Do the same at a broker without AMQP, such as that of ``make run``."""
    from uuid import uuid4

    import kombu

    from oops_celery.wire.task import body_of

    come: deque[Any] = deque()
    app.topology.declare(link.connection.channel)
    with link.connection.channel() as channel:
        # Such a broker deletes no queue by itself, and checks no exchange.
        queue = kombu.Queue(f"trace-{uuid4()}", exchange, key, no_declare=True)
        channel.queue_declare(queue.name)
        channel.queue_bind(queue.name, exchange, key)
        try:
            with kombu.Consumer(channel, [queue], on_message=come.append, no_ack=True):
                yield None
                while True:
                    try:
                        link.connection.drain_events(timeout=POLL)
                    except TimeoutError:
                        pass
                    except ValueError as error:  # taken while it was being written
                        _say(f"a message could not be read: {error}", True)
                    while come:
                        yield body_of(come.popleft())
        finally:
            channel.queue_delete(queue.name)


def _subscribe(raw: Any, exchange: str, key: str) -> deque[Any]:
    """Return the queue in this process where messages arrive."""
    import amqp

    come: deque[Any] = deque()
    try:
        with raw.transport.having_timeout(BROKER_TIMEOUT):
            channel = raw.channel()
            channel.auto_decode = False
            queue = channel.queue_declare(
                exclusive=True, arguments={"x-max-length": BACKLOG}
            ).queue
            channel.queue_bind(queue, exchange, key)
            channel.basic_consume(queue, callback=come.append, no_ack=True)
    except amqp.NotFound:
        raise _Refused(
            f"there is no exchange {exchange!r}: a worker, or the first report, "
            "declares those of the topology"
        ) from None
    except amqp.ChannelError as error:
        raise _Refused(f"exchange {exchange!r}: {error}") from None
    return come


def _show(body: bytes, filters: Filters, show: Callable[[bytes], None]) -> None:
    from oops_celery import wire

    try:
        known = wire.peek(body, FILTERED)
        if all(
            any(fnmatchcase(known.get(name, ""), pattern) for pattern in patterns)
            for name, patterns in filters.items()
        ):
            show(body)
    except wire.Undecodable as error:
        _say(f"a message is no report: {error}", True)


def _say(text: str, warning: bool = False) -> None:
    from rich.console import Console

    from oops_celery.cli.console import say

    console = Console(stderr=True, highlight=False)
    if warning:
        say(console, f": {text}", "warning", "yellow")
    else:
        say(console, f"{text}; Ctrl-C ends it")


def _print_json(body: bytes) -> None:
    import json

    from oops_celery import wire
    from oops_celery.wire.as_json import as_json_value

    click.echo(json.dumps(as_json_value(wire.decode(body))))


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def _print_line(body: bytes) -> None:
    from rich.text import Text

    from oops_celery import wire
    from oops_celery.cli.console import escaped, say

    console = _console()
    known = wire.peek(body, ("id", "type", "topic", "value"))
    moment = wire.peek_time(body, "time")
    clock = moment.strftime("%H:%M:%S") if moment else "--:--:--"
    label = escaped(f"{clock} {known.get('id', '(no id)')}", console.encoding)
    text = " ".join(known.get("type", "(no type)").split())
    if known.get("topic"):
        text += f" in {' '.join(known['topic'].split())}"
    if known.get("value"):
        text += f": {' '.join(known['value'].split())}"
    text = escaped(f" {text[:MOST]}", console.encoding)
    for_a_reader = console.is_terminal or os.environ.get("COLUMNS")
    if for_a_reader and console.width < WIDE:
        room = 2 * (console.width - 4) - len(label)
        say(console, text[: max(room, 0)], label, "cyan")
        return
    line = Text.assemble((label, "cyan"), text)
    if for_a_reader:
        line.truncate(console.width - 1, overflow="crop")
    console.print(line, soft_wrap=True)


def _print_full(body: bytes) -> None:
    from oops_celery import wire
    from oops_celery.cli.console import escaped, say

    console = _console()
    report = wire.decode(body)
    say(console, "", "-" * min(console.width - 2, 78), "dim")
    for name, value in report.items():
        label = f"{escaped(name, console.encoding)}: "
        if isinstance(value, str) and "\n" in value:
            say(console, "", label.rstrip(), "cyan")
            for line in value.splitlines():
                say(console, f"  {line}")
        else:
            say(console, str(value), label, "cyan")
