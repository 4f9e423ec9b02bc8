"""What a topology file may say, and all that is wrong with one.

`read` takes YAML text and gives a `Declarations`, or raises a `TopologyError` that
lists every mistake with its line. Nothing here knows a broker.

The keys are amqp-dispatcher's, and every queue argument that RabbitMQ 3.10 to 4.3 knows
(https://www.rabbitmq.com/docs/queues#optional-arguments): ``x-message-ttl`` is written
``x_message_ttl``. The limits are those at which RabbitMQ refuses a queue.
"""

from __future__ import annotations

import datetime
import re
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator as Check
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

#: Where something stands in the file: ``("queues", 1, "x_message_ttl")``.
Path = tuple[Any, ...]

#: Bytes of a name or a routing key: a short string of AMQP 0-9-1.
MAX_SHORT_STRING = 255
#: Milliseconds of a TTL in RabbitMQ: ten years.
MAX_MILLISECONDS = 315_360_000_000
#: Largest number of AMQP 0-9-1.
MAX_LONG = 2**63 - 1
#: Bytes of an ``arguments`` table. It must fit into one frame (131,072 in RabbitMQ).
MAX_TABLE = 65_536
#: Levels in a file. It needs five; libyaml overruns its stack at some ten thousand.
MAX_DEPTH = 50

EXCHANGE_TYPES = ("direct", "fanout", "topic", "headers")


@dataclass(frozen=True)
class Problem:
    """One finding in a topology file.

    Attributes:
        path: The thing: ``queues[1].x_message_ttl``; empty for the file itself.
        line: Its line in the file, from 1, where it is known.
        text: What is wrong, with the value and the way out.
        fatal: Whether the file cannot be used. Otherwise it is a warning.
    """

    path: str
    line: int | None
    text: str
    fatal: bool = True

    def __str__(self) -> str:
        at = f"line {self.line}" if self.line else ""
        where = f"{self.path} ({at})" if self.path and at else self.path or at
        return f"{where}: {self.text}" if where else self.text


class TopologyError(ValueError):
    """A topology file that cannot be used.

    Attributes:
        source: The file.
        problems: All that was found in it, in the order of its lines.
    """

    def __init__(self, source: str, problems: tuple[Problem, ...]) -> None:
        super().__init__(source, problems)
        self.source = source
        self.problems = problems

    def __str__(self) -> str:
        fatal = sum(problem.fatal for problem in self.problems)
        counts = [_count(fatal, "mistake")]
        if fatal < len(self.problems):
            counts.append(_count(len(self.problems) - fatal, "warning"))
        lines = [
            f"{'' if problem.fatal else 'warning: '}{problem}"
            for problem in self.problems
        ]
        return "\n".join([f"{self.source}: {', '.join(counts)}", *lines])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _short_string(text: str) -> str:
    size = len(text.encode())
    if size > MAX_SHORT_STRING:
        raise ValueError(f"has {size} bytes; AMQP takes at most {MAX_SHORT_STRING}")
    return text


def _name(text: str) -> str:
    if not text:
        raise ValueError("is empty; give it a name")
    return _short_string(text)


def _own_name(text: str) -> str:
    if text.startswith("amq."):
        raise ValueError(
            f"{_show(text)}: names that begin with amq. are the broker's; take another"
            " (a binding may name an exchange of the broker's, undeclared)"
        )
    return _name(text)


def _exchange_type(text: str) -> str:
    if text in EXCHANGE_TYPES or text.startswith("x-"):
        return text
    raise ValueError(
        f"{_show(text)} is not one of {', '.join(EXCHANGE_TYPES)},"
        f" or a plugin's x-...{_did_you_mean(text, EXCHANGE_TYPES)}"
    )


def _target(text: str) -> str:
    module, colon, name = text.partition(":")
    if colon and all(part.isidentifier() for part in (*module.split("."), name)):
        return text
    raise ValueError(f"{_show(text)} is not of the form package.module:name")


def _age(text: str) -> str:
    if re.fullmatch(r"0*[1-9][0-9]*[YMDhms]", text):
        return text
    raise ValueError(
        f"{_show(text)} is no age; write a number and one of Y, M, D, h, m, s: 7D"
    )


