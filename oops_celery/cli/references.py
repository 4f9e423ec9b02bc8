"""Where a topology file names something in Python, whatever else is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml
from pydantic import TypeAdapter, ValidationError

from oops_celery.topology_schema import Target

_TEXT_TAG = "tag:yaml.org,2002:str"
_TARGET: TypeAdapter[str] = TypeAdapter(Target)


class Reference(NamedTuple):
    """A ``package.module:name`` of a topology file."""

    #: The thing, as a `Problem` has it: ``consumers[0].consumer``.
    path: str
    #: Its line in the file, from 1.
    line: int
    target: str


def references(text: bytes) -> Iterator[Reference]:
    """Yield the startup handler and the consumers that are well-formed.

    Args:
        text: A topology file; one that is no YAML has no references.
    """
    try:
        file = _pairs(yaml.compose(text, yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError):
        return
    named: list[tuple[Any, ...]] = [
        ("startup_handler", *file.get("startup_handler", ()))
    ]
    consumers = file["consumers"][1].value if "consumers" in file else ()
    for index, entry in enumerate(consumers):
        path = f"consumers[{index}].consumer"
        named.append((path, *_pairs(entry).get("consumer", ())))
    for path, *found in named:
        if found and _is_target(found[1]):
            yield Reference(path, found[0].start_mark.line + 1, found[1].value)


def _pairs(node: Any) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return {key.value: (key, value) for key, value in pairs if key.tag == _TEXT_TAG}


def _is_target(node: yaml.Node) -> bool:
    if node.tag != _TEXT_TAG:
        return False
    try:
        _TARGET.validate_python(node.value)
    except ValidationError:
        return False
    return True
