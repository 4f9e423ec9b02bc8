"""What the commands of ``oops-celery dead`` share: choose letters, confirm, report."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import NamedTuple

import click
from rich.console import Console
from rich.progress import Progress

from oops_celery.celery import app
from oops_celery.cli import repository as chosen_repository
from oops_celery.cli.broker import BROKER_TIMEOUT, CannotTell
from oops_celery.cli.commands.show import NAMED, say_error
from oops_celery.cli.console import escaped, say
from oops_celery.cli.views.report import candidate
from oops_celery.dead_letters import edit as editing
from oops_celery.dead_letters.letter import Letter
from oops_celery.dead_letters.letters import Choice, Letters
from oops_celery.dead_letters.removal import LetterOutcome
from oops_celery.dead_letters.search import Found, in_letters
from oops_celery.errors import EditError, ExportError, NoMatch, QueueError, Unavailable
from oops_celery.operations.depths import ask
from oops_celery.settings import repository_url as urls
from oops_celery.text import counted
from oops_celery.wire.ids import resolve


class Failed(click.ClickException):
    """The command failed: one line on standard error, and exit code 1."""

    def show(self, *_: object, **__: object) -> None:
        """Print the message without control characters."""
        say_error(f"Error: {self.message}")


@contextmanager
def opened(option: str | None) -> Iterator[Letters]:
    """Open the database; what cannot be used ends the command."""
    url = chosen_repository.database(option)
    with chosen_repository.told(), Letters(urls.check(url)) as letters:
        try:
            yield letters
        except QueueError as error:
            raise CannotTell(str(error)) from None
        except (EditError, ExportError) as error:
            raise Failed(str(error)) from None


def is_given(choice: Choice) -> bool:
    """Return whether any filter is given."""
    return any(one is not None for one in astuple(choice))


class Chosen:
    """The letters that a command is about.

    Raises:
        click.UsageError: Nothing was chosen, or in two ways at once.
    """

    def __init__(self, ids: Sequence[str], everything: bool, choice: Choice) -> None:
        if sum(map(bool, (ids, everything, is_given(choice)))) != 1:
            raise click.UsageError(
                "name IDs, or --all, or filters as --type: one of these"
            )
        self._ids = ids
        self._choice = choice

    def of(self, letters: Letters) -> list[Letter]:
        """Return the chosen letters, as they are now.

        Raises:
            Failed: An id names none of them, or more than one.
        """
        if not self._ids:
            return letters.choose(self._choice)
        meant: dict[int, Letter] = {}
        wrong = False
        for part in self._ids:
            found = letters.find(part)
            try:
                whole = resolve(part, {letter.id for letter in found})
            except NoMatch as error:
                tell_candidates(error, found)
                wrong = True
            else:
                meant |= {one.number: one for one in found if one.id == whole}
        if wrong:
            raise Failed("nothing was done")
        return list(meant.values())


def tell_candidates(error: NoMatch, letters: Iterable[Letter | Found]) -> None:
    """Print the ids that somebody may have meant."""
    say_error(f"{error.part}: {error}{':' if error.candidates else ''}")
    by_id = {letter.id: letter for letter in letters}
    for one in error.candidates[:NAMED]:
        say_error(candidate(by_id[one]))
    if len(error.candidates) > NAMED:
        say_error(f"... and {len(error.candidates) - NAMED} more")


def find(letters: Letters, part: str) -> list[Found]:
    """Return the letters with an id, or with the only id that has this part.

    Raises:
        Failed: There is none, or more than one.
    """
    found = in_letters(letters, part)
    try:
        whole = resolve(part, {one.id for one in found})
    except NoMatch as error:
        tell_candidates(error, found)
        tell_waiting()
        raise Failed(f"not shown from the dead letters in {letters.name}") from None
    return [one for one in found if one.id == whole]


def tell_waiting() -> None:
    """Say how many dead letters are still in their queues, if the broker tells."""
    try:
        queues = app.topology.dead_letter_queues(app.oops.queue)
        found = ask(app, [queue.name for queue in queues], BROKER_TIMEOUT)
    except (Unavailable, click.ClickException):
        return  # the database does not need it
    for one in found:
        if one.messages:
            say_error(f"{one.messages:,} more wait in queue {one.queue}, for a worker")


def waiting() -> None:
    """Say that somebody else is at work."""
    say_error("somebody else replays dead letters: taking turns")


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


def act(doing: str, wanted: list[Letter], outcomes: Iterator[LetterOutcome]) -> Done:
    """Do something with letters, with a progress bar on a terminal.

    Args:
        doing: What, for the bar.
        wanted: The letters.
        outcomes: Does it, and yields outcomes.
    """
    result = Done(len(wanted), [], [])
    if not wanted:
        return result
    console = Console(stderr=True)
    bar = Progress(console=console, disable=not console.is_terminal)
    try:
        with bar:
            task = bar.add_task(doing, total=len(wanted))
            for outcome in outcomes:
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


def tell_wanted(wanted: list[Letter], verb: str, as_json: bool) -> int:
    """Print what a command would do; return the exit code."""
    ids = [letter.id for letter in wanted]
    if as_json:
        click.echo(json.dumps({"wanted": ids}))
        return 0
    for one in ids:
        click.echo(escaped(one))
    say(Console(), f"{count(len(ids))} {verb}")
    return 0


def count(number: int) -> str:
    """Return a number of dead letters in words."""
    return f"{number:,} dead letter{'' if number == 1 else 's'}"


def edit(letters: Letters, part: str) -> None:
    """Have a person edit the report of a letter.

    Raises:
        EditError: It cannot be edited, or not like this.
        Failed: There is no such letter, or more than one.
    """
    whole = find(letters, part)[0].id
    ((letter, content), *more) = letters.contents(
        one for one in letters.find(whole) if one.id == whole
    )
    if more:
        raise Failed(f"{counted(len(more) + 1, 'dead letter')} have the id {whole}")
    before = editing.as_json(content)
    text = click.edit(before, extension=".json")
    if text is None or text == before:
        raise Failed("nothing was changed")
    try:
        new, edited = editing.edited(letter, content, text)
    except EditError as error:
        kept = _kept(letter, text)
        raise EditError(f"{error}; your text is in {kept}") from None
    with letters.turn():
        if not letters.change(letter, new, edited):
            kept = _kept(letter, text)
            raise Failed(f"somebody else took {whole}; your text is in {kept}")
    say(Console(), f"{letter.id} is now {new.id}")


def _kept(letter: Letter, text: str) -> str:
    """Keep a text that somebody wrote; return its file."""
    path = Path(f"edited-{letter.number}.json")
    path.write_text(text)
    os.chmod(path, 0o600)  # it contains user input
    return str(path)