def _table(table: dict[str, Any]) -> dict[str, Any]:
    """Check that AMQP can send it. Aliases may have made it deep, or a circle."""
    size, waiting = 0, [(table, 0)]
    while waiting:
        value: Any
        value, depth = waiting.pop()
        size += _table_value(value)
        if size > MAX_TABLE or depth > MAX_DEPTH:
            raise ValueError(
                f"is too large; at most {MAX_TABLE} bytes, {MAX_DEPTH} levels"
            )
        if isinstance(value, dict):
            waiting.extend((each, depth + 1) for each in value.values())
        elif isinstance(value, list):
            waiting.extend((each, depth + 1) for each in value)
    return table


def _table_value(value: Any) -> int:
    """Return about the bytes of a value in a table, without what it contains."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a key in it is not text; put it in quotes")
        return 8 + sum(len(_short_string(key)) for key in value)
    if isinstance(value, str | bytes):
        return 8 + len(value)
    if isinstance(value, int) and not -MAX_LONG <= value <= MAX_LONG:
        raise ValueError(f"{_show(value)} in it has more than 64 bits")
    if not isinstance(value, list | int | float | None):
        raise ValueError(f"{_show(value)} in it is {_kind(value)}; quote it")
    return 8


Name = Annotated[str, Check(_name)]
OwnName = Annotated[str, Check(_own_name)]
ShortString = Annotated[str, Check(_short_string)]
Target = Annotated[str, Check(_target)]
Table = Annotated[dict[str, Any], Check(_table)]
Size = Annotated[int, Field(ge=0, le=MAX_LONG)]
Members = Annotated[int, Field(ge=1, le=MAX_LONG)]
Milliseconds = Annotated[int, Field(ge=0, le=MAX_MILLISECONDS)]
Period = Annotated[int, Field(ge=1, le=MAX_MILLISECONDS)]
Segment = Annotated[int, Field(ge=0, le=3_000_000_000)]
Overflow = Literal["drop-head", "reject-publish", "reject-publish-dlx"]
MasterLocator = Literal["client-local", "min-masters", "random"]
LeaderLocator = Literal[
    "client-local", "balanced", "random", "least-leaders", "min-masters"
]


class _Entry(BaseModel):
    """A mapping in the file; ``null`` means that the key is not set."""

    model_config = ConfigDict(strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_set(cls, entry: Any) -> Any:
        if not isinstance(entry, dict) or None not in entry.values():
            return entry
        known = cls.model_fields
        return {k: v for k, v in entry.items() if v is not None or k not in known}


class ExchangeEntry(_Entry):
    """One of ``exchanges:``."""

    exchange: OwnName
    type: Annotated[str, Check(_exchange_type)] = "direct"
    durable: bool = True
    auto_delete: bool = False
    internal: bool = False
    passive: bool = False
    arguments: Table = {}


class BindingEntry(_Entry):
    """One of the ``bindings:`` of a queue."""

    exchange: Name
    routing_key: ShortString = ""
    arguments: Table = {}


class QueueEntry(_Entry):
    """One of ``queues:``."""

    queue: OwnName
    durable: bool = True
    auto_delete: bool = False
    exclusive: bool = False
    passive: bool = False
    bindings: list[BindingEntry] = []

    x_queue_type: Literal["classic", "quorum", "stream"] | None = None
    x_message_ttl: Milliseconds | None = None
    x_expires: Period | None = None
    x_max_length: Size | None = None
    x_max_length_bytes: Size | None = None
    x_overflow: Overflow | None = None
    x_dead_letter_exchange: ShortString | None = None
    x_dead_letter_routing_key: ShortString | None = None
    x_dead_letter_strategy: Literal["at-most-once", "at-least-once"] | None = None
    x_single_active_consumer: bool | None = None
    x_consumer_timeout: Period | None = None
    x_consumer_disconnected_timeout: Milliseconds | None = None
    x_queue_leader_locator: LeaderLocator | None = None
    # Classic queues.
    x_max_priority: Annotated[int, Field(ge=0, le=255)] | None = None
    x_queue_mode: Literal["default", "lazy"] | None = None
    x_queue_version: Annotated[int, Field(ge=1, le=2)] | None = None
    x_queue_master_locator: MasterLocator | None = None
    # Quorum queues. A delivery limit of -1 means none.
    x_delivery_limit: Annotated[int, Field(ge=-1, le=MAX_LONG)] | None = None
    x_quorum_initial_group_size: Members | None = None
    x_quorum_target_group_size: Members | None = None
    x_max_in_memory_length: Size | None = None
    x_max_in_memory_bytes: Size | None = None
    x_delayed_retry_type: Literal["all", "failed", "returned", "disabled"] | None = None
    x_delayed_retry_min: Milliseconds | None = None
    x_delayed_retry_max: Milliseconds | None = None
    # Streams.
    x_max_age: Annotated[str, Check(_age)] | None = None
    x_stream_max_segment_size_bytes: Segment | None = None
    x_stream_filter_size_bytes: Annotated[int, Field(ge=16, le=255)] | None = None
    x_initial_cluster_size: Members | None = None

    def arguments(self) -> dict[str, Any]:
        """Return the queue arguments under RabbitMQ's names, the values as written."""
        return {
            QUEUE_ARGUMENTS[key]: value
            for key, value in self.__dict__.items()
            if value is not None and key in QUEUE_ARGUMENTS
        }


