"""``oops-celery doctor``: check whether reports would arrive, and say why not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from oops_celery.cli.broker import (
    BROKER_TIMEOUT,
    broker_name,
    file_option,
    loaded,
    management,
    management_option,
    telling_why,
)

if TYPE_CHECKING:
    from oops_celery.operations.finding import Finding


@click.command(
    "doctor",
    short_help="Say what keeps reports from arriving.",
    help="""Check everything that a report needs on its way: the broker, its exchanges
    and queues, this user's permissions, workers, reports that wait for a retry, dead
    letters, the BSON library, and the repository. Nothing is published, taken or
    declared.

    Run it on a worker's machine, as its user and in its folder. It imports the module
    of OOPS_CONFIG, whose code runs. With --management-url, the clock is
    compared with the broker's.

    The exit code is 0 when nothing wrong was found; 1 when something is
    wrong; 2 when the settings or the topology file cannot be used.
    """,
    epilog="""\b
Examples:
  oops-celery doctor
  oops-celery doctor --json |
    jq -r '.checks[] | select(.state == "wrong") | .text'
""",
)
@file_option
@management_option
@click.option(
    "--no-ping",
    is_flag=True,
    help="Don't ask the workers: reports are taken by programs of another kind.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for jq.")
@click.pass_context
def command(
    ctx: click.Context,
    file: str | None,
    management_url: str | None,
    no_ping: bool,
    as_json: bool,
) -> None:
    """Check everything, and exit with a code for the result."""
    from oops_celery.celery import app
    from oops_celery.cli.console import others_on_stderr
    from oops_celery.operations.doctor import (
        examine_broker,
        examine_clock,
        examine_here,
    )

    with telling_why():
        settings = app.oops
    topology = loaded(app, file)
    name = broker_name(app)
    api = management(management_url, app) if management_url else None
    found = list(examine_broker(app, topology, name, BROKER_TIMEOUT, ping=not no_ping))
    if api is not None:
        found.append(examine_clock(api))
    with others_on_stderr():
        found += examine_here(settings)
    (_print_json if as_json else _print)(name, found)
    ctx.exit(1 if any(each.state == "wrong" for each in found) else 0)


def _print_json(broker: str, found: list[Finding]) -> None:
    ok = not any(each.state == "wrong" for each in found)
    checks = [vars(each) for each in found]
    click.echo(json.dumps({"ok": ok, "broker": broker, "checks": checks}))


def _print(_: str, found: list[Finding]) -> None:
    from rich.console import Console

    from oops_celery.cli.console import say

    console = Console()
    styles = {"ok": "green", "wrong": "bold red", "unknown": "yellow"}
    for each in found:
        fix = f"; {each.fix}" if each.fix else ""
        label = f"{each.state:<7} "
        say(console, f"{each.check}: {each.text}{fix}", label, styles[each.state])
