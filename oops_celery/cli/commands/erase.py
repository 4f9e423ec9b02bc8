"""``oops-celery erase``: remove reports and dead letters of somebody, and prove it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from oops_celery.cli.options import repository_option
from oops_celery.text import counted

if TYPE_CHECKING:
    from oops_celery.dead_letters.letter import Letter
    from oops_celery.dead_letters.letters import Letters
    from oops_celery.repository.erasure import Erasure, Where


@click.command(
    "erase",
    short_help="Erase reports, for example those of a person.",
    help="""Erase the reports with these IDs, or those with a field, from the database
    (OOPS_REPOSITORY): stored ones and dead letters. Asks first, and afterwards searches
    again.

    --where username=ann means a report that has the key username, in any case, at any
    depth (request variables too), with the value ann, or a list with it; * and ? are
    wildcards, [*] is an asterisk. Several must all hold. Every report is read for it.

    The counts of groups stay: they say what happened. What is not in the database is
    not erased: reports in queues, in spools, in backups. SQLite's file is overwritten
    where they were; PostgreSQL's is as far as VACUUM does.

    The exit code is 0 when nothing of it is left; 1 when something is, or somebody who
    reads SQLite's file keeps it from being overwritten, or there is no such ID, or the
    answer was no; 2 when the database or the settings cannot be used, or the command is
    not used as described here; 130 after Ctrl-C.
    """,
    epilog="""\b
Examples:
  oops-celery erase OOPS-68c5cd8feec37c1e2d9e2a8d9d2a5f3c
  oops-celery erase --where 'username=ann' --dry-run
  oops-celery erase --where 'email=*@shop.example' --yes
""",
)
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option(
    "--where", "conditions", metavar="FIELD=VALUE", multiple=True, help="With a field."
)
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--dry-run", is_flag=True, help="Only say which.")
@repository_option
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object: repository, reports and dead_letters (the ids), left.",
)
@click.pass_context
def command(
    ctx: click.Context,
    ids: tuple[str, ...],
    conditions: tuple[str, ...],
    yes: bool,
    dry_run: bool,
    repository: str | None,
    as_json: bool,
) -> None:
    """Erase what was chosen."""
    from oops_celery.cli.dead_letters import Failed, confirm
    from oops_celery.cli.repository import database, told
    from oops_celery.repository.erasure import Where

    if bool(ids) == bool(conditions):
        raise click.UsageError("name IDs, or --where FIELD=VALUE: one of these")
    try:
        where = [Where.parse(one) for one in conditions]
    except ValueError as error:
        raise click.UsageError(f"--where {error}") from None
    url = database(repository)
    with told():
        from oops_celery.dead_letters.letters import Letters
        from oops_celery.repository.erasure import Erasure
        from oops_celery.repository.store import Repository

        kept = Repository(url)
        with Letters(url) as letters:  # which does not make a missing file
            kept.upgrade()
            erasure = Erasure(kept)
            try:
                reports, dead = _find(erasure, letters, ids, where)
            except Failed:
                if not dry_run:
                    _wipe(erasure)
                raise
            what = f"{counted(len(reports), 'report')} and "
            what += counted(len(dead), "dead letter")
            found = {
                "repository": str(kept),
                "reports": [one for one, _ in reports],
                "dead_letters": [one.id for one in dead],
            }
            left = len(reports) + len(dead)
            wiped = True
            if not dry_run and left:
                if not yes:
                    confirm(f"Erase {what} for good?")
                _erase(erasure, letters, reports, dead)
                erased = (*found["reports"], *found["dead_letters"]) if ids else ()
                again, still = _find(erasure, letters, erased, where, again=True)
                left = len(again) + len(still)
            if not dry_run:  # an earlier one may have been ended before this
                wiped = _wipe(erasure)
    if as_json:
        click.echo(json.dumps({**found, "left": left}))
    elif dry_run:
        for one in (*found["reports"], *found["dead_letters"]):
            click.echo(one)
        click.echo(f"{kept}: {what} would be erased")
    else:
        click.echo(f"{kept}: {what} erased; {left:,} left")
    ctx.exit(1 if (left and not dry_run) or not wiped else 0)


def _find(
    erasure: Erasure,
    letters: Letters,
    ids: tuple[str, ...],
    where: list[Where],
    again: bool = False,
) -> tuple[list[tuple[str, Any]], list[Letter]]:
    """Return the reports and the dead letters that are meant.

    Args:
        erasure: Finds reports.
        letters: The dead letters.
        ids: As people paste them; `again`: those that were erased.
        where: What else is meant.
        again: Whether it was done already.
    """
    from rich.console import Console

    from oops_celery.cli.dead_letters import Failed
    from oops_celery.dead_letters.letters import Choice
    from oops_celery.repository.erasure import matches
    from oops_celery.wire.ids import clean_id

    reports: list[tuple[str, Any]] = []
    dead: list[Letter] = []
    for one in ids:
        bare = clean_id(one).removeprefix("oops-")
        stored: list[tuple[str, Any]] = []
        parked: list[Letter] = []
        for name in [one] if again else [one.strip(), f"OOPS-{bare}"]:
            stored = erasure.find(name)
            parked = [each for each in letters.find(name) if each.id == name]
            if stored or parked:  # as it was typed: another may have that name, too
                break
        else:
            if again:
                continue
            raise Failed(f"{one}: there is no such report; nothing was done")
        reports += stored
        dead += parked
    if where:
        with Console(stderr=True).status("searching") as status:
            for part in erasure.search(where):
                reports += part
                status.update(f"searching: {counted(len(reports), 'report')} so far")
            for letter, content in letters.contents(letters.choose(Choice())):
                if matches(content.body, where):
                    dead.append(letter)
    return list(dict.fromkeys(reports)), list(
        {one.number: one for one in dead}.values()
    )


def _erase(
    erasure: Erasure,
    letters: Letters,
    reports: list[tuple[str, Any]],
    dead: list[Letter],
) -> None:
    from rich.console import Console

    done = 0
    try:
        with Console(stderr=True).status("erasing") as status:
            for number in erasure.erase(reports):
                done += number
                status.update(f"erasing: {done:,} of {len(reports):,}")
            with letters.turn():
                done += len(letters.remove(dead))
    except KeyboardInterrupt:
        click.echo(f"{done:,} of them are erased; the same command goes on", err=True)
        raise


def _wipe(erasure: Erasure) -> bool:
    """Overwrite what was removed, now or before; say so if that cannot be."""
    if erasure.wipe():
        return True
    click.echo(
        "somebody reads the database: its -wal file may still have them; run this "
        "again",
        err=True,
    )
    return False
