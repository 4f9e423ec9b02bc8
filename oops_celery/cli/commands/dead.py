"""``oops-celery dead``: list, show, replay, discard, export and edit dead letters."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from oops_celery.cli import Group
from oops_celery.cli.options import moment, repository_option

if TYPE_CHECKING:
    from oops_celery.dead_letters.letters import Choice

_F = TypeVar("_F", bound=Callable[..., Any])

_AS_JSON = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: done, and failed with reasons."
)

_DRY_RUN = click.option("--dry-run", is_flag=True, help="Only say which.")

#: The end of each command's help.
_EXIT_CODES = """

    The exit code is 0 when everything is done; 1 when something is not done, or there
    is no such letter; 2 when the database or the broker cannot be used, or the command
    is not used as described here; 130 after Ctrl-C.
    """


def _filters(command: _F) -> _F:
    """Add the options that choose letters; they become one `Choice`."""
    options = (
        click.option("--type", metavar="GLOB", help="Of these types: Operational*"),
        click.option(
            "--reason", metavar="GLOB", help="With this whole reason: *ENOSPC*"
        ),
        click.option(
            "--since",
            metavar="TIME",
            callback=moment,
            help="Parked since: 30m, 2h, 3d ago, or a time in ISO 8601 (UTC).",
        ),
        click.option("--until", metavar="TIME", callback=moment, help="Parked before."),
        click.option("--queue", help="From this queue of dead letters."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _which(command: _F) -> _F:
    """Add the choice of letters to a command: ``ID... | --all | filters``."""
    all_of_them = click.option(
        "--all", "everything", is_flag=True, help="All that there are now."
    )
    ids = click.argument("ids", metavar="[ID]...", nargs=-1)
    return ids(all_of_them(_filters(command)))


def _choice(filters: dict[str, Any]) -> Choice:
    from oops_celery.dead_letters.letters import Choice

    return Choice(**filters)


@click.group(
    cls=Group,
    name="dead",
    short_help="Look after the dead letters.",
    help="""Look after the dead letters: reports that could not be stored, and other
    messages that nobody could process.

    A worker takes them from their queues into the database (OOPS_REPOSITORY), where
    any number can be looked at, by several people at a time. A part of an ID is enough
    if no other letter has it. A message that is not a report has an id too, at least a
    hash of its body: see `list`.
    """
    + _EXIT_CODES,
    epilog="""\b
Examples:
  oops-celery dead list --group
  oops-celery dead show 68c5cd
  oops-celery dead replay --type OperationalError
""",
)
@repository_option
@click.pass_context
def command(ctx: click.Context, repository: str | None) -> None:
    """Keep the database."""
    ctx.obj = repository


@command.command(
    "list",
    help="""List the dead letters, oldest first: id, exception's type, reason, attempts,
    and how long ago they were parked. In a pipe: one line each, with tabs.

    With --group: one line for each type and reason, the most frequent first: count,
    type, reason without its variable parts, queue, and how long ago the last was
    parked.
    """
    + _EXIT_CODES,
    epilog="""\b
Examples:
  oops-celery dead list --group
  oops-celery dead list --type 'Value*' --since 3d
  oops-celery dead list --reason '*ENOSPC*'
  oops-celery dead list --json | jq -r '.[] | select(.attempts > 5) | .id'
""",
)
@_filters
@click.option("--group", is_flag=True, help="Count them by type and reason.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def list_(
    repository: str | None, /, group: bool, as_json: bool, **filters: Any
) -> None:
    """List dead letters."""
    from oops_celery.cli import dead_letters as parked
    from oops_celery.cli.views import letters as views

    choice = _choice(filters)
    with parked.opened(repository) as letters:
        if group:
            groups = letters.groups(choice)
            shown: list[Any] = [views.group_as_json(one) for one in groups]
        else:
            found = letters.choose(choice)
            shown = [views.letter_as_json(one) for one in found] if as_json else []
    if as_json:
        click.echo(json.dumps(shown, indent=2))
    elif group:
        views.print_groups(groups)
    else:
        views.print_letters(found)
    parked.tell_waiting()


@command.command(
    "show",
    help="Show the dead letter with an ID: the report, and why it is dead."
    + _EXIT_CODES,
    epilog="""\b
Example:
  oops-celery dead show 68c5cd
""",
)
@click.argument("part", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--raw", is_flag=True, help="Print the body, not to a terminal.")
@click.pass_context
def show(ctx: click.Context, part: str, as_json: bool, raw: bool) -> None:
    """Show one dead letter."""
    from oops_celery.cli import dead_letters as parked
    from oops_celery.cli.commands.show import check_usage, show_found

    check_usage(as_json, raw)
    with parked.opened(ctx.obj) as letters:
        found = parked.find(letters, part)
    ctx.exit(show_found(found, as_json, raw))


@command.command(
    "replay",
    help="""Send dead letters to the queues that they came from, and remove them.

    The body and the original headers are unchanged; a report has all its retries again.
    You may interrupt or kill this command at any time, and start it again: a letter is
    removed when RabbitMQ has confirmed its message. Killed in between, it has sent up
    to 100 letters that are still there; sent again, a report is stored once.
    """
    + _EXIT_CODES,
    epilog="""\b
