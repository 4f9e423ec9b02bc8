"""``oops-celery flower``: Flower, configured for reports."""

from __future__ import annotations

import sys

import click

from oops_celery.cli.broker import CannotTell, telling_why

#: TCP's highest port.
MAX_PORT = 65535


@click.command(
    "flower",
    short_help="Watch reports, workers and queues in a browser.",
    help="""Run Flower for the reports; ARGUMENTS are Flower's own.

    It is `celery -A oops_celery flower`: both read flowerconfig.py in the current
    folder if there is one, else that of oops-celery, which shows the outcome of each
    report in words. `--conf=FILE` names another file.

    The exit code is 0 after Ctrl-C; 2 when it cannot serve, the settings or the
    topology file cannot be used, or the command is not used as described here.
    """,
    epilog="""\b
Examples:
  oops-celery flower
  oops-celery flower --port=5556 --basic_auth=user:password
  RABBITMQ_URL=amqp://host/ oops-celery flower --persistent
""",
    context_settings={"ignore_unknown_options": True},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Run Flower as Celery's program does."""
    try:
        import flower.options  # noqa: F401 - defines them
    except ImportError:
        raise CannotTell(
            "this needs Flower: pip install 'celery-oops[worker]'"
        ) from None
    from celery.bin.celery import celery

    from oops_celery import settings
    from oops_celery.topology.model import Topology

    with telling_why():  # not by the app, which celery must import first
        own = settings.load()
        settings.broker(own.celery)
        Topology.load(own.topology)
    from tornado.options import options

    for argument in arguments:
        name = argument.lstrip("-").partition("=")[0]
        if not argument.startswith("-"):
            raise click.UsageError(f"{argument!r}: write --option=value", ctx)
        if name.replace("-", "_") not in options:  # Flower would ignore it
            known = [f"--{each}" for each in options]
            raise click.NoSuchOption(f"--{name}", possibilities=known, ctx=ctx)
        try:
            options.parse_command_line(["flower", argument], final=False)
        except Exception as error:
            raise click.UsageError(f"{argument!r}: {error}", ctx) from None
    if not 0 <= options.port <= MAX_PORT:
        raise click.UsageError(f"--port must be from 0 to {MAX_PORT}", ctx)
    try:
        sys.argv = ["celery", "-A", "oops_celery", "flower", *arguments]
        celery.main(sys.argv[1:], prog_name="celery", auto_envvar_prefix="CELERY")
    except OSError as error:  # a port in use, a missing file
        why = error.strerror or str(error)
        where = f"{error.filename}: " if error.filename else ""
        raise CannotTell(f"Flower cannot serve: {where}{why}") from None
    except Exception as error:  # not a number; its settings file is a program
        raise CannotTell(f"Flower: {type(error).__name__}: {error}") from None
