"""``oops-celery report``: the reports of a day or more in a repository, in groups."""

from __future__ import annotations

import json
import os
from datetime import date, datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from oops_celery.cli.options import moment
from oops_celery.text import counted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from oops_celery.repository.groups import Group
    from oops_celery.repository.reader import Overview

#: Most files to name for a person.
NAMED = 10

#: Most days of a report.
MOST_DAYS = 366


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
  oops-celery report --since 2h --new
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
    type=click.IntRange(1, MOST_DAYS),
    help="The number of days, up to that of --date; by default 1, or as --since needs.",
    metavar="N",
)
@click.option(
    "--since",
    metavar="TIME",
    callback=moment,
    help="Only since this hour: 2h, 3d ago, or a time in ISO 8601 (UTC); databases.",
)
@click.option(
    "--type",
    "kind",
    metavar="GLOB",
    help="Only groups whose exception's type matches: Operational*.",
)
@click.option(
    "--topic",
    metavar="GLOB",
    help="Only groups whose topic matches; in a database that of its first report.",
)
@click.option(
    "--new",
    is_flag=True,
    help="Only groups that were first seen in this time; databases.",
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
    " each with id, type, topic, value, example_value, place, state, new, count, first,"
    " last, example, file and hours; a folder does not know all of it.",
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
    days: int | None,
    since: datetime | None,
    kind: str | None,
    topic: str | None,
    new: bool,
    limit: int,
    as_json: bool,
    page: str | None,
) -> None:
    """Read the repository, and print or write its groups."""
    from oops_celery.cli.repository import setting
    from oops_celery.settings.repository_url import is_url

    folder = repository or setting()
    if (since or new) and not is_url(folder):
        raise click.UsageError(f"--since and --new need a database; {folder} is none")
    last = (day or datetime.now(timezone.utc)).date()
    days = days or _days_of(last, since)
    by_hour = as_json or days <= 2
    overview = _read_days(folder, last, days, since, by_hour)
    overview.groups = [
        group
        for group in overview.groups
        if (kind is None or fnmatchcase(group.type, kind))
        and (topic is None or fnmatchcase(group.topic, topic))
        and (group.new or not new)
    ]
    if page is not None:
        _write_page(overview, page)
    if as_json:
        click.echo(json.dumps(as_object(overview)))
    else:
        _print(overview, limit, page)
    _name_unreadable(overview)


def _days_of(last: date, since: datetime | None) -> int:
    """Return the number of days up to the last one, by default 1."""
    if since is None:
        return 1
    days = (last - since.astimezone(timezone.utc).date()).days + 1
    if not 1 <= days <= MOST_DAYS:
        raise click.BadParameter(
            f"it must be at most {MOST_DAYS} days before the end of {last}",
            param_hint="--since",
        )
    return days


def _read_days(
    folder: str, last: date, days: int, since: datetime | None, by_hour: bool
) -> Overview:
    from oops_celery.cli.repository import reading
    from oops_celery.settings.repository_url import is_url

    if is_url(folder):
        with reading(folder) as database:
            return database.overview(last, days, since, by_hour)
    from rich.console import Console
    from rich.progress import Progress

    from oops_celery.cli.broker import CannotTell
    from oops_celery.repository.reader import (
        Overview,
        files,
        latest_day,
        read_reports,
    )

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
        "id": group.id,
        "type": group.type,
        "topic": group.topic,
        "value": group.value,
        "example_value": group.example_value,
        "place": group.place,
        "state": group.state or None,
        "new": group.new,
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
    from oops_celery.web.export import export

    try:
        Path(file).write_text(export(overview), encoding="utf-8")
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
