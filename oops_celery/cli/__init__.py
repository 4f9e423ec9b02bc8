"""The command ``oops-celery``, with a module for each of its commands.

`COMMANDS` has the names; each module in ``commands/`` has a click command named
``command``. A module is imported when its command is used, and imports pydantic, Celery
and rich when it runs. So ``--help`` is quick, and so are Celery's commands, which
import this package to find ``celery -A oops_celery oops``.
"""

from __future__ import annotations

import logging
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click

import oops_celery
from oops_celery import logs
from oops_celery.cli.exits import EXIT_CODES, INTERRUPTED, well_ended

#: The names of the modules in ``commands/``, with ``-`` for ``_``.
COMMANDS = (
    "dead",
    "doctor",
    "erase",
    "export",
    "flower",
    "import",
    "metrics",
    "prune",
    "report",
    "repository",
    "resubmit",
    "schema",
    "show",
    "topology",
    "trace",
    "validate",
    "web",
)


class Group(click.Group):
    """A group that suggests the command that a misspelt one may mean."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments begin with."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            known = self.list_commands(ctx)
            close = get_close_matches(args[0].lower(), known, n=1, cutoff=0.5)
            if not close:
                raise
            raise click.UsageError(
                f"No such command {args[0]!r}. Did you mean {close[0]!r}?", ctx
            ) from None


class _Commands(Group):
    """A group that imports a command when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands' names."""
        return sorted({*super().list_commands(ctx), *COMMANDS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, or None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module = import_module(f"{__name__}.commands.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run as a program."""
        with well_ended():
            return super().main(*args, **kwargs)

    # Celery's program, which has this command too, calls these two; and in `main` click
    # would exit with 1 when the reader of a pipe has gone.

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the arguments, or show the help."""
        with well_ended():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> None:
        """Run a command; Ctrl-C ends it with its own exit code.

        Unusable settings and missing packages are one-line errors.
        """
        with well_ended():
            try:
                super().invoke(ctx)
            except click.ClickException as error:
                if type(error) is not click.ClickException:
                    raise
                from oops_celery.cli.broker import CannotTell

                # The app's error about settings or the file; a worker exits with 1.
                raise CannotTell(error.message) from None
            except ImportError as error:
                from oops_celery.cli.broker import CannotTell
                from oops_celery.settings.requirements import missing

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
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Look after reports, dead letters, queues and consumers of oops-celery.",
    epilog="""\b
Example:
  oops-celery validate topology.yml

\b
Each command is also one of Celery's:
  celery -A oops_celery oops validate topology.yml

"""
    + EXIT_CODES,
)
@click.version_option(oops_celery.__version__, prog_name="oops-celery")
def main() -> None:
    """Escape what is logged: ids and exceptions may contain user input."""
    handler = logging.StreamHandler()
    handler.addFilter(logs.escape)
    logging.basicConfig(handlers=[handler], format="%(message)s", level="WARNING")
