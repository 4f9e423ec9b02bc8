"""Show a topology: as tables, a tree, or JSON."""

from __future__ import annotations

import os
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from oops_celery.cli.console import escaped, say
from oops_celery.topology.graph import Edge, Flow, Node, duration
from oops_celery.topology.model import Exchange, Queue, Topology

#: Columns of a table in a pipe: no line is folded there, so that grep finds all of it.
PIPE_WIDTH = 1000

#: The colour of each kind of node.
_STYLES = {
    "exchange": "yellow",
    "queue": "cyan",
    "worker": "green",
    "consumer": "green",
}


def described(topology: Topology) -> dict[str, Any]:
    """Return a topology for JSON."""
    return {
        "file": topology.source,
        "startup_handler": topology.startup_handler,
        "exchanges": [_exchange(each) for each in topology.exchanges],
        "queues": [_queue(each, topology) for each in topology.queues],
        "consumers": [vars(each) for each in topology.consumers],
        "warnings": [str(each) for each in topology.warnings],
    }


def _exchange(exchange: Exchange) -> dict[str, Any]:
    names = ("name", "type", "durable", "auto_delete", "internal", "passive")
    values = {name: getattr(exchange, name) for name in names}
    return {**values, "arguments": exchange.arguments or {}}


def _queue(queue: Queue, topology: Topology) -> dict[str, Any]:
    names = ("name", "durable", "auto_delete", "exclusive", "passive")
    target = topology.dead_letter_target(queue.name)
    dead = target and {"exchange": target[0], "routing_key": target[1]}
    bindings = [
        {
            "exchange": binding.exchange.name,
            "routing_key": binding.routing_key or "",
            "arguments": binding.arguments or {},
        }
        for binding in queue.bindings
    ]
    return {
        **{name: getattr(queue, name) for name in names},
        "arguments": queue.queue_arguments or {},
        "bindings": bindings,
        "dead_letters": dead,
    }


def print_topology(topology: Topology, graph: Flow) -> None:
    """Print tables of the declarations, and a tree of how messages flow."""
    terminal = Console()
    fixed = terminal.is_terminal or os.environ.get("COLUMNS")
    console = terminal if fixed else Console(width=PIPE_WIDTH)
    say(console, topology.source, style="bold")
    tables = (
        _table("Exchanges", ("name", "type")),
        _table("Queues", ("name", "type", "TTL", "dead letters", "bound to")),
        _table("Consumers", ("class", "queue", "count", "prefetch")),
    )
    rows: tuple[list[tuple[Any, ...]], ...] = (
        [(exchange.name, exchange.type) for exchange in topology.exchanges],
        [_queue_row(queue, topology) for queue in topology.queues],
        [
            (each.consumer, each.queue, each.consumer_count, each.prefetch_count)
            for each in topology.consumers
        ],
    )
    for table, cells in zip(tables, rows, strict=True):
        for row in cells:
            table.add_row(*(_lines(console, str(cell)) for cell in row))
        if cells:
            console.print()
            console.print(table)
    console.print()
    things: list[Exchange | Queue] = [*topology.exchanges, *topology.queues]
    for thing in things:
        if more := _more(thing):
            kind = "queue" if isinstance(thing, Queue) else "exchange"
            say(console, f"{kind} {thing.name}: {more}")
    console.print("\nThe way of a message", style="bold")
    seen: set[Node] = set()
    for root in graph.roots():
        if root not in seen:
            tree = Tree(_named(console, root))
            _grow(console, tree, root, graph, seen)
            console.print(tree)
    for problem in topology.warnings:
        say(console, f": {problem}", "warning", "yellow")


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _lines(console: Console, cell: str) -> Text:
    lines = (escaped(line, console.encoding) for line in cell.split("\n"))
    return Text("\n".join(lines))


def _queue_row(queue: Queue, topology: Topology) -> tuple[str, ...]:
    arguments = queue.queue_arguments or {}
    ttl = arguments.get("x-message-ttl")
    bound = "\n".join(
        " ".join(filter(None, (binding.exchange.name, binding.routing_key)))
        for binding in queue.bindings
    )
    return (
        queue.name,
        arguments.get("x-queue-type", ""),
        "" if ttl is None else duration(ttl),
        _dead_letters(topology.dead_letter_target(queue.name)),
        bound,
    )


def _dead_letters(target: tuple[str, str] | None) -> str:
    if target is None:
        return ""
    exchange, key = target
    if exchange:
        return f"{exchange} {key}".rstrip()
    return f"queue {key}" if key else "queue of the routing key"


#: Arguments with their own column.
_SHOWN = (
    "x-queue-type",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
)


def _more(thing: Exchange | Queue) -> str:
    """Return the arguments without a column."""
    words = [] if thing.durable else ["not durable"]
    for flag in ("auto_delete", "internal", "exclusive", "passive"):
        if getattr(thing, flag, False):
            words.append(flag)
    own = thing.queue_arguments if isinstance(thing, Queue) else thing.arguments
    arguments = own or {}
    words += [f"{key}={arguments[key]}" for key in arguments if key not in _SHOWN]
    return ", ".join(words)


def _named(console: Console, node: Node, edge: Edge | None = None) -> Text:
    text = Text()
    if edge is not None and edge.label:
        style = "red" if edge.dies else "dim"
        text.append(f"{escaped(edge.label, console.encoding)}: ", style)
    title = escaped(node.title, console.encoding)
    text.append(title, _STYLES.get(node.kind, ""))
    if node.note:
        text.append(f" ({escaped(node.note, console.encoding)})", "dim")
    return text


def _grow(
    console: Console, tree: Tree, node: Node, graph: Flow, seen: set[Node]
) -> None:
    """Add the edges that leave a node; a node that is there already is only named."""
    seen.add(node)
    for edge in graph.leaving(node):
        text = _named(console, edge.target, edge)
        if edge.target in seen:
            tree.add(text.append(" (see above)", "dim"))
        else:
            _grow(console, tree.add(text), edge.target, graph, seen)
