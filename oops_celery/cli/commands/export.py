"""``oops-celery export``: write reports of the database to a folder."""

from __future__ import annotations

import json
from datetime import datetime

import click

from oops_celery.cli.options import moment, repository_option


@click.command(
    "export",
    short_help="Write reports of the database to a folder.",
    help="""Write reports of the database (OOPS_REPOSITORY) to FOLDER, all of them or
    those that you choose.

    FOLDER gets the layout of oops-datedir-repo: a folder for each day (UTC), in it a
    BSON file for each report, named by its id. The reports stay in the database. You
    may interrupt this command and start it again.

    The exit code is 0 when all are written; 1 when an id is not there, and is named; 2
    when FOLDER, the database or the settings cannot be used, or the command is not used
    as described here; 130 after Ctrl-C.
    """,
    epilog="""\b
Examples:
  oops-celery export ./oopses
  oops-celery export --since 7d --type ValueError ./week
  oops-celery export --id OOPS-68c5cd8feec37c1e2d9e2a8d9d2a5f3c ./one
""",
)
@click.argument("folder", metavar="FOLDER", type=click.Path(file_okay=False))
@click.option(
    "--id", "ids", multiple=True, metavar="ID", help="Only this one; may be repeated."
)
@click.option(
    "--type", "kind", metavar="PATTERN", help="Only this type of exception, as 'Key*'."
)
@click.option(
    "--since",
    callback=moment,
    metavar="TIME",
    help="Only those since: 30m, 2h, 3d ago, or a time in ISO 8601 (UTC).",
)
@click.option(
    "--until", callback=moment, metavar="TIME", help="Only those before that time."
)
@repository_option
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object: repository, folder, reports, and missing ids.",
)
@click.pass_context
def command(
    ctx: click.Context,
    folder: str,
    ids: tuple[str, ...],
    kind: str | None,
    since: datetime | None,
    until: datetime | None,
    repository: str | None,
    as_json: bool,
) -> None:
    """Export reports, and exit with a code for the result."""
    from oops_celery.cli.broker import CannotTell
    from oops_celery.cli.commands.show import say_error
    from oops_celery.cli.repository import database, reading
    from oops_celery.text import counted

    url = database(repository)
    missing = set(ids)
    count = 0
    with reading(url) as reports:
        from rich.console import Console
        from rich.progress import track

        from oops_celery.repository.transfer import export

        console = Console(stderr=True)
        found = export(reports, folder, ids, kind, since, until)
        try:
            for one in track(
                found,
                "exporting",
                len(ids) or reports.count(),
                console=console,
                transient=True,
                disable=not console.is_terminal,
            ):
                missing.discard(one)
                count += 1
        except OSError as error:
            raise CannotTell(
                f"{error.filename or folder} cannot be written: {error.strerror}"
            ) from None
        except KeyboardInterrupt:
            click.echo(f"{counted(count, 'report')} written so far", err=True)
            raise
        name = reports.name
    if as_json:
        told = {"repository": name, "folder": folder, "reports": count}
        click.echo(json.dumps({**told, "missing": sorted(missing)}))
    else:
        for one in sorted(missing):
            say_error(f"{one}: no such report in {name}")
        click.echo(f"{folder}: {counted(count, 'report')}")
    ctx.exit(1 if missing else 0)