#: What RabbitMQ calls each key: ``x_message_ttl`` is ``x-message-ttl``.
QUEUE_ARGUMENTS = {
    key: key.replace("_", "-") for key in QueueEntry.model_fields if key[:2] == "x_"
}


class ConsumerSettings(_Entry):
    """One of ``consumers:``."""

    consumer: Target
    queue: Name
    consumer_count: Annotated[int, Field(ge=1, le=MAX_LONG)] = 1
    # AMQP sends it as 16 bits; 0 means no limit.
    prefetch_count: Annotated[int, Field(ge=0, le=65_535)] = 1


class _File(_Entry):
    """The file. Its entries are checked one by one: a bad one hides no other."""

    startup_handler: Target | None = None
    exchanges: list[Any] = []
    queues: list[Any] = []
    consumers: list[Any] = []


@dataclass(frozen=True)
class Declarations:
    """What a good file says."""

    startup_handler: str | None
    exchanges: tuple[ExchangeEntry, ...]
    queues: tuple[QueueEntry, ...]
    consumers: tuple[ConsumerSettings, ...]
    warnings: tuple[Problem, ...]


def read(text: str | bytes, source: str) -> Declarations:
    """Return what a topology file says.

    Args:
        text: The file; bytes are UTF-8, or UTF-16 with a byte order mark.
        source: Its name, for messages.

    Raises:
        TopologyError: It cannot be used; all of its mistakes are named.
    """
    document = _Document(text, source)
    findings = _Findings(document)
    for path, key in document.duplicates():
        text = f"{_key(key.value)}: stands here twice; remove one"
        findings.add(path, text, line=key.start_mark.line + 1)
    checked = _check_entries(document.value, findings)
    _check_names(document.value, findings)
    _check_queues(document.value, findings)
    problems = findings.in_order()
    if any(problem.fatal for problem in problems):
        raise TopologyError(source, problems)
    return Declarations(**checked, warnings=problems)


# -- YAML, with the line of each thing ------------------------------------------------

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):
    """Plain YAML values only, not too deep, and numbers as they look."""

    def __init__(self, text: str | bytes) -> None:
        super().__init__(text)
        self.depth = 0
        self.seen: set[int] = set()
        #: Each mapping that has a key twice, and the second of those keys.
        self.duplicates: list[tuple[yaml.Node, yaml.Node]] = []

    # What these two do in PyYAML is for resolving tags by path, which is not used here.
    def descend_resolver(self, *_place: Any) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested more than {MAX_DEPTH} levels deep")

    def ascend_resolver(self) -> None:
        self.depth -= 1

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # Seen before, it has the keys of what it merges (<<) as well.
        if id(node) not in self.seen:
            self.seen.add(id(node))
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if len({key.value for key in keys}) < len(keys):
                first = {key.value: key for key in reversed(keys)}
                twice = (key for key in keys if first[key.value] is not key)
                self.duplicates.extend((node, key) for key in twice)
        super().flatten_mapping(node)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        # Most of a file is text: this saves a third of the time.
        if node.tag == "tag:yaml.org,2002:str" and isinstance(node, yaml.ScalarNode):
            return node.value
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # PyYAML lets out whatever datetime or int raise
            what = f"{_show(node.value)} is no {node.tag.rpartition(':')[2]}"
            why = f" ({error})" if isinstance(error, ValueError) else ""
            raise _at(node, f"{what}{why}; text goes in quotes") from error

    def refuse_tag(self, node: yaml.Node) -> Any:
        tag = _key(node.tag)
        raise _at(node, f"the tag {tag} is not for this file; write plain values")


