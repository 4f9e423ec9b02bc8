"""Print dead letters and their groups: a table for a person, lines for a program."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from oops_celery.cli.console import escaped, say
from oops_celery.cli.views.report import age, age_in_seconds
from oops_celery.dead_letters.letter import Letter
from oops_celery.dead_letters.letters import LetterGroup
from oops_celery.wire.as_json import as_json_value

#: Columns of a table that has room for whole ids.
WIDE = 110

#: Characters of a shortened id, if they tell it from the others.
SHORT_ID = 13

#: Columns of a type; a longer one is folded.
TYPE_WIDTH = 20

#: Most rows of a table: rich takes a millisecond for each. More are printed as lines.
MOST_ROWS = 500


def print_letters(letters: list[Letter]) -> None:
    """Print letters, the oldest first."""
    console = Console()
    if not _is_for_a_person(console) or len(letters) > MOST_ROWS:
        for letter in letters:
            _print_cells(console, (letter.id, *_cells(letter)))
    elif letters:
        console.print(_table(letters, console))
    if _is_for_a_person(console):
        number = len(letters)
        say(console, f"{number:,} dead letter{'' if number == 1 else 's'}")


def print_groups(groups: list[LetterGroup]) -> None:
    """Print groups of letters, the largest first."""
    console = Console()
    rows = [
        (f"{one.count}", one.type, one.reason, one.queue, age(one.last))
        for one in groups
    ]
    if not _is_for_a_person(console):
        for row in rows:
            _print_cells(console, row)
        return
    if rows:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
        table.add_column("count", justify="right")
        table.add_column("type", overflow="fold", max_width=TYPE_WIDTH)
        table.add_column("reason", overflow="fold", ratio=1)
        table.add_column("queue", overflow="fold")
        table.add_column("last", justify="right", width=4)
        for row in rows:
            table.add_row(*(Text(escaped(cell, console.encoding)) for cell in row))
        console.print(table)
    total = sum(one.count for one in groups)
    say(console, f"{total:,} dead letter{'' if total == 1 else 's'}")


def letter_as_json(letter: Letter) -> dict[str, Any]:
    """Return what is known of a letter."""
    return {
        "id": letter.id,
        "report": letter.is_report,
        "type": letter.type or None,
        "reason": letter.reason or None,
        "attempts": letter.attempts,
        "age": age_in_seconds(letter.parked_at),
        "came_from": letter.came_from,
        "first_failed_at": as_json_value(letter.first_failed_at),
        "parked_at": as_json_value(letter.parked_at),
        "parked_by": letter.parked_by or None,
        "size": letter.size,
        "queue": letter.queue,
    }


def group_as_json(group: LetterGroup) -> dict[str, Any]:
    """Return a group of letters."""
    return {
        "count": group.count,
        "type": group.type or None,
        "reason": group.reason or None,
        "queue": group.queue,
        "first": as_json_value(group.first),
        "last": as_json_value(group.last),
        "example": group.example,
    }


def _is_for_a_person(console: Console) -> bool:
    return console.is_terminal or bool(os.environ.get("COLUMNS"))


def _print_cells(console: Console, cells: Sequence[str]) -> None:
    click.echo("\t".join(escaped(cell, console.encoding) for cell in cells))


def _table(letters: list[Letter], console: Console) -> Table:
    length = None if console.width >= WIDE else _short_length(letters)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    longest = max(len(letter.type) for letter in letters)
    table.add_column("id", overflow="fold", min_width=length)
    table.add_column("type", overflow="fold", width=min(max(longest, 5), TYPE_WIDTH))
    table.add_column("reason", overflow="ellipsis", no_wrap=True, ratio=1)
    table.add_column("tries", justify="right", width=5)
    table.add_column("age", justify="right", width=4)
    for letter in letters:
        cells = (letter.id[:length], *_cells(letter))
        table.add_row(*(Text(escaped(cell, console.encoding)) for cell in cells))
    return table


def _cells(letter: Letter) -> tuple[str, ...]:
    attempts = "?" if letter.attempts is None else str(letter.attempts)
    kind = letter.type or ("" if letter.is_report else "(no report)")
    return kind, letter.reason, attempts, age(letter.parked_at)


def _short_length(letters: list[Letter]) -> int | None:
    """Return how many characters tell the ids apart; None for all."""
    ids = {letter.id for letter in letters}
    for length in range(SHORT_ID, SHORT_ID + 8):
        if max(Counter(one[:length] for one in ids).values()) == 1:
            return length
    return None
