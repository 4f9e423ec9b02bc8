"""``oops-celery topology``: show, draw, compare and declare the topology."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from oops_celery.cli import Group
from oops_celery.cli.broker import (
    CannotTell,
    broker_name,
    connected,
    file_option,
    loaded,
    management,
    management_option,
)

if TYPE_CHECKING:
    from oops_celery.celery import App
    from oops_celery.topology.compare import Difference
    from oops_celery.topology.declare import Refusal
    from oops_celery.topology.graph import Flow
    from oops_celery.topology.model import Topology

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object, for jq."
)


def _refuse_svg(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    """End with the way out if the option of an earlier version is given."""
    if value is not None:
        raise click.UsageError(
            "--svg is gone: Graphviz draws what --dot prints:"
            f" {ctx.command_path} --dot | dot -Tsvg > topology.svg",
            ctx,
        )


@click.group(
    cls=Group,
    name="topology",
    short_help="Show, compare and declare exchanges and queues.",
    help="Look at the exchanges and queues of a topology file, compare them with the"
    " broker, and declare them there.",
    epilog="""\b
Examples:
  oops-celery topology show
  oops-celery topology diff --file topology.yml
  oops-celery topology graph --dot | dot -Tsvg > t.svg
""",
)
def command() -> None:
    """Read the options that all of them share: none so far."""


@command.command(
    "show",
    short_help="Show what a topology file declares.",
    help="""Show what a topology file declares, as tables and a tree: exchanges, queues,
    consumers, and how messages flow. No broker is needed.

    The exit code is 0; 2 when the file cannot be used.
    """,
    epilog="""\b
Examples:
  oops-celery topology show
  oops-celery topology show --json | jq '.queues[].name'
""",
)
@file_option
@json_option
def show(file: str | None, as_json: bool) -> None:
    """Show the topology."""
    topology = loaded(_app(), file)
    if as_json:
        from oops_celery.cli.views.topology import described

        click.echo(json.dumps(described(topology)))
        return
    from oops_celery.cli.views.topology import print_topology

    print_topology(topology, _flow(topology))


@command.command(
    "graph",
    short_help="Draw how messages flow, and where dead letters go.",
    help="""Draw how messages flow through a topology, and where dead letters go: as
    Mermaid text, which GitHub and GitLab draw in Markdown, or as DOT text, which
    Graphviz draws. No broker is needed.

    The exit code is 0; 2 when the file cannot be used.
    """,
    epilog="""\b
Examples:
  oops-celery topology graph > topology.mmd
  oops-celery topology graph --dot | dot -Tsvg > t.svg
""",
)
@file_option
@click.option("--dot", "as_dot", is_flag=True, help="Print DOT text, for Graphviz.")
@click.option(
    "--svg",
    is_flag=False,
    flag_value="",
    hidden=True,
    is_eager=True,
    expose_value=False,
    callback=_refuse_svg,
)
def graph(file: str | None, as_dot: bool) -> None:
    """Draw the topology."""
    from oops_celery.topology.dot import dot
    from oops_celery.topology.mermaid import mermaid

    drawn = _flow(loaded(_app(), file))
    click.echo((dot if as_dot else mermaid)(drawn), nl=False)


@command.command(
    "diff",
    short_help="Compare a topology file with the broker.",
    help="""Show the differences between a topology file and the broker: missing things,
    and different arguments with both values. Nothing is declared, changed or taken.

    Bindings are compared with --management-url: AMQP cannot list them. A queue's
    binding that the file lacks is a difference too.

    The exit code is 0 when nothing differs; 1 when something does; 2 when they cannot
    be compared, for example without a broker.
    """,
    epilog="""\b
Examples:
  oops-celery topology diff
  oops-celery topology diff --json | jq '.differences[]'
  oops-celery topology diff --file topology.yml
