"""``oops-celery metrics``: metrics of the queues, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from oops_celery.cli.broker import (
    BROKER_TIMEOUT,
    CannotTell,
    broker_name,
    file_option,
    loaded,
    telling_why,
)

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

#: The port in docs/monitoring.md.
DEFAULT_PORT = 9540


@click.command(
    "metrics",
    short_help="Serve metrics of the queues to Prometheus.",
    help="""Serve metrics of the queues to Prometheus until Ctrl-C: messages and
    consumers of each queue, dead letters, and how long a queue has not been empty.
    Flower serves the metrics of tasks and workers. Nothing is taken from a queue.

    The exit code is 2 when it cannot serve; 130 after Ctrl-C. With --once it is 0 when
    the broker answers, else 2.
    """,
    epilog="""\b
Examples:
  oops-celery metrics --port 9540 --address 0.0.0.0
  oops-celery metrics --once | grep dead_letters
""",
)
@file_option
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="The port; 0 takes a free one.",
)
@click.option(
    "--address",
    default="127.0.0.1",
    show_default=True,
    help="The interface; 0.0.0.0 means all. There is no password.",
)
@click.option("--once", is_flag=True, help="Print the metrics once and exit.")
@click.pass_context
def command(
    ctx: click.Context, file: str | None, port: int, address: str, once: bool
) -> None:
    """Serve the metrics, or print them."""
    registry = _registry(file)
    if not once:
        _serve(registry, port, address)
        return
    from prometheus_client import generate_latest

    from oops_celery.cli.console import escaped

    lines = generate_latest(registry).decode().split("\n")
    click.echo("\n".join(map(escaped, lines)), nl=False)
    ctx.exit(0 if "oops_celery_broker_up 1.0" in lines else 2)


def _registry(file: str | None) -> CollectorRegistry:
    try:
        from prometheus_client import CollectorRegistry
    except ImportError:
        raise CannotTell(
            "this needs prometheus-client: pip install 'celery-oops[worker]'"
        ) from None

    from oops_celery.celery import app
    from oops_celery.operations.metrics import QueueCollector

    with telling_why():
        app.oops  # noqa: B018 - the settings are read, and checked
    topology = loaded(app, file)
    broker_name(app)
    registry = CollectorRegistry()
    registry.register(QueueCollector(app, topology, BROKER_TIMEOUT))
    return registry


def _serve(registry: CollectorRegistry, port: int, address: str) -> None:
    from prometheus_client import start_http_server

    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as error:
        why = error.strerror or error
        raise CannotTell(f"cannot serve on {address} port {port}: {why}") from None
    shown = f"[{address}]" if ":" in address else address
    url = f"http://{shown}:{server.server_port}/metrics"
    click.echo(f"Metrics are on {url}; Ctrl-C ends it.")
    thread.join()
