"""``oops-celery import``: bring the reports of folders into the database."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click

from oops_celery.cli.options import repository_option

if TYPE_CHECKING:
    from oops_celery.repository.reader import Unreadable

#: Most files to name that are no reports; the others are counted.
NAMED = 20


@click.command(
    "import",
    short_help="Bring the reports of folders into the database.",
    help="""Store the reports in each FOLDER in the database (OOPS_REPOSITORY).

    A FOLDER has the layout of oops-datedir-repo, or any other: its files are looked for
    however deep they are. They may be compressed with bzip2, and stay where they are.

    You may interrupt this command and start it again, and run it while workers store
    reports: what is stored already is not changed, and not counted again.

    The exit code is 0 when every file was a report; 1 when some were not, and are
    named; 2 when a FOLDER, the database or the settings cannot be used, or the command
    is not used as described here; 130 after Ctrl-C.
    """,
    epilog="""\b
Examples:
  oops-celery import ./oopses
  oops-celery import --repository sqlite:////srv/oopses.db /srv/oopses ./fallback
""",
)
@click.argument(
    "folders",
    metavar="FOLDER...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False),
)
@repository_option
@click.option(
    "--processes",
    type=click.IntRange(1, 64),
    default=lambda: min(os.cpu_count() or 1, 4),
    help="How many processes read the files; by default one for each core, at most 4.",
    metavar="N",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object: repository, files, new, and unreadable, with file and"
    " reason of each.",
)
@click.pass_context
def command(
    ctx: click.Context,
    folders: tuple[str, ...],
    repository: str | None,
    processes: int,
    as_json: bool,
) -> None:
    """Import folders, and exit with a code for the result."""
    from oops_celery.cli.repository import database, told

    url = database(repository)
    from rich.console import Console
    from rich.progress import Progress

    from oops_celery.repository.transfer import import_files
    from oops_celery.settings.repository_url import without_password

    files = [file for one in folders for file in _files(one)]
    done = new = 0
    unreadable: list[Unreadable] = []
    console = Console(stderr=True)
    try:
        with (
            told(),
            Progress(
                console=console, transient=True, disable=not console.is_terminal
            ) as progress,
        ):
            bar = progress.add_task("importing", total=len(files))
            for part in import_files(url, files, processes):
                done += part.files
                new += part.new
                unreadable += part.unreadable
                progress.update(bar, completed=done)
    except KeyboardInterrupt:
        click.echo(
            f"{new:,} new reports are stored; the same command goes on", err=True
        )
        raise
    name = without_password(url)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "repository": name,
                    "files": done,
                    "new": new,
                    "unreadable": [one._asdict() for one in unreadable],
                }
            )
        )
    else:
        _print(name, done, new, unreadable)
    ctx.exit(1 if unreadable else 0)


def _files(folder: str) -> list[str]:
    from oops_celery.cli.broker import CannotTell
    from oops_celery.repository.transfer import report_files

    try:
        return report_files(folder)
    except OSError as error:
        raise CannotTell(f"{folder} cannot be read: {error.strerror}") from None


def _print(name: str, files: int, new: int, unreadable: list[Unreadable]) -> None:
    from rich.console import Console

    from oops_celery.cli.console import say
    from oops_celery.text import counted

    errors = Console(stderr=True)
    for one in unreadable[:NAMED]:
        say(errors, f": {one.file}: {one.reason}", "no report", "yellow")
    if len(unreadable) > NAMED:
        say(errors, f"... and {len(unreadable) - NAMED} more", style="yellow")
    old = files - new - len(unreadable)
    say(
        Console(),
        f"{name}: {counted(new, 'new report')} of {counted(files, 'file')}, "
        f"{old:,} stored before",
    )