Examples:
  oops-celery dead replay 68c5cd 1b9e02
  oops-celery dead replay --type OperationalError --rate 50
  oops-celery dead replay --all --json | jq .failed
""",
)
@_which
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Most letters a second, to spare what takes them.",
)
@_DRY_RUN
@_AS_JSON
@click.pass_context
def replay(
    ctx: click.Context,
    /,
    ids: Sequence[str],
    everything: bool,
    rate: float | None,
    dry_run: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    """Replay dead letters."""
    from oops_celery.celery import app
    from oops_celery.cli import dead_letters as parked
    from oops_celery.dead_letters.replay import Replay

    choice = parked.Chosen(ids, everything, _choice(filters))
    with parked.opened(ctx.obj) as letters:
        wanted = choice.of(letters)
        if dry_run:
            ctx.exit(parked.tell_wanted(wanted, "would be replayed", as_json))
        done = parked.act(
            "replaying", wanted, Replay(app, letters, rate, parked.waiting).run(wanted)
        )
    ctx.exit(parked.report(done, "replayed", as_json))


@command.command(
    "discard",
    help="""Remove dead letters for good. Asks first.

    Exactly those that there were when it asked: others that come meanwhile stay.
    """
    + _EXIT_CODES,
    epilog="""\b
Examples:
  oops-celery dead discard 68c5cd
  oops-celery dead discard --reason '*ENOSPC*' --yes
""",
)
@_which
@click.option("--yes", is_flag=True, help="Don't ask.")
@_DRY_RUN
@_AS_JSON
@click.pass_context
def discard(
    ctx: click.Context,
    /,
    ids: Sequence[str],
    everything: bool,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    """Discard dead letters."""
    from oops_celery.cli import dead_letters as parked
    from oops_celery.dead_letters import removal

    choice = parked.Chosen(ids, everything, _choice(filters))
    with parked.opened(ctx.obj) as letters:
        wanted = choice.of(letters)
        if dry_run:
            ctx.exit(parked.tell_wanted(wanted, "would be discarded", as_json))
        if wanted and not yes:
            parked.confirm(f"Discard {parked.count(len(wanted))} for good?")
        done = parked.act("discarding", wanted, removal.discard(letters, wanted))
    ctx.exit(parked.report(done, "discarded", as_json))


@command.command(
    "export",
    help="""Write dead letters to the folder DIR, as `oops-celery export` writes
    reports: all of them, or the chosen ones.

    They stay dead letters. With --remove, each is removed when its file is on disk.
    You may interrupt this command and start it again: a report has the same file each
    time, in the folder of the day on which it was parked. A message that is not a
    report stays.
    """
    + _EXIT_CODES,
    epilog="""\b
Examples:
  oops-celery dead export ./dead-letters
  oops-celery dead export ./dead-letters --type ValueError --remove
""",
)
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False))
@_which
@click.option("--remove", is_flag=True, help="Remove them when they are written.")
@_DRY_RUN
@_AS_JSON
@click.pass_context
def export(
    ctx: click.Context,
    /,
    folder: str,
    ids: Sequence[str],
    everything: bool,
    remove: bool,
    dry_run: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    """Export dead letters."""
    from oops_celery.cli import dead_letters as parked
    from oops_celery.dead_letters import removal

    given = _choice(filters)
    everything = everything or not (ids or parked.is_given(given))
    choice = parked.Chosen(ids, everything, given)
    with parked.opened(ctx.obj) as letters:
        wanted = choice.of(letters)
        if dry_run:
            ctx.exit(parked.tell_wanted(wanted, "would be exported", as_json))
        exporting = removal.export(letters, wanted, folder, remove)
        done = parked.act("exporting", wanted, exporting)
    ctx.exit(parked.report(done, "exported", as_json))


@command.command(
    "edit",
    help="""Edit the report of a dead letter as JSON, in $VISUAL or $EDITOR.

    For a report that cannot be stored as it is: edit it, then replay it. The edited
    report has a new id, and the old one in its field edited_from.
    """
    + _EXIT_CODES,
    epilog="""\b
Example:
  EDITOR=nano oops-celery dead edit 68c5cd
""",
)
@click.argument("part", metavar="ID")
@click.pass_context
def edit(ctx: click.Context, part: str) -> None:
    """Edit a dead letter."""
    from oops_celery.cli import dead_letters as parked

    with parked.opened(ctx.obj) as letters:
        parked.edit(letters, part)
