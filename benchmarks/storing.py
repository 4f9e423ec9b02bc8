"""Storing reports in a database, beside DateDirRepo: ``python -m benchmarks.storing``.

The same worker, with 2 processes, takes a full queue into each repository in turns, on
disk. DateDirRepo does not wait for the disk, and has no index; a database does.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
from sqlalchemy import func, select, text

from benchmarks.bench import Bench, files
from oops_celery.repository.schema import report
from oops_celery.repository.store import Repository

COUNTS = {"3 KB": 6000, "32 KB": 2500}

#: Part of the reports before the clock starts: the worker has found its pace.
WARM_UP = 0.15

#: Seconds between two looks, and at most for all.
POLL = 0.05
PATIENCE = 600

_CONFIG = """
import os
import oops
from oops_datedir_repo import DateDirRepo
config = oops.Config()
config.publisher = DateDirRepo("oopses", inherit_id=True).publish
"""


def rate(
    bench: Bench,
    size: str,
    count: int,
    environ: dict[str, str],
    folder: Path,
    stored: Callable[[], int],
) -> float:
    """Return the reports that a worker stores in a second."""
    bench.fill(size, count)
    os.sync()  # nobody pays for what was written before
    celery = Path(sys.executable).with_name("celery")
    worker = subprocess.Popen(
        [celery, "-A", "oops_celery", "worker", "-c", "2", "-l", "WARNING"],
        env={**os.environ, "RABBITMQ_URL": bench.url, **environ},
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        begun, first = 0.0, 0
        for _ in itertools.count():
            now, number = time.perf_counter(), stored()
            if not first and number >= count * WARM_UP:
                begun, first = now, number
            if number >= count:
                return (count - first) / (now - begun)
            if worker.poll() is not None:
                raise RuntimeError("the worker has ended")
            time.sleep(POLL)
    finally:
        worker.terminate()
        worker.wait(PATIENCE)
    raise AssertionError


def rows(repository: Repository) -> int:
    """Return the reports in a database."""
    with repository.engine().connect() as connection:
        query = select(func.count()).select_from(report)
        return int(connection.scalar(query) or 0)


def contend(bench: Bench, name: str, size: str, count: int, postgresql: str) -> float:
    """Return the rate of one contender, with a repository of its own."""
    folder = Path(tempfile.mkdtemp(dir=bench.folder))
    try:
        if name == "DateDirRepo":
            (folder / "keeper.py").write_text(_CONFIG)
            environ = {"OOPS_CONFIG": "keeper:config", "OOPS_FILE_DEAD_LETTERS": "0"}
            place = folder / "oopses"
            return rate(bench, size, count, environ, folder, lambda: len(files(place)))
        url = f"sqlite:///{folder}/oopses.db" if name == "sqlite" else postgresql
        repository = Repository(url)
        repository.upgrade()
        if name == "postgresql":
            with repository.engine().begin() as connection:
                connection.execute(text("TRUNCATE report, report_group, group_hour"))
                connection.execute(text("TRUNCATE group_day"))
        environ = {"OOPS_REPOSITORY": url}
        return rate(bench, size, count, environ, folder, lambda: rows(repository))
    finally:
        shutil.rmtree(folder)


@click.command()
@click.option("--postgresql", help="The URL of a database that may be emptied.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(postgresql: str | None, rounds: int, as_json: bool) -> None:
    """Measure the reports that a worker stores in a second."""
    names = ["DateDirRepo", "sqlite", *(["postgresql"] if postgresql else [])]
    bench = Bench(Path(sys.executable))
    found: dict[str, dict[str, list[float]]] = {}
    try:
        for size, count in COUNTS.items():
            rates = found.setdefault(size, {name: [] for name in names})
            for _ in range(rounds):
                for name in names:
                    got = contend(bench, name, size, count, postgresql or "")
                    rates[name].append(got)
                    click.echo(f"{size} {name}: {got:,.0f}/s", err=True)
    finally:
        bench.close()
    if as_json:
        click.echo(json.dumps(found))
        return
    for size, rates in found.items():
        usual = statistics.median(rates["DateDirRepo"])
        for name, values in rates.items():
            median = statistics.median(values)
            spread = f"{min(values):,.0f} to {max(values):,.0f}"
            click.echo(
                f"{size:6} {name:12} {median:8,.0f}/s  ({spread})  "
                f"{median / usual:.2f} of DateDirRepo"
            )


if __name__ == "__main__":
    main()
