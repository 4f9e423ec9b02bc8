"""Draw a `Flow` as Mermaid text, which GitHub and GitLab show in Markdown.

See https://mermaid.js.org/syntax/flowchart.html.
"""

from __future__ import annotations

from oops_celery.text import printable
from oops_celery.topology.graph import Flow, Node

#: The shape of each kind of node.
_SHAPES = {
    "program": '(["{}"])',
    "exchange": '{{{{"{}"}}}}',
    "queue": '["{}"]',
    "worker": '[["{}"]]',
    "consumer": '[["{}"]]',
}

#: Characters with a meaning in a label.
_CODES = {ord(char): f"#{ord(char)};" for char in '"#<>&`|;\\'}


def mermaid(graph: Flow) -> str:
    """Return the text; edges of dead letters are dotted."""
    names = {node: f"n{number}" for number, node in enumerate(graph.nodes)}
    lines = ["flowchart LR"]
    for node, name in names.items():
        lines.append(f"    {name}{_SHAPES[node.kind].format(_label(node))}")
    for edge in graph.edges:
        arrow = "-.->" if edge.dies else "-->"
        label = f'|"{_quoted(edge.label)}"|' if edge.label else ""
        lines.append(f"    {names[edge.source]} {arrow}{label} {names[edge.target]}")
    return "\n".join(lines) + "\n"


def _label(node: Node) -> str:
    note = f"<br/>{_quoted(node.note)}" if node.note else ""
    return _quoted(node.title) + note


def _quoted(text: str) -> str:
    return printable(text).translate(_CODES)
