"""Parse a topology file as YAML, with the line of each thing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import yaml

from oops_celery.errors import TopologyError
from oops_celery.topology.problems import Problem
from oops_celery.topology.schema import MAX_DEPTH, is_target
from oops_celery.topology.wording import show, show_key, show_path

#: The place of something in the file: ``("queues", 1, "x_message_ttl")``.
Path = tuple[Any, ...]


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


_INTEGER = "tag:yaml.org,2002:int"


class _Loader(_SafeLoader):
    """Loads plain YAML values only, and not too deep."""

    def __init__(self, text: str | bytes) -> None:
        super().__init__(text)
        self.depth = 0
        self.seen: set[int] = set()
        #: Each mapping with a duplicate key, and the second of these keys.
        self.duplicates: list[tuple[yaml.Node, yaml.Node]] = []
        #: Each number that does not mean what it looks like.
        self.odd_numbers: dict[int, tuple[yaml.Node, int]] = {}

    # In PyYAML these two resolve tags by path, which is not used here.
    def descend_resolver(self, *_place: Any) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested more than {MAX_DEPTH} levels deep")

    def ascend_resolver(self) -> None:
        self.depth -= 1

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # The second time it has the keys of what it merges (<<) as well.
        if id(node) not in self.seen:
            self.seen.add(id(node))
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if len({key.value for key in keys}) < len(keys):
                first = {key.value: key for key in reversed(keys)}
                twice = (key for key in keys if first[key.value] is not key)
                self.duplicates.extend((node, key) for key in twice)
        super().flatten_mapping(node)
        # What is merged twice would be there twice, and again in what merges that.
        node.value = list({_identity(key): (key, v) for key, v in node.value}.values())

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        # Most of a file is text: this saves a third of the time.
        if _is_text(node):
            return node.value
        try:
            value = super().construct_object(node, deep)
            if node.tag == _INTEGER and not _PLAIN_NUMBER.fullmatch(node.value):
                self.odd_numbers[id(node)] = node, value
            return value
        except yaml.YAMLError:
            raise
        except Exception as error:  # PyYAML passes on what datetime or int raise
            what = f"{show(node.value)} is no {node.tag.rpartition(':')[2]}"
            why = f" ({error})" if isinstance(error, ValueError) else ""
            raise _at(node, f"{what}{why}; text goes in quotes") from error

    def refuse_tag(self, node: yaml.Node) -> Any:
        tag = show_key(node.tag)
        raise _at(node, f"the tag {tag} is not for this file; write plain values")


def _identity(key: yaml.Node) -> Any:
    return (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)


def _is_text(node: yaml.Node | None) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str"


def _at(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


_Loader.add_constructor(None, _Loader.refuse_tag)
#: A YAML 1.1 number that means what it looks like: 010 is 8, 0x10 is 16, 1:30 is 90.
_PLAIN_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)")


@contextmanager
def _as_topology_error(source: str) -> Iterator[None]:
    """Raise PyYAML's errors as a `TopologyError`."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        problem = Problem("", line, f"bad YAML: {error.problem or error.context}")
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a lone surrogate
        what = " ".join(str(error).split())
        problem = Problem("", None, f"not readable as YAML: {what}")
    except RecursionError:
        problem = Problem("", None, "not readable as YAML: nested too deep")
    else:
        return
    raise TopologyError(source, (problem,)) from None


class Document:
    """A YAML document that knows the line of each thing.

    Args:
        text: The file.
        source: Its name, for messages.

    Raises:
        TopologyError: It is empty, or not YAML.
    """

    def __init__(self, text: str | bytes, source: str) -> None:
        self._source = source
        with _as_topology_error(source):
            self._loader = _Loader(text)
            self._root = self._loader.get_single_node()
        if self._root is None:
            problem = Problem("", None, "is empty; it should list queues:")
            raise TopologyError(source, (problem,))

    def construct(self) -> Any:
        """Return the document's value.

        Raises:
            TopologyError: Something in it cannot be read: a date, or a tag.
        """
        with _as_topology_error(self._source):
            return self._loader.construct_document(self._root)

    def line(self, path: Path) -> int:
        """Return the line of a place; if it is missing, of what it would stand in."""
        key, _ = self._steps(path)[-1]
        return int(key.start_mark.line) + 1

    def text(self, path: Path) -> str | None:
        """Return the text at a place, or None."""
        node = self._node(path)
        return str(node.value) if _is_text(node) else None

    def entries(self, path: Path) -> Iterator[Path]:
        """Yield the path of each entry of a list; nothing for other values."""
        node = self._node(path)
        if isinstance(node, yaml.SequenceNode):
            for index in range(len(node.value)):
                yield *path, index

    def odd_numbers(self) -> Iterator[tuple[str, int, int]]:
        """Yield each misleading number (010, 1:30) with its value and line."""
        for node, value in self._loader.odd_numbers.values():
            yield node.value, value, node.start_mark.line + 1

    def duplicates(self) -> Iterator[tuple[Path, yaml.Node]]:
        """Yield the path and the key of each duplicate that `construct` met."""
        if self._loader.duplicates:
            paths = dict(_paths(self._root))
            for node, key in self._loader.duplicates:
                yield paths.get(id(node), ()), key

    def _node(self, path: Path) -> Any:
        steps = self._steps(path)
        return steps[-1][1] if len(steps) > len(path) else None

    def _steps(self, path: Path) -> list[tuple[yaml.Node, yaml.Node]]:
        """Return the key and the value of the root and of each existing step."""
        steps = [(self._root, self._root)]
        for step in path:
            _, node = steps[-1]
            if isinstance(node, yaml.MappingNode):
                # The keys of a merge come first, the mapping's own last.
                pairs = [(k, v) for k, v in node.value if k.value == step]
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
                pairs = [(item, item) for item in node.value[step : step + 1]]
            else:
                pairs = []
            if not pairs:
                break
            steps.append(pairs[-1])
        return steps


def _paths(root: yaml.Node) -> Iterator[tuple[int, Path]]:
    waiting: list[tuple[Path, Any]] = [((), root)]
    seen = {id(root)}
    while waiting:
        path, node = waiting.pop()
        yield id(node), path
        below: list[tuple[Any, yaml.Node]] = []
        if isinstance(node, yaml.SequenceNode):
            below = list(enumerate(node.value))
        elif isinstance(node, yaml.MappingNode):
            below = [(key.value, value) for key, value in node.value]
        for step, child in below:
            # An alias leads to the same node again, perhaps to one above.
            if isinstance(child, yaml.CollectionNode) and id(child) not in seen:
                seen.add(id(child))
                waiting.append(((*path, step), child))


class Reference(NamedTuple):
    """A ``package.module:name`` of a topology file."""

    #: Its place, as in a `Problem`: ``consumers[0].consumer``.
    path: str
    #: Its line in the file, from 1.
    line: int
    target: str


def references(text: str | bytes) -> list[Reference]:
    """Return the startup handler and the consumers that are well-formed.

    Args:
        text: A topology file, whatever else is wrong with it; a file that is not YAML
            has no references.
    """
    try:
        document = Document(text, "")
    except TopologyError:
        return []
    paths: list[Path] = [("startup_handler",)]
    paths += [(*entry, "consumer") for entry in document.entries(("consumers",))]
    return [
        Reference(show_path(path), document.line(path), target)
        for path in paths
        if is_target(target := document.text(path) or "")
    ]
