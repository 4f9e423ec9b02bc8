"""``oops-celery repository``: look after the database of the reports."""

from __future__ import annotations

import json

import click

from oops_celery.cli import Group
from oops_celery.cli.options import repository_option


@click.group(
    "repository",
    cls=Group,
    short_help="Look after the database of the reports.",
    help="""Look after the database of the reports, which OOPS_REPOSITORY names:
    sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE.
    """,
    epilog="""\b
Example:
  oops-celery repository upgrade
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
