"""Check a topology file.

`read_topology` takes YAML text and returns `Declarations`, or raises a `TopologyError`
with every mistake and its line. It needs no broker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from oops_celery.errors import TopologyError
from oops_celery.topology.document import Document, Path
from oops_celery.topology.problems import Problem
from oops_celery.topology.rules import check_queues
from oops_celery.topology.schema import (
    QUEUE_ARGUMENTS,
    BindingEntry,
    ConsumerSettings,
    Entry,
    ExchangeEntry,
    File,
    QueueEntry,
)
from oops_celery.topology.wording import (
    did_you_mean,
    explained,
    show,
    show_key,
    show_path,
)


@dataclass(frozen=True)
class Declarations:
    """The declarations of a valid file."""

    startup_handler: str | None
    exchanges: tuple[ExchangeEntry, ...]
    queues: tuple[QueueEntry, ...]
    consumers: tuple[ConsumerSettings, ...]
    warnings: tuple[Problem, ...]


def read_topology(text: str | bytes, source: str) -> Declarations:
    """Return the declarations of a topology file.

    Args:
        text: The file; bytes are UTF-8, or UTF-16 with a byte order mark.
        source: Its name, for messages.

    Raises:
        TopologyError: It cannot be used; names every mistake.
    """
    document = Document(text, source)
    value = document.construct()
    findings = Findings(document)
    for path, key in document.duplicates():
        text = f"{show_key(key.value)}: stands here twice; the last one counts"
        findings.warn(path, text, line=key.start_mark.line + 1)
    for written, number, line in document.odd_numbers():
        text = f"{show_key(written)} is the number {show(number)}; write it so"
        findings.warn((), text, line=line)
    checked = _check_entries(value, findings)
    _check_names(value, findings)
    queues, exchanges = _mappings(value, "queues"), _mappings(value, "exchanges")
    check_queues(queues, exchanges, findings)
    problems = findings.in_order()
    if any(problem.fatal for problem in problems):
        raise TopologyError(source, problems)
    checked["queues"] = _merged(checked["queues"])
    return Declarations(**checked, warnings=problems)


class Findings:
    """Collects problems with their lines."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._problems: list[Problem] = []
        #: Entries with a mistake, for example ``("queues", 1)``.
        self.broken: set[Path] = set()

    def add(
        self, path: Path, text: str, key: Any = None, line: int | None = None
    ) -> None:
        """Note a mistake, with the line of `key`, or else of its mapping."""
        place = path if key is None else (*path, key)
        line = line or self._document.line(place)
        self._problems.append(Problem(show_path(path), line, text))
        self.broken.add(path[:2])

    def warn(
        self, path: Path, text: str, key: Any = None, line: int | None = None
    ) -> None:
        """Note a possible mistake that does not stop a worker."""
        line = line or self._document.line(path if key is None else (*path, key))
        self._problems.append(Problem(show_path(path), line, text, fatal=False))

    def in_order(self) -> tuple[Problem, ...]:
        """Return each problem once, in the order of lines."""
        once = {(each.line, each.text): each for each in reversed(self._problems)}
        return tuple(sorted(once.values(), key=lambda each: each.line or 0))


_E = TypeVar("_E", bound=Entry)

#: The lists of a file: the model of their entries, and the key with an entry's name.
_SECTIONS: dict[str, tuple[type[Entry], str]] = {
    "exchanges": (ExchangeEntry, "exchange"),
    "queues": (QueueEntry, "queue"),
    "consumers": (ConsumerSettings, "consumer"),
}


def _check_entries(document: Any, findings: Findings) -> dict[str, Any]:
    file = _checked(File, document, (), findings)
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


def _checked(model: type[_E], entry: Any, path: Path, findings: Findings) -> _E | None:
    try:
        return model.model_validate(entry)
    except ValidationError as error:
        details = error.errors(include_url=False)
    before = entry
    unknown = [detail for detail in details if _is_unknown(detail)]
    for detail in unknown:
        _warn_of_unknown(detail, model, path, findings, entry)
        entry = _without(entry, detail["loc"])
    if len(unknown) == len(details) and entry != before:
        return _checked(model, entry, path, findings)
    for detail in details:
        if detail not in unknown:
            _add_detail(detail, path, findings)
    return None


