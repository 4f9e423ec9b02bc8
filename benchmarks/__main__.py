"""`make bench`: the command."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks.bench import Bench
from benchmarks.dispatching import OURS, Contender, Run, run
from benchmarks.reports import SIZES

#: Reports of each size that are published, and received, in a round.
PUBLISHED = {"3 KB": 2000, "32 KB": 500, "256 KB": 100}
RECEIVED = {"3 KB": 10_000, "32 KB": 3_000}

Row = tuple[str, str, float, str]


def publishing(bench: Bench, rounds: int) -> list[Row]:
    """Publish one by one, and many."""
    rows: list[Row] = []
    contenders = (
        *("oops_amqp", "ours_unconfirmed", "bare_unconfirmed"),
        *("ours", "bare", "bare_encoded"),
    )
    for size in SIZES:
        count = bench.count(PUBLISHED[size])
        found = bench.publishing(contenders, size, count, rounds)
        rows += [(name, size, found[name] * 1e6, "µs") for name in contenders]
        rows += [
            ratio(size, "oops_amqp / ours_unconfirmed", found),
            ratio(size, "ours / bare", found),
            ratio(size, "ours / bare_encoded", found),
            ratio(size, "oops_amqp / ours", found),
        ]
    many = bench.count(10_000)
    found = bench.publishing(("ours_many", "bare_many"), "3 KB", many, rounds)
    rows += [(name, "3 KB", 1 / found[name], "/s") for name in found]
    return [*rows, ratio("3 KB", "bare_many / ours_many", found)]


def first_report(bench: Bench, rounds: int) -> list[Row]:
    """The first report of a process, which the failing request waits for."""
    names = ("oops_amqp_first", "ours_first", "bare_first")
    seconds = bench.publishing(names, "3 KB", 1, max(2 * rounds, 2))
    return [
        *((name, "3 KB", value * 1e3, "ms") for name, value in seconds.items()),
        ratio("3 KB", "ours_first / bare_first", seconds),
        ratio("3 KB", "ours_first / oops_amqp_first", seconds),
    ]


def resubmitting(bench: Bench, rounds: int) -> list[Row]:
    """Send what a fallback repository has kept."""
    rows: list[Row] = []
    for size, usual in RECEIVED.items():
        count = bench.count(usual)
        found: dict[str, list[float]] = {"oops_amqp_resubmit": [], "resubmit": []}
        for _ in range(rounds):
            for name, values in found.items():
                values.append(bench.resubmit(name, size, count))
                bench.purge()
        seconds = {name: statistics.median(values) for name, values in found.items()}
        rows += [(name, size, 1 / value, "/s") for name, value in seconds.items()]
        rows.append(ratio(size, "oops_amqp_resubmit / resubmit", seconds))
    return rows


def receiving(bench: Bench, rounds: int) -> list[Row]:
    """Take reports from the queue into a folder, in memory and on disk."""
    rows: list[Row] = []
    for where in ("memory", "disk"):
        for size, count in RECEIVED.items():
            found: dict[str, list[float]] = {}
            for _ in range(rounds):
                for name in ("oops_amqp_receiver", "worker", "bare_receivers"):
                    with bench.in_memory(where == "memory"):
                        rate = getattr(bench, name)(size, bench.count(count))
                    found.setdefault(name, []).append(rate)
            rates = {name: statistics.median(values) for name, values in found.items()}
            label = f"{size}, {where}"
            rows += [(name, label, value, "/s") for name, value in rates.items()]
            rows += [
                ratio(label, "worker / oops_amqp_receiver", rates),
                ratio(label, "worker / bare_receivers", rates),
            ]
    return rows


def backlog(bench: Bench, rounds: int) -> list[Row]:
    """Take reports from a short queue and from a long one; with two workers."""
    rates = {}
    with bench.in_memory():
        for count, times in ((1000, rounds), (100_000, 1)):
            rates[f"{count} waiting"] = statistics.median(
                bench.worker("3 KB", bench.count(count)) for _ in range(times)
            )
        count = bench.count(RECEIVED["3 KB"])
        for workers in (1, 2):
            rates[f"workers: {workers}"] = statistics.median(
                bench.worker("3 KB", count, workers) for _ in range(rounds)
            )
    label = "3 KB, memory"
    rows: list[Row] = [(name, label, value, "/s") for name, value in rates.items()]
    return [
        *rows,
        ratio(label, "100000 waiting / 1000 waiting", rates),
        ratio(label, "workers: 2 / workers: 1", rates),
    ]


def latency(bench: Bench, rounds: int) -> list[Row]:
    """From publishing a report to its file, with nothing else to do."""
    seconds = bench.latency(bench.count(100 * rounds))
    return [
        ("median", "3 KB, disk", statistics.median(seconds) * 1e3, "ms"),
        ("99 %", "3 KB, disk", seconds[int(len(seconds) * 0.99)] * 1e3, "ms"),
    ]


def resources(bench: Bench, rounds: int) -> list[Row]:
    """Memory, and times to start."""
    memory = bench.memory("3 KB", (bench.count(1000), bench.count(20_000)))
    python = sys.executable
    return [
        *(
            (f"worker after {count}", "3 KB", value, "MB")
            for count, value in memory.items()
        ),
        ("worker start to first file", "", bench.seconds_to_ready(rounds), "s"),
        *(
            (f"import {name}", "", bench.seconds_of(command, rounds) * 1e3, "ms")
            for name, command in {
                "nothing": [python, "-c", ""],
                "celery": [python, "-c", "import celery"],
                "oops_celery": [python, "-c", "import oops_celery"],
                "its publisher": [
                    python,
                    "-c",
                    "import oops_celery.publishing.publisher",
                ],
            }.items()
        ),
    ]


def dispatching(bench: Bench, rounds: int) -> list[Row]:
    """Messages through consumers: trivial ones, and some that take 10 ms."""
    contenders = [*OURS, *map(Contender.old, bench.dispatchers)]
    rows: list[Row] = []
    for label, usual, more in (
        ("trivial, 10 instances", 10_000, {"instances": 10}),
        ("trivial, 1 instance", 10_000, {"instances": 1}),
        ("10 ms, 10 instances", 2_000, {"instances": 10, "seconds": 0.01}),
        ("10 ms, 50 instances", 10_000, {"instances": 50, "seconds": 0.01}),
        ("one by one, 10 instances", 500, {"instances": 10, "pause": 0.01}),
    ):
        found: dict[str, list[Run]] = {one.name: [] for one in contenders}
        for _ in range(rounds):
            for one in contenders:
                count = bench.count(usual)
                found[one.name].append(run(bench, one, messages=count, **more))
        for name, runs in found.items():
            if "pause" in more:
                median = statistics.median(each.median for each in runs)
                rows.append((f"{name}: latency", label, median * 1e3, "ms"))
                continue
            rate = statistics.median(each.rate for each in runs)
            rows.append((name, label, rate, "/s"))
            if name not in {one.name for one in OURS}:
                for own in OURS:
                    ours = statistics.median(each.rate for each in found[own.name])
                    rows.append((f"{own.name} / {name}", label, ours / rate, "x"))
        if more["instances"] == 50:
            for name, runs in found.items():
                memory = statistics.median(each.memory for each in runs)
                rows.append((f"{name}: memory (PSS)", label, memory / 1e6, "MB"))
    return rows


def ratio(size: str, of: str, values: dict[str, float]) -> Row:
    """Return the ratio of two contenders' values: `one / other`."""
    one, other = of.split(" / ")
    return (of, size, values[one] / values[other], "x")


