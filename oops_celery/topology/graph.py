"""The graph of a topology: how messages flow, and where dead letters go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from oops_celery.topology.entities import Exchange, Queue
from oops_celery.topology.model import Topology


@dataclass(frozen=True)
class Node:
    """A node of the graph.

    Attributes:
        kind: ``program``, ``exchange``, ``queue``, ``worker`` or ``consumer``.
        name: Its name.
        note: More about it in a few words; may be empty.
    """

    kind: str
    name: str
    note: str = ""

    @property
    def title(self) -> str:
        """Its name, after its kind if the name alone does not tell it."""
        told = self.kind in ("program", "worker")
        return self.name if told else f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Edge:
    """An edge of the graph: messages go from one node to another.

    Attributes:
        source: The node they come from.
        target: The node they go to.
        label: When, in a few words; may be empty.
        dies: Whether they are dead letters.
    """

    source: Node
    target: Node
    label: str = ""
    dies: bool = False


@dataclass(frozen=True)
class Flow:
    """The graph, each part once, in the order of the file."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def leaving(self, node: Node) -> list[Edge]:
        """Return the edges that leave a node."""
        return [edge for edge in self.edges if edge.source == node]

    def roots(self) -> list[Node]:
        """Return the nodes to start with: nothing leads to them, or only a circle."""
        entered = {edge.target for edge in self.edges}
        found = [node for node in self.nodes if node not in entered]
        seen: set[Node] = set()
        for node in [*found, *self.nodes]:
            if node in seen:
                continue
            if node not in found:
                found.append(node)
            self._reach(node, seen)
        return found

    def _reach(self, start: Node, seen: set[Node]) -> None:
        waiting = [start]
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting += [edge.target for edge in self.leaving(node)]


def flow(topology: Topology, exchange: str, queue: str) -> Flow:
    """Return the graph of a topology.

    Args:
        topology: The topology.
        exchange: The exchange that reports are published to.
        queue: The queue that the worker takes reports from.
    """
    return _Flowing(topology, exchange, queue).flow()


def duration(milliseconds: int) -> str:
    """Return a time as people say it: ``10 min``."""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000)):
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size} {unit}"
    if milliseconds % 10:
        return f"{milliseconds} ms"
    return f"{milliseconds / 1000:g} s"


class _Flowing:
    def __init__(self, topology: Topology, exchange: str, queue: str) -> None:
        self._topology = topology
        self._entry = exchange
        self._reports = queue
        self._exchanges = {each.name: _exchange(each) for each in topology.exchanges}
        self._queues = {each.name: _queue(each) for each in topology.queues}

    def flow(self) -> Flow:
        edges = list(dict.fromkeys(self._edges()))
        known = [*self._exchanges.values(), *self._queues.values()]
        mentioned = [node for edge in edges for node in (edge.source, edge.target)]
        programs = [node for node in mentioned if node.kind == "program"]
        nodes = dict.fromkeys([*programs, *known, *mentioned])
        return Flow(tuple(nodes), tuple(edges))

    def _edges(self) -> Iterable[Edge]:
        if self._entry in self._exchanges:
            program = Node("program", "programs", "publish reports")
            yield Edge(program, self._exchange(self._entry))
        for queue in self._topology.queues:
            for binding in queue.bindings:
                source = self._exchange(binding.exchange.name)
                label = _binding_label(binding)
                yield Edge(source, self._queues[queue.name], label)
        for entry in self._topology.consumers:
            count = f"{entry.consumer_count} at once, prefetch {entry.prefetch_count}"
            yield Edge(
                self._queue(entry.queue), Node("consumer", entry.consumer, count)
            )
        if self._reports in self._queues:
            yield from self._of_the_worker()
        for queue in self._topology.queues:
            target = self._dead_letters(queue.name)
            if target is not None:
                yield Edge(self._queues[queue.name], target, _death(queue), dies=True)

    def _of_the_worker(self) -> Iterable[Edge]:
        worker = Node("worker", "worker", "keeps reports")
        yield Edge(self._queues[self._reports], worker)
        for queue in self._topology.retry_queues(self._reports):
            yield Edge(worker, self._queues[queue.name], "refused", dies=True)
        target = self._dead_letters(self._reports)
        if target is not None:
            yield Edge(worker, target, "given up", dies=True)

    def _dead_letters(self, queue_name: str) -> Node | None:
        target = self._topology.dead_letter_target(queue_name)
        if target is None:
            return None
        exchange, key = target
        if exchange:
            return self._exchange(exchange)
        if key:
            return self._queue(key)
        return Node("queue", "named by its routing key", "default exchange")

    def _exchange(self, name: str) -> Node:
        unknown = Node("exchange", name or "the default exchange", "not in the file")
        return self._exchanges.get(name, unknown)

    def _queue(self, name: str) -> Node:
        return self._queues.get(name, Node("queue", name, "not in the file"))


def _exchange(exchange: Exchange) -> Node:
    return Node("exchange", exchange.name, exchange.type)


def _queue(queue: Queue) -> Node:
    arguments = queue.queue_arguments or {}
    notes = [arguments.get("x-queue-type", "")]
    if "x-message-ttl" in arguments:
        notes.append(f"TTL {duration(arguments['x-message-ttl'])}")
    return Node("queue", queue.name, ", ".join(filter(None, notes)))


def _binding_label(binding: Any) -> str:
    arguments = [f"{key}={value}" for key, value in (binding.arguments or {}).items()]
    return ", ".join(filter(None, [binding.routing_key, *arguments]))


def _death(queue: Queue) -> str:
    ttl = (queue.queue_arguments or {}).get("x-message-ttl")
    return "dead letters" if ttl is None else f"after {duration(ttl)}"
