"""``oops-celery resubmit``: send the reports of a fallback folder to the broker."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from oops_celery.publishing.resubmit import FileOutcome

#: Most files to name that cannot be sent; the others are counted.
MAX_NAMED = 20


@click.command(
    "resubmit",
    short_help="Send the reports of a fallback repository to the broker.",
    help="""Send the reports in the folder DIR of a FolderPublisher or a DateDirRepo to
    the broker, as datedir2amqp did.

    A file is removed when RabbitMQ has its report, not before; a file that this user
    may not remove is not sent. You may interrupt this command and start it again, and
    run several at once. RABBITMQ_URL says where RabbitMQ is.

    The exit code is 0 when no file is left; 1 when some are; 2 when DIR or the settings
    cannot be used, or the command is not used as described here; 130 after Ctrl-C.
    """,
    epilog="""\b
Examples:
  oops-celery resubmit ./fallback
  oops-celery resubmit --json /var/spool/oopses | jq .left
""",
)
@click.argument(
    "folder",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object: folder, sent, and left, with path and reason of each.",
)
@click.pass_context
def command(ctx: click.Context, folder: Path, as_json: bool) -> None:
    """Resubmit a folder, and exit with a code for the result."""
    from oops_celery import Publisher, app
    from oops_celery.cli.broker import CannotTell, broker_name
    from oops_celery.publishing.resubmit import resubmit
    from oops_celery.repository.reader import waiting

    broker_name(app)  # read and check the settings
    try:
        files = waiting(folder)
    except OSError as error:
        raise CannotTell(f"{folder} cannot be read: {error.strerror}") from None
    publisher = Publisher(inherit_id=True)
    sent, left = 0, []
    try:
        for outcome in _with_progress(resubmit(files, publisher), len(files)):
            if outcome.id is None:
                left.append(outcome)
            else:
                sent += 1
    except KeyboardInterrupt:
        click.echo(f"{folder}: {sent} sent before the interruption", err=True)
        raise
    finally:
        publisher.close()
    (_print_json if as_json else _print)(folder, sent, left)
    ctx.exit(1 if left else 0)


def _with_progress(
    outcomes: Iterable[FileOutcome], total: int
) -> Iterator[FileOutcome]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(
        outcomes, "sending", total, console=console, disable=not console.is_terminal
    )


def _print_json(folder: Path, sent: int, left: list[FileOutcome]) -> None:
    files = [{"path": str(one.path), "reason": one.reason} for one in left]
    click.echo(json.dumps({"folder": str(folder), "sent": sent, "left": files}))


def _print(folder: Path, sent: int, left: list[FileOutcome]) -> None:
    from rich.console import Console

    from oops_celery.cli.console import say

    console = Console()
    for one in left[:MAX_NAMED]:
        say(console, f": {one.path}: {one.reason}", "left", "yellow")
    if len(left) > MAX_NAMED:
        say(console, f"... and {len(left) - MAX_NAMED} more", style="yellow")
    say(console, f"{folder}: {sent} sent, {len(left) or 'none'} left")
