"""``oops-celery prune``: remove old reports from the database."""

from __future__ import annotations

import json

import click

from oops_celery.cli.options import repository_option


@click.command(
    "prune",
    short_help="Remove old reports from the database.",
    help="""Remove old reports from the database (OOPS_REPOSITORY), as a worker does
    once an hour.

    Of a group that is open, or came back, the first and the newest report stay. The
    counts of groups and hours stay as they are. You may interrupt this command, and run
    it while workers store reports.

    The exit code is 0 when it was done; 2 when there is nothing to limit, or the
    database or the settings cannot be used; 130 after Ctrl-C.
    """,
    epilog="""\b
Examples:
  oops-celery prune --days 30
  oops-celery prune --bytes 2000000000 --per-group 1000 --dry-run
""",
)
@click.option(
    "--days",
    type=click.IntRange(0),
    help="Keep the reports of so many days, today included; by default OOPS_KEEP_DAYS.",
    metavar="N",
)
@click.option(
    "--bytes",
    "size",
    type=click.IntRange(0),
    help="Remove the oldest until the database has so many bytes; by default"
    " OOPS_KEEP_BYTES.",
    metavar="N",
)
@click.option(
    "--per-group",
    type=click.IntRange(0),
    help="Keep so many reports of a group, the newest; by default OOPS_KEEP_PER_GROUP.",
    metavar="N",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--if-due", is_flag=True, help="Do nothing if it was done this hour.")
@repository_option
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object: repository, removed (or, with --dry-run, would_remove"
    " for days and per-group), and the bytes of the database.",
)
def command(
    days: int | None,
    size: int | None,
    per_group: int | None,
    dry_run: bool,
    if_due: bool,
    repository: str | None,
    as_json: bool,
) -> None:
    """Remove what is beyond the limits."""
    from oops_celery.cli.broker import telling_why
    from oops_celery.cli.repository import database, told
    from oops_celery.settings import load

    url = database(repository)
    with telling_why():
        settings = load()
    limits = [
        setting if option is None else option
        for option, setting in (
            (days, settings.keep_days),
            (size, settings.keep_bytes),
            (per_group, settings.keep_per_group),
        )
    ]
    if not any(limits):
        raise click.UsageError(
            "nothing to limit: give --days, --bytes or --per-group, or set "
            "OOPS_KEEP_DAYS, OOPS_KEEP_BYTES or OOPS_KEEP_PER_GROUP"
        )
    from rich.console import Console

    from oops_celery.repository.retention import Limits, Retention
    from oops_celery.repository.store import Repository
    from oops_celery.text import counted

    kept = Repository(url)
    removed = 0
    with told():
        kept.upgrade()
        retention = Retention(kept, Limits(*limits))
        if if_due and not retention.is_due():
            return
        if dry_run:
            removed = retention.plan()
        else:
            console = Console(stderr=True)
            try:
                with console.status("removing") as status:
                    for number in retention.run():
                        removed += number
                        status.update(f"removing: {removed:,}")
            except KeyboardInterrupt:
                click.echo(f"{counted(removed, 'report')} removed so far", err=True)
                raise
        left = retention.size()
    if as_json:
        what = "would_remove" if dry_run else "removed"
        click.echo(json.dumps({"repository": str(kept), what: removed, "bytes": left}))
    elif dry_run:
        more = ", and more for --bytes" if 0 < limits[1] < left else ""
        told_of = f"{counted(removed, 'report')} would be removed{more}"
        click.echo(f"{kept}: {told_of}; {left:,} bytes")
    elif removed or not if_due:
        click.echo(f"{kept}: {counted(removed, 'report')} removed; {left:,} bytes left")