def _is_unknown(detail: ErrorDetails) -> bool:
    """Return whether a problem is about an unknown key."""
    return detail["type"] in ("extra_forbidden", "invalid_key")


def _warn_of_unknown(
    detail: ErrorDetails,
    model: type[Entry],
    path: Path,
    findings: Findings,
    entry: Any,
) -> None:
    """Warn that a key is ignored, which amqp-dispatcher did silently."""
    above, last = detail["loc"][:-1], detail["loc"][-1]
    for step in above:
        entry = entry[step]
    last = next((key for key in entry if _is_called(key, last)), last)
    known = BindingEntry if "bindings" in above else model
    text = f"{show_key(last)}: unknown key, left out{_known_key(last, known)}"
    findings.warn((*path, *above), text, key=last)
    if "did you mean" in text:  # the key that it was meant to be is not missing
        findings.broken.add(path[:2])


def _without(entry: Any, place: tuple[Any, ...]) -> Any:
    """Return an entry without one place; aliases may share the rest."""
    step, *rest = place
    if isinstance(entry, list):
        below = [*entry]
        below[step] = _without(entry[step], tuple(rest))
        return below
    if rest:
        return {**entry, step: _without(entry[step], tuple(rest))}
    return {key: value for key, value in entry.items() if not _is_called(key, step)}


def _is_called(key: Any, step: Any) -> bool:
    """Return whether pydantic means this key; it shows the repr of other types."""
    return bool(key == step) or (not isinstance(key, str) and repr(key) == str(step))


def _add_detail(detail: ErrorDetails, path: Path, findings: Findings) -> None:
    """Add a finding of pydantic in our words."""
    *above, last = detail["loc"] or ("",)
    if last == "[key]":  # in a table
        text = f"{show(detail['input'])}: a key must be text; put it in quotes"
        findings.add((*path, *above), text)
    elif detail["type"] == "missing":
        findings.add((*path, *above), f"{last}: missing; it is needed here")
    else:
        findings.add((*path, *detail["loc"]), explained(detail))


def _known_key(key: Any, model: type[Entry]) -> str:
    if str(key).startswith("x_ha_"):
        return "; RabbitMQ knows no mirrored queues any more: x_queue_type: quorum"
    names = list(model.model_fields)
    guess = did_you_mean(str(key).replace("-", "_"), names)
    if guess:
        return guess
    known = [name for name in names if name not in QUEUE_ARGUMENTS]
    more = ", and RabbitMQ's arguments as x_..." if model is QueueEntry else ""
    return f"; known are {', '.join(known)}{more}"


def _entries(document: Any, section: str) -> list[tuple[int, Any]]:
    entries = document.get(section) if isinstance(document, dict) else None
    return list(enumerate(entries)) if isinstance(entries, list) else []


def _mappings(document: Any, section: str) -> list[tuple[int, dict[Any, Any]]]:
    return [(i, e) for i, e in _entries(document, section) if isinstance(e, dict)]


def _check_names(document: Any, findings: Findings) -> None:
    """Report duplicate names, unless the broker would accept them twice."""
    for section in ("exchanges", "queues"):
        key = _SECTIONS[section][1]
        first: dict[str, int] = {}
        for index, entry in _mappings(document, section):
            name = entry.get(key)
            if not isinstance(name, str) or first.setdefault(name, index) == index:
                continue
            other = f"{section}[{first[name]}]"
            same = _declares(document[section][first[name]]) == _declares(entry)
            if section == "queues" and same:
                text = f"{show(name)} is {other} too; its bindings are added"
                findings.warn((section, index, key), text)
            else:
                text = f"{show(name)} is {other} already, and differs; remove one"
                findings.add((section, index, key), text)


def _declares(entry: dict[Any, Any]) -> dict[Any, Any]:
    return {key: value for key, value in entry.items() if key != "bindings"}


def _merged(queues: tuple[QueueEntry, ...]) -> tuple[QueueEntry, ...]:
    """Return each queue once, with the bindings of all its entries."""
    found: dict[str, QueueEntry] = {}
    for queue in queues:
        if known := found.get(queue.queue):
            new = [each for each in queue.bindings if each not in known.bindings]
            queue = known.model_copy(update={"bindings": [*known.bindings, *new]})
        found[queue.queue] = queue
    return tuple(found.values())
