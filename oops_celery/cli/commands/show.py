"""``oops-celery show``: find a report by its id, stored or dead, and show it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from oops_celery.dead_letters.search import Found, Search

#: Most candidates to name.
NAMED = 20


@click.command(
    "show",
    short_help="Show a report by its id, stored or dead.",
    help="""Show the report with an ID.

    This searches the repository (OOPS_REPOSITORY): the reports, and the dead letters. A
    part of the id is enough if no other report has it, and so is a URL that ends in it,
    or the start of a file's name in a folder.

    No broker is needed. If there is no such report, a broker tells where it may be:
    how many wait in each queue. None is looked at, which RabbitMQ would count as a
    failed delivery.

    The exit code is 0 when the report is shown; 1 when there is none, or more than one,
    and then they are named; 2 when the repository or the settings cannot be used, or
    the command is not used as described here; 130 after Ctrl-C.
    """,
    epilog="""\b
Examples:
  oops-celery show OOPS-68c5cd8feec37c1e2d9e2a8d9d2a5f3c
  oops-celery show 68c5cd
  oops-celery show --json 68c5cd | jq .req_vars
  oops-celery show --raw 68c5cd > report.bson
""",
)
@click.argument("part", metavar="ID")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the whole report as JSON: times in ISO 8601, bytes as text.",
)
@click.option("--raw", is_flag=True, help="Print the report's BSON, not to a terminal.")
@click.pass_context
def command(ctx: click.Context, part: str, as_json: bool, raw: bool) -> None:
    """Find a report and show it."""
    check_usage(as_json, raw)
    from oops_celery.errors import NoMatch
    from oops_celery.wire.ids import clean_id, resolve

    if not clean_id(part):
        raise click.UsageError("ID is empty")
    search = _search(part)
    _tell_trouble(search)
    by_id = search.by_id
    try:
        found = _only(by_id) or by_id[resolve(part, by_id)]
    except NoMatch:
        _tell_candidates(part, search)
        ctx.exit(1 if search.looked_at else 2)
    ctx.exit(show_found(found, as_json, raw))


def _only(by_id: dict[str, list[Found]]) -> list[Found] | None:
    """Return the reports with the only id: one may match by its file's name alone."""
    return next(iter(by_id.values())) if len(by_id) == 1 else None


def check_usage(as_json: bool, raw: bool) -> None:
    """Refuse useless combinations of options before any work."""
    if as_json and raw:
        raise click.UsageError("--json and --raw exclude each other")
    if raw and sys.stdout.isatty():
        raise click.UsageError("--raw is not for a terminal: add > report.bson")


def show_found(found: list[Found], as_json: bool, raw: bool) -> int:
    """Show what was found for one id; return the exit code."""
    from rich.console import Console

    from oops_celery import wire
    from oops_celery.cli.views import report as details
    from oops_celery.wire.as_json import as_json as json_of

    # Reports first: another message may have the same id.
    found = sorted(found, key=lambda one: not one.is_report)
    if raw:
        click.echo(found[0].body, nl=False)
        return 0
    if not as_json:
        details.print_reports(Console(), found)
        return 0
    try:
        report = found[0].report()
    except wire.Undecodable as error:
        say_error(f"{found[0].id}: {error}")
        return 1
    click.echo(json_of(report))
    return 0


@contextmanager
def news(what: str) -> Iterator[Callable[[str], None]]:
    """Show the progress of a search on a terminal."""
    from rich.console import Console
    from rich.text import Text

    from oops_celery.cli.console import escaped

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(Text(what)) as status:

        def tell(text: str) -> None:
            status.update(Text(f"{what}: {escaped(text, console.encoding)}"))

        yield tell


def say_error(text: str) -> None:
    """Print a line to standard error."""
    from oops_celery.cli.console import say

    say(_stderr(), text)


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _search(part: str) -> Search:
    from oops_celery.cli.repository import setting
    from oops_celery.dead_letters.search import Search

    place = setting()
    with news("searching") as tell:
        return Search(place, part, tell).run()


def _tell_trouble(search: Search) -> None:
    for trouble in search.not_looked_at:
        say_error(trouble)


def _tell_candidates(part: str, search: Search) -> None:
    from oops_celery.cli.views.report import candidate

    by_id = search.by_id
    if not by_id:
        if search.looked_at:
            say_error(f"{part}: no such report in {', '.join(search.looked_at)}")
        _tell_waiting()
        return
    say_error(f"{part}: {len(by_id)} reports have it in their ids:")
    for found in list(by_id.values())[:NAMED]:
        say_error(f"{candidate(found[0])}  {found[0].path}")
    if len(by_id) > NAMED:
        say_error(f"... and {len(by_id) - NAMED} more")


def _tell_waiting() -> None:
    """Say where the report may be."""
    from oops_celery.celery import app
    from oops_celery.cli.broker import BROKER_TIMEOUT
    from oops_celery.errors import Unavailable
    from oops_celery.operations.depths import ask, report_queues

    queues = report_queues(app.topology, app.oops.queue)
    try:
        found = [one for one in ask(app, queues, BROKER_TIMEOUT) if one.messages]
    except Unavailable as error:
        say_error(f"it may wait in a queue, which cannot be asked: {error}")
        return
    for one in found:
        say_error(
            f"it may be one of {one.messages:,} in queue {one.queue}, since when is "
            "unknown"
        )
    if not found:
        say_error("no report waits in a queue; its program may still have it")
