"""``oops-celery validate``: check a topology file."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from oops_celery.text import counted

if TYPE_CHECKING:
    from oops_celery.topology.model import Problem


@click.command(
    "validate",
    short_help="Check a topology file.",
    help="""Report every mistake in a topology FILE at once.

    It imports the startup handler and the consumers from the current folder or from
    PYTHONPATH, so the code of their modules runs. Their output goes to standard error.
    No broker is needed.

    The exit code is 0 when a worker can use the file, also with warnings; 1 when it
    cannot; 2 when the command is not used as described here.
    """,
    epilog="""\b
Examples:
  oops-celery validate topology.yml
  oops-celery validate --json topology.yml | jq .problems
""",
)
@click.argument("file", type=click.Path())
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object: file, ok, and problems, each with path, line, text and"
    " fatal.",
)
@click.pass_context
def command(ctx: click.Context, file: str, as_json: bool) -> None:
    """Check a file, and exit with a code for the result."""
    problems = find_problems(file)
    (_print_json if as_json else _print)(file, problems)
    ctx.exit(1 if any(problem.fatal for problem in problems) else 0)


def find_problems(file: str) -> list[Problem]:
    """Return all problems of a topology file, in the order of lines.

    It imports the Python objects that the file names.
    """
    from oops_celery.cli.console import others_on_stderr
    from oops_celery.errors import TopologyError
    from oops_celery.topology.imports import check_imports
    from oops_celery.topology.model import Problem, Topology
    from oops_celery.topology.problems import read_file

    try:
        # Read once: a pipe, as in `validate <(...)`, gives its content only once.
        text = read_file(file)
    except (OSError, ValueError) as error:  # ValueError: it is too long
        why = getattr(error, "strerror", None) or error
        return [Problem("", None, f"cannot be read: {why}")]
    try:
        found = Topology.parse(text, file).warnings
    except TopologyError as error:
        found = error.problems
    with others_on_stderr():
        imports = check_imports(text)
    return sorted([*found, *imports], key=lambda problem: problem.line or 0)


def _print_json(file: str, problems: list[Problem]) -> None:
    ok = not any(problem.fatal for problem in problems)
    found = [asdict(problem) for problem in problems]
    click.echo(json.dumps({"file": file, "ok": ok, "problems": found}))


def _print(file: str, problems: list[Problem]) -> None:
    from rich.console import Console

    from oops_celery.cli.console import say

    console = Console()
    for problem in problems:
        label, style = ("mistake", "red") if problem.fatal else ("warning", "yellow")
        say(console, f": {problem}", label, style)
    mistakes = sum(problem.fatal for problem in problems)
    counts = [counted(mistakes, "mistake")]
    if mistakes < len(problems):
        counts.append(counted(len(problems) - mistakes, "warning"))
    say(console, f"{file}: {', '.join(counts)}")