def _at(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


_Loader.add_constructor(None, _Loader.refuse_tag)
# YAML 1.1 reads 010 as 8 and 1:30 as 90: a number is to arrive as it is written.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(":int")]
    for first, resolvers in _SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$"), "-+0123456789"
)


class _Document:
    """A YAML document, and where each thing of it stands."""

    def __init__(self, text: str | bytes, source: str) -> None:
        problem = Problem("", None, "is empty; it should list queues:")
        try:
            self._loader = _Loader(text)
            self._root = self._loader.get_single_node()
            if self._root is not None:
                self.value = self._loader.construct_document(self._root)
                return
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else None
            problem = Problem("", line, f"bad YAML: {error.problem or error.context}")
        except (yaml.YAMLError, ValueError) as error:  # ValueError: a lone surrogate
            what = " ".join(str(error).split())
            problem = Problem("", None, f"not readable as YAML: {what}")
        except RecursionError:
            problem = Problem("", None, "not readable as YAML: nested too deep")
        raise TopologyError(source, (problem,))

    def line(self, path: Path) -> int:
        """Return the line of a thing; where it has none, of what it stands in."""
        node = self._root
        line = node.start_mark.line
        for step in path:
            if isinstance(node, yaml.MappingNode):
                # What a merge key brought in comes first, the mapping's own last.
                pairs = [(k, v) for k, v in node.value if k.value == step]
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
                pairs = [(item, item) for item in node.value[step : step + 1]]
            else:
                pairs = []
            if not pairs:
                break
            key, node = pairs[-1]
            line = key.start_mark.line
        return int(line) + 1

    def duplicates(self) -> Iterator[tuple[Path, yaml.Node]]:
        """Yield each mapping's path, and the key that it has twice."""
        if self._loader.duplicates:
            paths = dict(_paths(self._root))
            for node, key in self._loader.duplicates:
                yield paths.get(id(node), ()), key


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


# -- What is found --------------------------------------------------------------------


class _Findings:
    """Collects problems, each with its line."""

    def __init__(self, document: _Document) -> None:
        self._document = document
        self._problems: list[Problem] = []
        #: Entries with a mistake, as ``("queues", 1)``.
        self.broken: set[Path] = set()

    def add(
        self, path: Path, text: str, key: Any = None, line: int | None = None
    ) -> None:
        """Note a mistake; its line is that of `key` in the thing, or of the thing."""
        place = path if key is None else (*path, key)
        line = line or self._document.line(place)
        self._problems.append(Problem(_written(path), line, text))
        self.broken.add(path[:2])

    def warn(self, path: Path, text: str) -> None:
        """Note what RabbitMQ may accept, and lose messages by."""
        line = self._document.line(path)
        self._problems.append(Problem(_written(path), line, text, fatal=False))

    def in_order(self) -> tuple[Problem, ...]:
        return tuple(sorted(self._problems, key=lambda problem: problem.line or 0))


def _written(path: Path) -> str:
    steps = (f"[{x}]" if isinstance(x, int) else f".{_key(x)}" for x in path)
    return "".join(steps).removeprefix(".")


_E = TypeVar("_E", bound=_Entry)

#: The lists of a file: what an entry of each is, and the key that has its name.
_SECTIONS: dict[str, tuple[type[_Entry], str]] = {
    "exchanges": (ExchangeEntry, "exchange"),
    "queues": (QueueEntry, "queue"),
    "consumers": (ConsumerSettings, "consumer"),
}


def _check_entries(document: Any, findings: _Findings) -> dict[str, Any]:
    file = _checked(_File, document, (), findings)
    good: dict[str, Any] = {"startup_handler": file and file.startup_handler}
    for section, (model, _) in _SECTIONS.items():
        entries = (
            _checked(model, entry, (section, index), findings)
            for index, entry in _entries(document, section)
        )
        good[section] = tuple(entry for entry in entries if entry)
    if file and not any(_entries(document, section) for section in _SECTIONS):
        findings.add((), "declares nothing; it should list queues:")
    return good


