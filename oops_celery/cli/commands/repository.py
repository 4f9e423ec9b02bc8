"""``oops-celery repository``: look after the database of the reports."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click

from oops_celery.cli import Group
from oops_celery.cli.options import repository_option
from oops_celery.text import counted


@click.group(
    "repository",
    cls=Group,
    short_help="Look after the database of the reports.",
    help="""Look after the database of the reports, which OOPS_REPOSITORY names:
    sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE.
    """,
    epilog="""\b
Examples:
  oops-celery repository upgrade
  oops-celery repository copy sqlite:///oopses.db postgresql+psycopg://oops@db/oops
""",
)
def command() -> None:
    """Group what is done to the database."""


@command.command(
    "upgrade",
    short_help="Make its tables, or bring them up to date.",
    help="""Make the tables of the database, or bring them up to date, as a worker does
    when it starts. Several may do so at once.

    The exit code is 0 when the tables are those of this program; 2 when they are newer,
    or the database or the settings cannot be used.
    """,
    epilog="""\b
Examples:
  oops-celery repository upgrade
  oops-celery repository upgrade --repository sqlite:////srv/oopses.db
""",
)
@repository_option
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object: repository, from (null: there were no tables), to.",
)
def upgrade(repository: str | None, as_json: bool) -> None:
    """Upgrade the tables, and say what was found."""
    from oops_celery.cli.repository import database, told

    url = database(repository)
    with told():
        from oops_celery.repository.schema import HEAD
        from oops_celery.repository.store import Repository

        kept = Repository(url)
        found = kept.upgrade()
    if as_json:
        click.echo(json.dumps({"repository": str(kept), "from": found, "to": HEAD}))
    elif found == HEAD:
        click.echo(f"{kept}: schema {HEAD}, nothing to do")
    elif found is None:
        click.echo(f"{kept}: made with schema {HEAD}")
    else:
        click.echo(f"{kept}: upgraded from schema {found} to {HEAD}")


@command.command(
    "regroup",
    short_help="Group what is stored by this version's rule.",
    help="""Group the reports that are stored by the rule of this version, where an
    older version grouped them. No count changes.

    Upgrade all workers first; they may go on meanwhile. You may interrupt or kill this
    command, and start it again.

    The exit code is 0 when it was done, or there was nothing to do; 2 when the database
    or the settings cannot be used; 130 after Ctrl-C.
    """,
    epilog="""\b
Examples:
  oops-celery repository regroup --dry-run
  oops-celery repository regroup
""",
)
@repository_option
@click.option("--dry-run", is_flag=True, help="Only say how many there are.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object: repository, rule, groups and reports of older rules.",
)
def regroup(repository: str | None, dry_run: bool, as_json: bool) -> None:
    """Regroup the reports."""
    from oops_celery.cli.repository import database, told

    url = database(repository)
    with told():
        from oops_celery.repository.fingerprint import RULE
        from oops_celery.repository.regroup import Regroup
        from oops_celery.repository.store import Repository

        kept = Repository(url)
        kept.upgrade()
        work = Regroup(kept)
        groups, reports = work.plan()
        if groups and not dry_run:
            _show("regrouping", reports, work.run())
    about = f"{counted(groups, 'group')} with {counted(reports, 'report')}"
    if as_json:
        found = {"rule": RULE, "groups": groups, "reports": reports}
        click.echo(json.dumps({"repository": str(kept), **found}))
    elif not groups:
        click.echo(f"{kept}: rule {RULE}, nothing to do")
    else:
        did = "would be grouped" if dry_run else "grouped"
        click.echo(f"{kept}: {about} of older rules {did} by rule {RULE}")


@command.command(
    "copy",
    short_help="Copy the whole database into another one.",
    help="""Copy the database FROM into the database TO, which is empty, or has a part
    of an earlier copy: from SQLite to PostgreSQL, or back. It has reports, groups,
    counts and dead letters.

    Stop the workers first, and start them with the other database afterwards: reports
    wait in the queue. You may interrupt or kill this command, and start it again: it
    goes on. At the end it counts the rows of both.

    The exit code is 0 when both have the same rows; 1 when they have not; 2 when a
    database cannot be used; 130 after Ctrl-C.
    """,
    epilog="""\b
Example:
  oops-celery repository copy sqlite:///oopses.db postgresql+psycopg://oops@db/oops
""",
)
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object: from, to, rows, and different, the tables with other"
    " numbers of rows.",
)
@click.pass_context
def copy(ctx: click.Context, source: str, target: str, as_json: bool) -> None:
    """Copy a database."""
    from oops_celery.cli.repository import checked, told
    from oops_celery.settings.repository_url import without_password

    source, target = checked(source), checked(target)
    with told():
        from oops_celery.repository.copy import Copy

        work = Copy(source, target)
        total = work.total()
        _show("copying", total, work.run())
        different = work.differences()
    names = without_password(source), without_password(target)
    if as_json:
        found = {"from": names[0], "to": names[1], "rows": total}
        click.echo(json.dumps({**found, "different": different}))
    else:
        for table, (here, there) in different.items():
            click.echo(f"{table}: {here:,} rows, and {there:,} copied", err=True)
        click.echo(f"{names[1]}: {counted(total, 'row')} of {names[0]}")
    ctx.exit(1 if different else 0)


def _show(doing: str, total: int, parts: Iterator[int]) -> None:
    """Do something in parts, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    done = 0
    try:
        with Progress(
            console=console, transient=True, disable=not console.is_terminal
        ) as progress:
            bar = progress.add_task(doing, total=total)
            for number in parts:
                done += number
                progress.update(bar, completed=done)
    except KeyboardInterrupt:
        click.echo(
            f"{doing}: {done:,} of {total:,}; the same command goes on", err=True
        )
        raise
