"""The commands, one module a command.

`COMMANDS` has the names; each module has a click command named ``command``. It is
imported when it is asked for, and imports pydantic, Celery and rich when it runs: so
``--help`` is quick, and so is every command of Celery's, which imports this package to
find ``celery -A oops_celery oops``.
"""

from __future__ import annotations

import logging
from importlib import import_module

import click

import oops_celery
from oops_celery import logs

#: The commands there are: the names of the modules here, with ``-`` for ``_``.
COMMANDS = (
    "dead",
    "doctor",
    "metrics",
    "report",
    "resubmit",
    "schema",
    "show",
    "topology",
    "trace",
    "validate",
)

#: The exit code after Ctrl-C, as shells have it: 128 and the number of SIGINT.
INTERRUPTED = 130


class _Commands(click.Group):
    """A group that imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands' names."""
        return sorted({*super().list_commands(ctx), *COMMANDS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, or None where there is none of that name."""
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module = import_module(f"{__name__}.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> None:
        """Run a command; Ctrl-C ends it with an exit code of its own.

        Packages that are missing are a line.
        """
        try:
            super().invoke(ctx)
        except ImportError as error:
            from oops_celery.cli.asking import CannotTell
            from oops_celery.requirements import missing

            told = missing(error, f"oops-celery {ctx.invoked_subcommand}")
            if told is None:
                raise
            raise CannotTell(str(told)) from None
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)


@click.group(
    "oops",  # what Celery calls it
    cls=_Commands,
    help="Look after the exchanges, queues and consumers of oops-celery.",
    epilog="""\b
Example:
  oops-celery validate topology.yml

\b
Each command is also one of Celery's:
  celery -A oops_celery oops validate topology.yml
""",
)
@click.version_option(oops_celery.__version__, prog_name="oops-celery")
def main() -> None:
    """Escape what is logged: ids and exceptions may hold what strangers typed."""
    handler = logging.StreamHandler()
    handler.addFilter(logs.escape)
    logging.basicConfig(handlers=[handler], format="%(message)s", level="WARNING")
