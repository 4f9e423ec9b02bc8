"""What the commands of ``oops-celery dead`` share: choose letters, confirm, report."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import click
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from oops_celery.celery import app
from oops_celery.cli.broker import CannotTell
from oops_celery.cli.commands.show import news, say_error
from oops_celery.cli.console import escaped, say
from oops_celery.cli.views.report import age, candidate
from oops_celery.dead_letters.letter import Letter, read_letter
from oops_celery.dead_letters.queues import Broker
from oops_celery.dead_letters.removal import LetterOutcome
from oops_celery.dead_letters.search import Found, in_messages
from oops_celery.errors import ExportError, NoMatch, QueueError
from oops_celery.wire.ids import resolve

#: Columns of a table that has room for whole ids.
WIDE = 110

#: Characters of a shortened id, if they tell it from the others.
SHORT_ID = 13

#: Columns of a type; a longer one is folded.
TYPE_WIDTH = 20

#: Most candidates and failures to name.
NAMED = 20


class Failed(click.ClickException):
    """The command failed: one line on standard error, and exit code 1."""

    def show(self, *_: object, **__: object) -> None:
        """Print the message without control characters."""
        say_error(f"Error: {self.message}")


class Choice:
    """The messages that a command is about.

    Raises:
        click.UsageError: Nothing was chosen, or in two ways at once.
    """

    def __init__(self, ids: Sequence[str], everything: bool, kind: str | None) -> None:
        if sum(map(bool, (ids, everything, kind is not None))) != 1:
            raise click.UsageError("name IDs, or --all, or --type: one of these")
        self._ids = ids
        self._kind = kind

    def of(self, letters: list[Letter]) -> list[Letter]:
        """Return the chosen messages.

        Raises:
            Failed: An id names none of them, or more than one.
        """
        if self._kind is not None:
            return [letter for letter in letters if letter.type == self._kind]
        if not self._ids:
            return letters
        known = {letter.id for letter in letters}
        meant, wrong = set(), False
        for part in self._ids:
            try:
                meant.add(resolve(part, known))
            except NoMatch as error:
                tell_candidates(error, letters)
                wrong = True
        if wrong:
            raise Failed("nothing was done")
        return [letter for letter in letters if letter.id in meant]


def tell_candidates(error: NoMatch, letters: Iterable[Letter | Found]) -> None:
    """Print the ids that somebody may have meant."""
    say_error(f"{error.part}: {error}{':' if error.candidates else ''}")
    by_id = {letter.id: letter for letter in letters}
    for one in error.candidates[:NAMED]:
        say_error(candidate(by_id[one]))
    if len(error.candidates) > NAMED:
        say_error(f"... and {len(error.candidates) - NAMED} more")


def dead_queue(name: str | None) -> str:
    """Return the dead letter queue: the given one, else that of the topology.

    Raises:
        Failed: There is none.
    """
    if name:
        return name
    queues = app.topology.dead_letter_queues(app.oops.queue)
    if not queues:
        raise Failed(
            f"queue {app.oops.queue!r} has no queue of dead letters in "
            f"{app.topology.source}: name one with --queue"
        )
    if len(queues) > 1:
        others = ", ".join(queue.name for queue in queues[1:])
        say_error(f"about {queues[0].name}; copies are in {others} (see --queue)")
    return str(queues[0].name)


@contextmanager
def open_queues() -> Iterator[Broker]:
    """Connect to the broker; errors of the broker or a file end the command."""
    try:
        with Broker(app, say_error) as broker:
            try:
                yield broker
            except QueueError as error:
                if broker.usable:  # a missing queue does not break the connection
                    raise Failed(str(error)) from None
                raise
    except QueueError as error:
        raise CannotTell(str(error)) from None
    except ExportError as error:
        raise Failed(str(error)) from None


def look(queue: str) -> list[Letter]:
    """Return the letter of each message of a queue."""
    letters = []
    with open_queues() as broker, news(f"looking into {queue}") as tell:
        for message in broker.browse(queue):
            letters.append(read_letter(message, queue))
            if len(letters) % 100 == 1:
                tell(str(len(letters)))
    return letters


def find(queue: str, part: str) -> list[Found]:
    """Return the messages with an id, or with the only id that has this part.

    Raises:
        Failed: There is none, or more than one.
    """
    with open_queues() as broker, news("searching") as tell:
        found = in_messages(broker.browse(queue), queue, part, tell)
    try:
        whole = resolve(part, {one.id for one in found})
    except NoMatch as error:
        tell_candidates(error, found)
        raise Failed(f"not shown from {queue}") from None
    return [one for one in found if one.id == whole]


def chosen(queue: str, choice: Choice) -> list[Letter]:
    """Return the messages of a queue that a command is about."""
    return choice.of(look(queue))


def confirm(question: str) -> None:
    """Ask on standard error; return if the answer is yes.

    Raises:
        Failed: It is not.
    """
    click.echo(f"{escaped(question)} [y/N] ", nl=False, err=True)
    # Not click's, in which Ctrl-C is the same as no answer.
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failed("nothing was done (--yes does not ask)")


class Done(NamedTuple):
    """The result of a command."""

    wanted: int
    done: list[str]
    failed: list[LetterOutcome]


def act(
    doing: str,
    wanted: list[Letter],
    action: Callable[[Broker, Iterable[bytes]], Iterator[LetterOutcome]],
) -> Done:
    """Do something with messages, with a progress bar on a terminal.

    Args:
        doing: What, for the bar.
        wanted: The messages.
        action: Does it over a connection, and yields outcomes.
    """
    result = Done(len(wanted), [], [])
    if not wanted:
        return result
    console = Console(stderr=True)
    bar = Progress(console=console, disable=not console.is_terminal)
    try:
        with open_queues() as broker, bar:
            task = bar.add_task(doing, total=len(wanted))
            for outcome in action(broker, [letter.key for letter in wanted]):
                if outcome.why:
                    result.failed.append(outcome)
                else:
                    result.done.append(outcome.id)
                bar.advance(task)
    except BaseException:
        say_error(f"{len(result.done)} of {len(wanted)} before the interruption")
        raise
    return result


def report(result: Done, verb: str, as_json: bool) -> int:
    """Print the result; return the exit code."""
    failed = [outcome._asdict() for outcome in result.failed]
    gone = result.wanted - len(result.done) - len(failed)
    if as_json:
        click.echo(json.dumps({"done": result.done, "failed": failed, "gone": gone}))
        return 1 if failed or gone else 0
    for outcome in result.failed[:NAMED]:
        say_error(f"{outcome.id}: {outcome.why}")
    if len(failed) > NAMED:
        say_error(f"... and {len(failed) - NAMED} more")
    if gone:
        say_error(f"{count(gone)} had been taken by somebody else")
    say(Console(), f"{count(len(result.done))} {verb}")
    return 1 if failed or gone else 0


def count(number: int) -> str:
    """Return a number of dead letters in words."""
    return f"{number:,} dead letter{'' if number == 1 else 's'}"


def print_letters(letters: list[Letter], queue: str) -> None:
    """Print a table for a person, or lines with tabs for a program."""
    console = Console()
    person = console.is_terminal or bool(os.environ.get("COLUMNS"))
    if not person:
        for letter in letters:
            cells = (letter.id, *_cells(letter))
            click.echo("\t".join(escaped(cell, console.encoding) for cell in cells))
        return
    if letters:
        console.print(_table(letters, console))
    say(console, f"{queue}: {count(len(letters))}")


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
    return kind, letter.reason, attempts, age(letter)


def _short_length(letters: list[Letter]) -> int | None:
    """Return how many characters tell the ids apart; None for all."""
    ids = {letter.id for letter in letters}
    for length in range(SHORT_ID, SHORT_ID + 8):
        if max(Counter(one[:length] for one in ids).values()) == 1:
            return length
    return None