def _checked(model: type[_E], entry: Any, path: Path, findings: _Findings) -> _E | None:
    try:
        return model.model_validate(entry)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            _add_detail(detail, model, path, findings)
        return None


def _entries(document: Any, section: str) -> list[tuple[int, Any]]:
    entries = document.get(section) if isinstance(document, dict) else None
    return list(enumerate(entries)) if isinstance(entries, list) else []


def _mappings(document: Any, section: str) -> list[tuple[int, dict[Any, Any]]]:
    return [(i, e) for i, e in _entries(document, section) if isinstance(e, dict)]


def _check_names(document: Any, findings: _Findings) -> None:
    for section in ("exchanges", "queues"):
        key = _SECTIONS[section][1]
        first: dict[str, int] = {}
        for index, entry in _mappings(document, section):
            name = entry.get(key)
            if not isinstance(name, str):
                continue
            if first.setdefault(name, index) != index:
                other = f"{section}[{first[name]}]"
                text = f"{_show(name)} is {other} already; remove one of them"
                findings.add((section, index, key), text)


def _check_queues(document: Any, findings: _Findings) -> None:
    queues = _mappings(document, "queues")
    names = {_if_text(queue.get("queue")) for _, queue in queues}
    exchanges = {
        _if_text(exchange.get("exchange")): exchange.get("passive") is True
        for _, exchange in _mappings(document, "exchanges")
    }
    bound = {
        _if_text(binding.get("exchange"))
        for _, queue in queues
        for _, binding in _mappings(queue, "bindings")
    }
    for index, queue in queues:
        path: Path = ("queues", index)
        _check_replicated(path, queue, findings)
        _check_strategy(path, queue, findings)
        exchange = queue.get("x_dead_letter_exchange")
        key = queue.get("x_dead_letter_routing_key")
        if exchange is None:
            _check_undirected(path, queue, findings)
        elif exchange == "" and isinstance(key, str) and key not in names:
            findings.warn(
                (*path, "x_dead_letter_routing_key"),
                f"{_show(key)} is no queue of this file; if the broker has none either,"
                " dead letters are lost",
            )
        elif isinstance(exchange, str) and exchange:
            _check_dead_letter_exchange(path, exchange, exchanges, bound, findings)


def _if_text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _check_replicated(path: Path, queue: dict[Any, Any], findings: _Findings) -> None:
    kind = queue.get("x_queue_type")
    if kind not in ("quorum", "stream") or queue.get("passive") is True:
        return
    refused = {"durable": False, "exclusive": True, "auto_delete": True}
    for key, value in refused.items():
        if queue.get(key) is value:
            text = f"{_show(value)}: RabbitMQ refuses it for a {kind} queue; remove it"
            findings.add((*path, key), text)


def _check_strategy(path: Path, queue: dict[Any, Any], findings: _Findings) -> None:
    """See https://www.rabbitmq.com/docs/quorum-queues#dead-lettering."""
    if queue.get("x_dead_letter_strategy") == "at-least-once" and (
        queue.get("x_queue_type") != "quorum"
        or queue.get("x_overflow") != "reject-publish"
    ):
        findings.warn(
            (*path, "x_dead_letter_strategy"),
            "at-least-once needs x_queue_type: quorum and x_overflow: reject-publish;"
            " without them RabbitMQ dead-letters at most once",
        )


def _check_undirected(path: Path, queue: dict[Any, Any], findings: _Findings) -> None:
    # A misspelt x_dead_letter_exchange is reported as that, and that is enough.
    if path in findings.broken:
        return
    if queue.get("x_message_ttl") is not None:
        findings.warn(
            (*path, "x_message_ttl"),
            "expired messages are discarded; x_dead_letter_exchange says where they go",
        )
    if queue.get("x_dead_letter_routing_key") is not None:
        findings.warn(
            (*path, "x_dead_letter_routing_key"),
            "has no x_dead_letter_exchange, and RabbitMQ refuses such a queue; add one"
            ' ("" is the default exchange)',
        )


