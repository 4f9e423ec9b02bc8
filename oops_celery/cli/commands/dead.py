"""``oops-celery dead``: list, show, replay, discard and export dead letters."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import click

from oops_celery.cli import Group
from oops_celery.cli.options import moment

_F = TypeVar("_F", bound=Callable[..., Any])

_AS_JSON = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: done, and failed with reasons."
)


#: The end of each command's help.
_EXIT_CODES = """

    The exit code is 0 when everything is done; 1 when something is not done, or there
    is no such message; 2 when there is no broker, the settings cannot be used, or the
    command is not used as described here; 130 after Ctrl-C.
    """


def _which(command: _F) -> _F:
    """Add the choice of messages to a command: ``ID... | --all | --type``."""
    of_type = click.option("--type", "kind", help="Only this type of exception.")
    all_of_them = click.option(
        "--all",
        "everything",
        is_flag=True,
        help="All messages that are in the queue now.",
    )
    ids = click.argument("ids", metavar="[ID]...", nargs=-1)
    return of_type(all_of_them(ids(command)))


@click.group(
    cls=Group,
    name="dead",
    short_help="Look after the dead letters.",
    help="""Look after the dead letters: reports that could not be stored, and other
    parked messages, in the dead letter queue of the topology.

    A part of an ID is enough if no other message has it. A message that is not a report
    has an id too, at least a hash of its body: see `list`.
    """
    + _EXIT_CODES,
    epilog="""\b
Examples:
  oops-celery dead list --since 2h
  oops-celery dead show 68c5cd
  oops-celery dead replay --type OperationalError
""",
)
@click.option("--queue", help="Another queue of dead letters, as of a Receiver.")
@click.pass_context
def command(ctx: click.Context, queue: str | None) -> None:
    """Keep the name of the queue."""
    ctx.obj = queue


@command.command(
    "list",
    help="""List the dead letters, oldest first: id, exception's type, reason, attempts,
    and how long ago they were parked. In a pipe: one line each, with tabs.
    """
    + _EXIT_CODES,
    epilog="""\b
Examples:
  oops-celery dead list --type ValueError --since 3d
  oops-celery dead list --json | jq -r '.[] | select(.attempts > 5) | .id'
""",
)
@click.option("--type", "kind", help="Those of one exception's type.")
@click.option(
    "--since",
    metavar="TIME",
    callback=moment,
    help="Only those parked since: 30m, 2h, 3d ago, or a time in ISO 8601 (UTC).",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def list_(
    queue: str | None, kind: str | None, since: datetime | None, as_json: bool
) -> None:
    """List dead letters."""
    from oops_celery.cli import dead_letters as parked
    from oops_celery.cli.views.report import letter_as_json

    name = parked.dead_queue(queue)
    letters = [
        letter
        for letter in parked.look(name)
        if (kind is None or letter.type == kind)
        and (since is None or (letter.parked_at and letter.parked_at >= since))
    ]
    if as_json:
        shown = [letter_as_json(letter, name) for letter in letters]
        click.echo(json.dumps(shown, indent=2))
    else:
        parked.print_letters(letters, name)


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
    found = parked.find(parked.dead_queue(ctx.obj), part)
    ctx.exit(show_found(found, as_json, raw))


@command.command(
    "replay",
    help="""Put dead letters back into the queues that they came from.

    The body and the original headers are unchanged; a report has all its retries again.
    You may interrupt or kill this command at any time, and start it again:
    with a topology like the default one, each message is in exactly one queue.

    If other reports wait in the shortest retry queue, the replayed ones are back when
    those are: after 10 seconds at most, with the default topology.
    """
    + _EXIT_CODES,
    epilog="""\b
Examples:
  oops-celery dead replay 68c5cd 1b9e02
  oops-celery dead replay --type OperationalError
  oops-celery dead replay --all --json | jq .failed
""",
)
@_which
@_AS_JSON
@click.pass_context
def replay(
    ctx: click.Context,
    ids: Sequence[str],
    everything: bool,
    kind: str | None,
    as_json: bool,
) -> None:
    """Replay dead letters."""
    from oops_celery.celery import app
    from oops_celery.cli import dead_letters as parked
    from oops_celery.dead_letters.replay import Replay

    choice = parked.Choice(ids, everything, kind)
    queue = parked.dead_queue(ctx.obj)
    wanted = parked.chosen(queue, choice)
    done = parked.act(
        "replaying", wanted, lambda broker, keys: Replay(app, broker, queue).run(keys)
    )
    ctx.exit(parked.report(done, "replayed", as_json))


@command.command(
    "discard",
    help="Remove dead letters for good. Asks first." + _EXIT_CODES,
    epilog="""\b
Examples:
  oops-celery dead discard 68c5cd
  oops-celery dead discard --type KeyboardInterrupt --yes
""",
)
@_which
@click.option("--yes", is_flag=True, help="Don't ask.")
@_AS_JSON
@click.pass_context
def discard(
    ctx: click.Context,
    ids: Sequence[str],
    everything: bool,
    kind: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Discard dead letters."""
    from oops_celery.cli import dead_letters as parked
    from oops_celery.dead_letters import removal

    choice = parked.Choice(ids, everything, kind)
    queue = parked.dead_queue(ctx.obj)
    wanted = parked.chosen(queue, choice)
    if wanted and not yes:
        parked.confirm(f"Discard {parked.count(len(wanted))} in {queue} for good?")
    done = parked.act(
        "discarding",
        wanted,
        lambda broker, keys: removal.discard(broker, queue, keys),
    )
    ctx.exit(parked.report(done, "discarded", as_json))


@command.command(
    "export",
    help="""Write dead letters to the folder DIR, as a worker stores reports: all of
    them, or the chosen ones.

    They stay in their queue. With --remove, each leaves it when its file is on disk.
    You may interrupt this command and start it again: a report has the same file each
    time, in the folder of the day on which it was parked. A message that is not a
    report stays in the queue.
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
@click.option("--remove", is_flag=True, help="Take them out of the queue.")
@_AS_JSON
@click.pass_context
def export(
    ctx: click.Context,
    folder: str,
    ids: Sequence[str],
    everything: bool,
    kind: str | None,
    remove: bool,
    as_json: bool,
) -> None:
    """Export dead letters."""
    from oops_celery.cli import dead_letters as parked
    from oops_celery.dead_letters import removal

    everything = everything or not (ids or kind)
    choice = parked.Choice(ids, everything, kind)
    queue = parked.dead_queue(ctx.obj)
    wanted = parked.chosen(queue, choice)
    done = parked.act(
        "exporting",
        wanted,
        lambda broker, keys: removal.export(broker, queue, keys, folder, remove),
    )
    ctx.exit(parked.report(done, "exported", as_json))
