"""``oops-celery report``: the reports of a day or more in a repository, in groups."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from oops_celery.text import counted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from oops_celery.repository.groups import Group
    from oops_celery.repository.reader import Overview

#: Most files to name for a person.
NAMED = 10


@click.command(
    "report",
    short_help="Show today's reports, by kind of error.",
    help="""Show today's reports in a REPOSITORY, in groups.

    A group has one type of exception, one topic, and values that differ only in
    numbers, ids, addresses and quoted texts. It is shown with the number of its
    reports, the times of the first and the last, and the id of the last. Days and times
    are UTC.

    REPOSITORY is the URL of a database, or a folder of reports, a worker's or
    oops-datedir-repo's; by default OOPS_REPOSITORY. A database groups otherwise: by the
    exception's type and the innermost function of the application's own code, whatever
    topic and value. A file that is not a report is named on standard error.

    In a pipe each group is one line, with tabs: count, first, last, type, topic, value,
    id.

    The exit code is 0 when the repository was read, whatever is in it; 2 when it or the
    settings cannot be read, the page cannot be written, or the command is not used as
    described here.
    """,
    epilog="""\b
Examples:
  oops-celery report
  oops-celery report --days 7 --html week.html
  oops-celery report --json /srv/oopses | jq .groups[0]
  oops-celery report sqlite:////srv/oopses.db
""",
)
@click.argument("repository", required=False)
@click.option(
    "--date",
    "day",
    type=click.DateTime(["%Y-%m-%d"]),
    help="The day; by default today.",
    metavar="YYYY-MM-DD",
)
@click.option(
    "--days",
    type=click.IntRange(1, 366),
    default=1,
    help="The number of days, up to that of --date.",
    metavar="N",
)
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    help="Groups to show on a terminal; 0 means all.",
    metavar="N",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object: repository, from, to, reports, unreadable, and groups,"
    " each with type, topic, value, count, first, last, example, file and hours.",
)
@click.option(
    "--html",
    "page",
    type=click.Path(),
    help="Write a page with a chart to FILE, which needs no other file.",
    metavar="FILE",
)
def command(
    repository: str | None,
    day: datetime | None,
    days: int,
    limit: int,
    as_json: bool,
    page: str | None,
) -> None:
    """Read the repository, and print or write its groups."""
    from oops_celery.cli.repository import setting

    folder = repository or setting()
    last = (day or datetime.now(timezone.utc)).date()
    overview = _read_days(folder, last, days)
    if page is not None:
        _write_page(overview, page)
    if as_json:
        click.echo(json.dumps(as_object(overview)))
    else:
        _print(overview, limit, page)
    _name_unreadable(overview)


def _read_days(folder: str, last: Any, days: int) -> Overview:
    from rich.console import Console
    from rich.progress import Progress

    from oops_celery.cli.broker import CannotTell
    from oops_celery.cli.repository import reading
    from oops_celery.repository.reader import (
        Overview,
        files,
        latest_day,
        read_reports,
    )
    from oops_celery.settings.repository_url import is_url

    if is_url(folder):
        with reading(folder) as database:
            return database.overview(last, days)
    overview = Overview(folder, last, days)
    console = Console(stderr=True)
    try:
        names = files(folder, last, days)
        with Progress(
            console=console, transient=True, disable=not console.is_terminal
        ) as progress:
            reports = progress.track(names, description="Reading reports")
            overview.add(read_reports(folder, reports))
        overview.latest = latest_day(folder)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CannotTell(
            f"{folder} cannot be read: {reason}; name the folder of the repository, or "
            "set OOPS_REPOSITORY"
        ) from None
    return overview


def as_object(overview: Overview) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    return {
        "repository": overview.folder,
        "from": overview.first.isoformat(),
        "to": overview.last.isoformat(),
        "reports": overview.reports,
        "unreadable": [one._asdict() for one in overview.unreadable],
        "groups": [_group_object(group) for group in overview.groups],
    }


def _group_object(group: Group) -> dict[str, Any]:
    from oops_celery.repository.groups import hour_start

    return {
        "type": group.type,
        "topic": group.topic,
        "value": group.value,
        "count": group.count,
        "first": _iso(group.first),
        "last": _iso(group.last),
        "example": group.example,
        "file": group.file,
        "hours": {
            _iso(hour_start(hour)): count for hour, count in sorted(group.hours.items())
        },
    }


def _iso(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _write_page(overview: Overview, file: str) -> None:
    from oops_celery.cli.broker import CannotTell
    from oops_celery.cli.views.page import page

    try:
        Path(file).write_text(page(overview), encoding="utf-8")
    except OSError as error:
        raise CannotTell(
            f"{file} cannot be written: {error.strerror or error}"
        ) from None


def _print(overview: Overview, limit: int, page: str | None) -> None:
    from rich.console import Console

    from oops_celery.cli.console import say

    console = Console(highlight=False)
    if page is not None:
        say(console, f"{page}: {_headline(overview)}")
        return
    if not (console.is_terminal or os.environ.get("COLUMNS")):
        for group in overview.groups:
            _print_line(console, group)
        return
    say(console, _headline(overview))
    if not overview.groups:
        _hint_at_another_day(console, overview)
        return
    shown = overview.groups[: limit or None]
    console.print(_table(overview, shown, console))
    left_out = len(overview.groups) - len(shown)
    if left_out:
        say(console, f"{counted(left_out, 'more group')}: --limit 0 shows all")


def _headline(overview: Overview) -> str:
    found = counted(overview.reports, "report")
    groups = f" in {counted(len(overview.groups), 'group')}" if overview.groups else ""
    return f"{overview.period()} (UTC), {overview.folder}: {found}{groups}"


def _hint_at_another_day(console: Console, overview: Overview) -> None:
    from oops_celery.cli.console import say

    if overview.latest is None:
        say(console, "There is no report of any day in it.")
    elif overview.latest != overview.last.isoformat():
        say(console, f"The last day there: --date {overview.latest}")


def _print_line(console: Console, group: Group) -> None:
    from oops_celery.cli.console import escaped

    texts = (group.type, group.topic, group.value, group.example)
    line = [str(group.count), _iso(group.first), _iso(group.last), *texts]
    click.echo("\t".join(escaped(part, console.encoding) for part in line))


def _table(overview: Overview, groups: list[Group], console: Console) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from oops_celery.cli.console import escaped

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("Count", justify="right", no_wrap=True)
    table.add_column("First, last", no_wrap=True)
    table.add_column("What", overflow="fold", ratio=1)
    form = "%H:%M:%S" if overview.days == 1 else "%m-%d %H:%M"
    for group in groups:
        what = Text(escaped(group.type or "(no type)", console.encoding), "bold red")
        if group.topic:
            what.append(f" in {escaped(group.topic, console.encoding)}", "not bold")
        if group.value:
            what.append(f"\n{escaped(group.value, console.encoding)}", "default")
        what.append(f"\n{escaped(group.example, console.encoding)}\n", "dim")
        times = f"{group.first.strftime(form)}\n{group.last.strftime(form)}"
        table.add_row(f"{group.count:,}", times, what)
    return table


def _name_unreadable(overview: Overview) -> None:
    from rich.console import Console

    from oops_celery.cli.console import say

    if not overview.unreadable:
        return
    console = Console(stderr=True, highlight=False)
    count = len(overview.unreadable)
    say(console, f": {counted(count, 'file')} cannot be read:", "warning", "yellow")
    for one in overview.unreadable[:NAMED]:
        say(console, f"  {one.file}: {one.reason}")
    if count > NAMED:
        say(console, f"  and {count - NAMED} more: --json names all")
