"""Draw a `Flow` as an SVG: in layers, from left to right.

The steps are those of Sugiyama's method: reverse the edges that lead back, give each
node a layer behind all that lead to it, give an edge over several layers a point in
each, and sort each layer by the positions of its neighbours.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from html import escape
from itertools import chain, pairwise

from oops_celery.topology.graph import Edge, Flow, Node

#: Pixels. The font is monospaced, so the width of a text is known.
CHARACTER, LINE, PADDING = 7.3, 17, 12
#: Between two nodes of a layer, and around the drawing.
GAP, MARGIN = 26, 24
#: Between two layers, beside the longest label.
LAYER_GAP = 70

_STYLE = """
text{font:12px ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#1f2937}
.note{fill:#6b7280}.box{stroke:#6b7280;stroke-width:1.2;fill:#fff}
.exchange{fill:#fef3c7}.queue{fill:#dbeafe}.worker,.consumer{fill:#dcfce7}
.way{fill:none;stroke:#374151;stroke-width:1.4;marker-end:url(#to)}
.dies{stroke:#b91c1c;stroke-dasharray:5 4;marker-end:url(#dies)}
.label{paint-order:stroke;stroke:#fff;stroke-width:4px;text-anchor:middle}
.label.dead{fill:#b91c1c}
"""


#: Where an edge meets a box: x, y, and how many edges meet that side.
_Point = tuple[float, float, int]


@dataclass(eq=False)
class _Place:
    """A node, or a point that an edge goes through."""

    layer: int
    node: Node | None = None
    x: float = 0
    y: float = 0
    before: list[_Place] = field(default_factory=list)
    after: list[_Place] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        if self.node is None:
            return []
        kind = self.node.kind
        title = self.node.name if kind == "program" else f"{kind} {self.node.name}"
        if kind == "worker":
            title = self.node.name
        return [_safe(line) for line in (title, self.node.note) if line]

    @property
    def width(self) -> float:
        if self.node is None:
            return 0
        return max(map(len, self.lines)) * CHARACTER + 2 * PADDING

    @property
    def height(self) -> float:
        return len(self.lines) * LINE + 2 * PADDING if self.node else LINE


def svg(graph: Flow) -> str:
    """Return a drawing that needs no other file; edges of dead letters are dashed."""
    turned = _turned(graph)
    layers = _layers(graph, turned)
    places = {node: _Place(layer, node) for node, layer in layers.items()}
    ways = [(edge, _way(edge, edge in turned, places)) for edge in graph.edges]
    points = chain.from_iterable(way for _, way in ways)
    every = dict.fromkeys([*places.values(), *points])
    columns: dict[int, list[_Place]] = defaultdict(list)
    for place in every:
        columns[place.layer].append(place)
    _sort(columns)
    width, height = _lay_out(columns, graph)
    ports = _ports(ways)
    ends = [(ports[number, False], ports[number, True]) for number in range(len(ways))]
    body = [_drawn_way(*way, *end) for way, end in zip(ways, ends, strict=True)]
    body += [_drawn_place(place) for place in places.values()]
    body += [_drawn_label(*way, *end) for way, end in zip(ways, ends, strict=True)]
    return _HEAD.format(width=f"{width:.0f}", height=f"{height:.0f}", style=_STYLE) + (
        "\n".join(body) + "\n</svg>\n"
    )


def _turned(graph: Flow) -> set[Edge]:
    """Return the edges that close a circle, when followed from the roots."""
    turned: set[Edge] = set()
    done: set[Node] = set()
    for root in graph.roots():
        path: dict[Node, None] = {}
        steps: list[tuple[Node, list[Edge]]] = []

        def enter(node: Node) -> None:
            path[node] = None  # noqa: B023 - used within this round alone
            steps.append((node, graph.leaving(node)))  # noqa: B023

        if root not in done:
            enter(root)
        while steps:
            node, edges = steps[-1]
            if not edges:
                steps.pop()
                path.pop(node)
                done.add(node)
                continue
            edge = edges.pop(0)
            if edge.target in path:
                turned.add(edge)
            elif edge.target not in done:
                enter(edge.target)
    return turned


def _layers(graph: Flow, turned: set[Edge]) -> dict[Node, int]:
    """Return each node's layer: behind all nodes that lead to it."""
    layers = dict.fromkeys(graph.nodes, 0)
    for _ in graph.nodes:
        moved = False
        for edge in graph.edges:
            first, last = edge.source, edge.target
            if edge in turned:
                first, last = last, first
            if first != last and layers[last] <= layers[first]:
                layers[last] = layers[first] + 1
                moved = True
        if not moved:
            break
    return layers


def _way(edge: Edge, turned: bool, places: dict[Node, _Place]) -> list[_Place]:
    """Return the places that an edge goes through, with a point in each layer."""
    first, last = places[edge.source], places[edge.target]
    if turned:
        first, last = last, first
    points = [_Place(layer) for layer in range(first.layer + 1, last.layer)]
    way = [first, *points, last]
    for one, other in pairwise(way):
        one.after.append(other)
        other.before.append(one)
    return way[::-1] if turned else way


def _sort(columns: dict[int, list[_Place]]) -> None:
    """Sort each layer by its neighbours, so that fewer edges cross."""
    order = {
        place: float(index)
        for column in columns.values()
        for index, place in enumerate(column)
    }
    for turn in range(8):
        side = "before" if turn % 2 == 0 else "after"
        for layer in sorted(columns, reverse=side == "after"):
            column = columns[layer]
            mean = {}
            for place in column:
                near = getattr(place, side)
                total = sum(order[each] for each in near)
                mean[place] = total / len(near) if near else order[place]
            column.sort(key=mean.__getitem__)
            order.update({place: float(index) for index, place in enumerate(column)})


def _lay_out(columns: dict[int, list[_Place]], graph: Flow) -> tuple[float, float]:
    """Give each place its coordinates; return the width and height of the drawing."""
    heights = {
        layer: sum(place.height for place in column) + GAP * (len(column) - 1)
        for layer, column in columns.items()
    }
    height = max(heights.values(), default=0)
    longest = max((len(_safe(edge.label)) for edge in graph.edges), default=0)
    x = float(MARGIN)
    for layer in sorted(columns):
        column = columns[layer]
        width = max(place.width for place in column)
        y = MARGIN + (height - heights[layer]) / 2
        for place in column:
            place.x, place.y = x + width / 2, y + place.height / 2
            y += place.height + GAP
        x += width + LAYER_GAP + min(longest, 24) * CHARACTER
    every = chain.from_iterable(columns.values())
    right = max((place.x + place.width / 2 for place in every), default=0)
    return right + MARGIN, height + 2 * MARGIN


def _ports(ways: list[tuple[Edge, list[_Place]]]) -> dict[tuple[int, bool], _Point]:
    """Return where each edge (by number) leaves and enters, each in its own place."""
    sides: dict[tuple[_Place, int], list[tuple[float, int, bool]]] = defaultdict(list)
    for number, (_, way) in enumerate(ways):
        for enters, (end, near) in ((False, way[:2]), (True, way[:-3:-1])):
            side = 1 if near.x > end.x else -1
            sides[end, side].append((near.y, number, enters))
    ports = {}
    for (place, side), ends in sides.items():
        x = place.x + side * place.width / 2
        for index, (_, number, enters) in enumerate(sorted(ends), start=1):
            y = place.y + place.height * (index / (len(ends) + 1) - 0.5)
            # The tip of the arrow ends a little before the box.
            ports[number, enters] = (x + side * 3 * enters, y, len(ends))
    return ports


def _points(
    way: list[_Place], leaves: _Point, enters: _Point
) -> list[tuple[float, float]]:
    return [leaves[:2], *((place.x, place.y) for place in way[1:-1]), enters[:2]]


def _drawn_way(edge: Edge, way: list[_Place], leaves: _Point, enters: _Point) -> str:
    points = _points(way, leaves, enters)
    steps = [f"M{points[0][0]:.1f},{points[0][1]:.1f}"]
    for (x0, y0), (x1, y1) in pairwise(points):
        x = (x0 + x1) / 2
        if way[0] is way[-1]:  # back to where it began: around the box
            x -= 30
        steps.append(f"C{x:.1f},{y0:.1f} {x:.1f},{y1:.1f} {x1:.1f},{y1:.1f}")
    dies = " dies" if edge.dies else ""
    return f'<path class="way{dies}" d="{" ".join(steps)}"/>'


def _drawn_label(edge: Edge, way: list[_Place], leaves: _Point, enters: _Point) -> str:
    if not edge.label or way[0] is way[-1]:
        return ""
    points = _points(way, leaves, enters)
    # On the side with fewer edges.
    (x0, y0), (x1, y1) = points[-2:][::-1] if leaves[2] >= enters[2] else points[:2]
    x, y = x0 + 0.36 * (x1 - x0), y0 + 0.16 * (y1 - y0)
    dead = " dead" if edge.dies else ""
    return (
        f'<text class="label{dead}" x="{x:.1f}" y="{y + 4:.1f}">{_xml(edge.label)}'
        "</text>"
    )


def _drawn_place(place: _Place) -> str:
    assert place.node is not None
    left, top = place.x - place.width / 2, place.y - place.height / 2
    round_corners = 6 if place.node.kind == "queue" else 16
    drawn = (
        f'<rect class="box {place.node.kind}" x="{left:.1f}" y="{top:.1f}"'
        f' width="{place.width:.1f}" height="{place.height:.1f}"'
        f' rx="{round_corners}"/>'
    )
    for index, line in enumerate(place.lines):
        note = ' class="note"' if index else ""
        y = top + PADDING + LINE * (index + 0.75)
        drawn += f'<text{note} x="{left + PADDING:.1f}" y="{y:.1f}">{_xml(line)}</text>'
    return drawn


def _safe(text: str) -> str:
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )


def _xml(text: str) -> str:
    return escape(_safe(text))


_HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" \
width="{width}" height="{height}" role="img">
<title>How messages flow, and where they go when they die</title>
<defs><style>{style}</style>
<marker id="to" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" \
markerHeight="7" orient="auto-start-reverse"><path d="M0,0L8,4L0,8z" fill="#374151"/>\
</marker>
<marker id="dies" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" \
markerHeight="7" orient="auto-start-reverse"><path d="M0,0L8,4L0,8z" fill="#b91c1c"/>\
</marker></defs>
<rect width="100%" height="100%" fill="#fff"/>
"""
