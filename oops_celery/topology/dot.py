"""Draw a `Flow` as DOT text, which Graphviz turns into SVG, PNG or PDF.

See https://graphviz.org/doc/info/lang.html.
"""

from __future__ import annotations

from oops_celery.text import printable
from oops_celery.topology.graph import Flow

#: The shape of each kind of node.
_SHAPES = {
    "program": "shape=box, style=rounded",
    "exchange": "shape=hexagon",
    "queue": "shape=box",
    "worker": "shape=box, peripheries=2",
    "consumer": "shape=box, peripheries=2",
}

#: Characters with a meaning in a quoted label, which is also read for HTML's entities.
_CODES = str.maketrans({'"': r"\"", "\\": r"\\", "&": "&amp;"})


def dot(graph: Flow) -> str:
    """Return the text; edges of dead letters are dashed."""
    names = {node: f"n{number}" for number, node in enumerate(graph.nodes)}
    lines = ["digraph topology {", "    rankdir=LR"]
    for node, name in names.items():
        label = _quoted(node.title, node.note)
        lines.append(f"    {name} [label={label}, {_SHAPES[node.kind]}]")
    for edge in graph.edges:
        style = ", style=dashed" if edge.dies else ""
        way = f"{names[edge.source]} -> {names[edge.target]}"
        lines.append(f"    {way} [label={_quoted(edge.label)}{style}]")
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(*lines: str) -> str:
    """Return a label with a line for each text that is not empty."""
    safe = [printable(line).translate(_CODES) for line in lines if line]
    return '"' + r"\n".join(safe) + '"'
