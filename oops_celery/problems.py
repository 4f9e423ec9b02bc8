"""What is wrong with a topology file: one problem, and the error that names all."""

from __future__ import annotations

from dataclasses import dataclass


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
