"""The ledger: what publishers were told, against what is there afterwards."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from oops_celery import wire


@dataclass(frozen=True)
class Ledger:
    """One run's reports, by id."""

    #: Returned by `oops_celery.publisher`: the broker had it.
    returned: frozenset[str]
    #: `oops_celery.publisher` said ``[]``, and the fallback returned it.
    fallen_back: frozenset[str]
    #: Files in the repository.
    kept: Counter[str]
    #: Files in the fallback's repository.
    fallback: Counter[str]
    #: Messages in the dead queue.
    parked: Counter[str]
    #: Messages that are still in the queue or in a retry queue.
    waiting: Counter[str]
    #: Parked without a confirm in time, as under an alarm: RabbitMQ may take such a
    #: message later, and the report, which went back to its queue, is parked again.
    unconfirmed: frozenset[str] = frozenset()

    @property
    def published(self) -> frozenset[str]:
        return self.returned | self.fallen_back

    @property
    def lost(self) -> list[str]:
        """Ids that were returned, and are nowhere."""
        there = {*self.kept, *self.fallback, *self.parked, *self.waiting}
        return sorted(self.published - there)

    @property
    def twice(self) -> list[str]:
        """Ids with two files in the repository, or two dead letters."""
        kept = {one for one, times in self.kept.items() if times > 1}
        parked = {one for one, times in self.parked.items() if times > 1}
        return sorted(kept | parked - self.unconfirmed)

    @property
    def both(self) -> list[str]:
        """Ids that the fallback has, and the broker has taken nevertheless.

        They are the ones whose confirm came too late: nobody can tell these from
        those that the broker never got.
        """
        there = {*self.kept, *self.parked, *self.waiting}
        return sorted(set(self.fallback) & there)

    def assert_nothing_lost(self) -> None:
        """No report is lost, none is there twice, and none waits for ever."""
        assert len(self.published) > 0
        assert self.lost == []
        assert self.twice == []
        assert not self.waiting
        assert self.fallen_back == set(self.fallback)


#: What a worker says of a report that it could not park.
_UNCONFIRMED = re.compile(
    r"(OOPS-[0-9a-f]{32})(?: cannot be parked|\] .*; goes back to its queue)"
)


class Records:
    """Reads the books in a run's folder; each file once."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._ids: dict[Path, str] = {}

    def count_kept(self) -> int:
        return sum(1 for _ in reports(self._home, "oopses"))

    def told(self) -> list[tuple[str, str]]:
        """Return what publishers were told: "returned" or "fallback", and the id."""
        lines = []
        for path in (self._home / "records").glob("*"):
            # The last line of a publisher that was killed may be half.
            whole = path.read_text().rpartition("\n")[0]
            lines += [line.split() for line in whole.splitlines()]
        return [(where, one) for where, one in lines]

    def count_told(self, where: str) -> int:
        return sum(1 for told, _ in self.told() if told == where)

    def ledger(self, waiting: Iterable[str], parked: Iterable[str]) -> Ledger:
        told = self.told()
        return Ledger(
            returned=frozenset(one for where, one in told if where == "returned"),
            fallen_back=frozenset(one for where, one in told if where == "fallback"),
            kept=self._files("oopses*"),
            fallback=self._files("fallback"),
            parked=Counter(parked),
            waiting=Counter(waiting),
            unconfirmed=frozenset(
                one
                for log in self._home.glob("*.log")
                for one in _UNCONFIRMED.findall(log.read_text(errors="replace"))
            ),
        )

    def _files(self, folder: str) -> Counter[str]:
        return Counter(self._id(path) for path in reports(self._home, folder))

    def _id(self, path: Path) -> str:
        if path not in self._ids:
            self._ids[path] = str(wire.decode(path.read_bytes())["id"])
        return self._ids[path]


def reports(home: Path, folder: str) -> Iterable[Path]:
    """Return the files of a folder of reports, without those that are half written."""
    for path in home.glob(f"{folder}/*/*"):
        if not path.name.endswith(".tmp"):
            yield path