""",
)
@file_option
@management_option
@json_option
@click.pass_context
def diff(
    ctx: click.Context, file: str | None, management_url: str | None, as_json: bool
) -> None:
    """Compare the topology with the broker."""
    from oops_celery.errors import ManagementError
    from oops_celery.topology.compare import compare

    app = _app()
    topology = loaded(app, file)
    api = management(management_url, app) if management_url else None
    try:
        with connected(app) as link:
            found = compare(
                topology, link.connection.channel, api.bindings_of if api else None
            )
    except ManagementError as error:
        raise CannotTell(f"management API: {error}") from None
    (_print_diff_json if as_json else _print_diff)(
        app, topology, found, api is not None
    )
    if any(each.what != "unknown" for each in found):
        ctx.exit(1)
    ctx.exit(2 if found else 0)


@command.command(
    "declare",
    short_help="Declare the exchanges and queues of a topology file.",
    help="""Declare the exchanges, queues and bindings of a topology file, as a worker
    does when it starts, and say what the broker refused. Nothing that exists is
    changed or deleted.

    The exit code is 0 when everything is there; 1 when the broker refused some of it;
    2 when it cannot be reached, or the file cannot be used.
    """,
    epilog="""\b
Example:
  oops-celery topology declare --file topology.yml
""",
)
@file_option
@json_option
@click.pass_context
def declare(ctx: click.Context, file: str | None, as_json: bool) -> None:
    """Declare the topology."""
    app = _app()
    topology = loaded(app, file)
    with connected(app) as link:
        refusals = topology.declare(link.connection.channel)
    (_print_declared_json if as_json else _print_declared)(app, topology, refusals)
    ctx.exit(1 if refusals else 0)


def _app() -> App:
    from oops_celery.celery import app

    return app


def _flow(topology: Topology) -> Flow:
    from oops_celery.cli.broker import telling_why
    from oops_celery.topology.graph import flow

    with telling_why():
        settings = _app().oops
    return flow(topology, settings.exchange, settings.queue)


def _print_diff_json(
    app: App, topology: Topology, found: list[Difference], bindings: bool
) -> None:
    _echo_json(
        app,
        topology,
        in_step=not found,
        bindings_compared=bindings,
        differences=[vars(each) for each in found],
    )


def _print_diff(
    app: App, topology: Topology, found: list[Difference], bindings: bool
) -> None:
    from rich.console import Console

    from oops_celery.cli.console import say

    console = Console()
    styles = {"missing": "red", "different": "red", "extra": "yellow"}
    for each in found:
        say(console, f": {each}", each.what, styles.get(each.what, "magenta"))
    unknown = sum(each.what == "unknown" for each in found)
    counts = {"different or missing": len(found) - unknown, "not comparable": unknown}
    said = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    say(console, f"{topology.source} and {broker_name(app)}: {said or 'in step'}")
    if not bindings:
        say(console, "Bindings were not compared: --management-url says where to ask.")


def _print_declared_json(app: App, topology: Topology, refusals: list[Refusal]) -> None:
    refused = [
        {"kind": r.kind, "name": r.name, "code": r.code, "text": str(r)}
        for r in refusals
    ]
    _echo_json(app, topology, ok=not refused, refusals=refused)


def _print_declared(app: App, topology: Topology, refusals: list[Refusal]) -> None:
    from rich.console import Console

    from oops_celery.cli.console import say

    console = Console()
    for refusal in refusals:
        say(console, str(refusal), "refused: ", "red")
    counts = ", ".join(
        f"{count} {noun}{'' if count == 1 else 's'}"
        for count, noun in (
            (len(topology.exchanges), "exchange"),
            (len(topology.queues), "queue"),
            (sum(len(queue.bindings) for queue in topology.queues), "binding"),
        )
    )
    refused = f"; {len(refusals)} refused" if refusals else ""
    say(console, f"{topology.source} on {broker_name(app)}: {counts}{refused}")


def _echo_json(app: App, topology: Topology, **more: Any) -> None:
    click.echo(
        json.dumps({"file": topology.source, "broker": broker_name(app), **more})
    )