def _check_dead_letter_exchange(
    path: Path,
    exchange: str,
    exchanges: dict[str | None, bool],
    bound: set[str | None],
    findings: _Findings,
) -> None:
    path = (*path, "x_dead_letter_exchange")
    if exchange not in exchanges and not exchange.startswith("amq."):
        findings.warn(
            path,
            f"{_show(exchange)} is not declared in this file; if the broker has none,"
            " dead letters are lost",
        )
    # What is bound to an exchange of someone else's (passive) is not known here.
    elif exchanges.get(exchange) is False and exchange not in bound:
        findings.warn(
            path,
            f"no queue of this file is bound to {_show(exchange)}: dead letters are"
            " lost; bind one",
        )


# -- How it is said -------------------------------------------------------------------


def _add_detail(
    detail: ErrorDetails, model: type[_Entry], path: Path, findings: _Findings
) -> None:
    """Put what pydantic found into words."""
    *above, last = (None, *detail["loc"])
    place = (*path, *above[1:])
    if detail["type"] == "extra_forbidden":
        known = BindingEntry if "bindings" in above else model
        text = f"{_key(last)}: unknown key{_known_key(last, known)}"
        findings.add(place, text, key=last)
    elif detail["type"] == "missing":
        findings.add(place, f"{last}: missing; it is needed here")
    elif detail["type"] == "invalid_key" or last == "[key]":
        text = f"{_show(detail['input'])}: a key must be text; put it in quotes"
        findings.add(place, text, key=last)
    else:
        findings.add((*path, *detail["loc"]), _explained(detail))


def _known_key(key: Any, model: type[_Entry]) -> str:
    names = list(model.model_fields)
    guess = _did_you_mean(str(key), names)
    if guess:
        return guess
    known = [name for name in names if name not in QUEUE_ARGUMENTS]
    more = ", and RabbitMQ's arguments as x_..." if model is QueueEntry else ""
    return f"; known are {', '.join(known)}{more}"


def _did_you_mean(word: str, known: Any) -> str:
    close = get_close_matches(word, known, 1)
    return f"; did you mean {close[0]}?" if close else ""


#: What each complaint of pydantic asks for.
_WANTED = {
    "int_type": "a whole number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
}


def _explained(detail: ErrorDetails) -> str:
    value, context = detail["input"], detail.get("ctx", {})
    match detail["type"]:
        case "value_error":
            return str(context["error"])
        case "literal_error":
            allowed = re.findall(r"'([^']*)'", context["expected"])
            guess = _did_you_mean(str(value), allowed) if _if_text(value) else ""
            return f"{_show(value)} is not one of {', '.join(allowed)}{guess}"
        case "greater_than_equal":
            return f"{_show(value)} is too small; the least is {context['ge']}"
        case "less_than_equal":
            return f"{_show(value)} is too large; the most is {context['le']}"
        case kind if kind in _WANTED:
            wanted = f"{_show(value)} is {_kind(value)}, not {_WANTED[kind]}"
            return wanted + _way_out(kind, value)
    return f"{_show(value)}: {detail['msg']}"


def _way_out(complaint: str, value: Any) -> str:
    if complaint == "string_type" and not isinstance(value, list | dict):
        return "; put it in quotes"
    if complaint == "int_type" and isinstance(value, str) and value.strip().isdigit():
        return "; write it as a plain number, without quotes or leading zeros"
    if complaint == "list_type":
        return '; begin each entry with "- "'
    return ""


_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "a truth value"),
    (int, "a number"),
    (float, "a decimal number"),
    (str, "text"),
    (list, "a list"),
    (dict, "a mapping"),
    (datetime.date, "a date"),
    (bytes, "binary data"),
    (type(None), "nothing"),
)


def _kind(value: Any) -> str:
    return next((name for kind, name in _KINDS if isinstance(value, kind)), "no value")


_short = reprlib.Repr()
# What is shown stays short, whatever anchors and aliases have multiplied.
_short.maxlevel, _short.maxlist, _short.maxdict, _short.maxset = 2, 3, 3, 3
_short.maxstring = _short.maxlong = _short.maxother = 60


def _show(value: Any) -> str:
    """Return a value as YAML would have it, on one short line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    try:
        return _short.repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a huge number"


def _key(key: Any) -> str:
    """Return a key as it was written, if that is fit to be shown."""
    fit = isinstance(key, str) and key.isprintable() and 0 < len(key) <= 60
    return str(key) if fit else _show(key)