SECTIONS: dict[str, Callable[[Bench, int], list[Row]]] = {
    one.__name__: one
    for one in (
        publishing,
        first_report,
        resubmitting,
        receiving,
        backlog,
        latency,
        resources,
        dispatching,
    )
}


@click.command()
@click.option(
    "--old-python",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="The Python of an environment that has oops-amqp and oops-datedir-repo.",
)
@click.option(
    "--dispatcher-python",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="The Python of an environment that has an amqp-dispatcher; several times.",
)
@click.option("--rounds", default=5, show_default=True, help="Of each; medians count.")
@click.option(
    "--scale",
    default=1.0,
    show_default=True,
    help="Times the usual number of reports; under 1 it says little.",
)
@click.option(
    "--only",
    type=click.Choice(list(SECTIONS)),
    multiple=True,
    help="A part of it; may be given several times.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs, with versions.")
def main(
    old_python: Path,
    dispatcher_python: tuple[Path, ...],
    rounds: int,
    scale: float,
    only: tuple[str, ...],
    as_json: bool,
) -> None:
    r"""Measure oops-celery against oops-amqp and against the limits, in one run.

    amqp-dispatcher needs a Python up to 3.9: make an environment for it, and name that
    with --dispatcher-python.

    \b
    Example:
      make bench
      make bench BENCH="--only publishing --rounds 3"
    """
    progress = Console(stderr=True)
    bench = Bench(old_python.absolute(), scale)
    bench.dispatchers = [python.absolute() for python in dispatcher_python]
    results: dict[str, list[Row]] = {}
    try:
        for name in only or SECTIONS:
            progress.print(f"{name} ...")
            results[name] = SECTIONS[name](bench, rounds)
            if not as_json:
                show(name, results[name])
    except KeyboardInterrupt:
        progress.print("stopped")
        sys.exit(130)
    finally:
        bench.close()
    if as_json:
        click.echo(json.dumps({**about(), "results": results}, indent=2))
    else:
        click.echo(", ".join(f"{key} {value}" for key, value in about().items()))


def show(name: str, rows: list[Row]) -> None:
    """Print a table."""
    table = Table(title=name, title_justify="left")
    for column in ("what", "size", "value", ""):
        table.add_column(column, justify="right" if column == "value" else "left")
    for what, size, value, unit in rows:
        digits = 2 if unit in ("x", "s", "ms") else 0
        style = "bold" if unit == "x" else ""
        table.add_row(what, size, f"{value:,.{digits}f}", unit, style=style)
    Console().print(table)


def about() -> dict[str, Any]:
    """Say what it ran on."""
    names = ("celery", "kombu", "amqp", "pymongo", "oops-amqp", "oops-datedir-repo")
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "Python": platform.python_version(),
        **{name: version(name) for name in names},
    }


if __name__ == "__main__":
    main(prog_name="make bench --")
