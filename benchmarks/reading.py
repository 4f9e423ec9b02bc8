"""Reading from a database of a million reports: ``python -m benchmarks.reading``.

Fills a database with reports of 1 KB, in 200 groups and 30 days, as they are stored,
and measures how long the commands take, and their queries alone.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import click

from oops_celery import wire
from oops_celery.repository import rows as tables
from oops_celery.repository.database import engine_of
from oops_celery.repository.partitions import Partitions
from oops_celery.repository.queries import Reports
from oops_celery.repository.row import Row
from oops_celery.repository.store import Repository
from oops_celery.settings.repository_url import check

GROUPS = 200
DAYS = 30

#: Reports of one transaction.
PAGE = 4000

#: Times that each thing is done; the median counts.
ROUNDS = 7

_TRACEBACK = """Traceback (most recent call last):
  File "/srv/shop/lib/python3.11/site-packages/django/core/base.py", line 197, in get
    response = wrapped_callback(request, *callback_args, **callback_kwargs)
  File "/srv/shop/src/shop/views_{group}.py", line {line}, in view_{group}
    return cart.total(request.user)
  File "/srv/shop/src/shop/cart.py", line 41, in total_{group}
    return sum(item.price for item in self.items)
KeyError: {value}
"""

_AGENT = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/{version}.0.0.0 Safari/537.36"
)


def rows(number: int, seed: int = 1) -> Iterator[Row]:
    """Yield reports as rows, the oldest first."""
    chance = random.Random(seed)
    now = datetime.now(timezone.utc).replace(microsecond=0)
    begin = now - timedelta(days=DAYS - 1)
    step = timedelta(days=DAYS - 1) / max(number, 1)
    for each in range(number):
        group = min(int(chance.expovariate(1 / 40)), GROUPS - 1)
        value = f"no price for item {chance.randrange(10**9)}"
        moment = begin + step * each
        report = {
            "type": f"Error{group}",
            "value": value,
            "topic": f"shop.view_{group}",
            "reporter": "shop",
            "time": moment,
            "url": f"https://shop.example/cart/{chance.randrange(10**6)}",
            "tb_text": _TRACEBACK.format(group=group, line=each % 90, value=value),
            "req_vars": {
                "REMOTE_ADDR": f"10.0.{group}.{each % 250}",
                "HTTP_USER_AGENT": _AGENT.format(version=each % 40),
                "HTTP_COOKIE": f"session={chance.randbytes(32).hex()}",
            },
        }
        encoded = wire.encode(report)
        yield Row.of({**report, "id": encoded.id}, encoded.body, encoded.body)


def fill(url: str, number: int, tell: Callable[[int], None]) -> None:
    """Fill an empty database."""
    repository = Repository(url)
    repository.upgrade()
    engine, partitions = repository.engine(), Partitions()
    page: list[Row] = []
    done = 0

    def write() -> None:
        partitions.make(engine, page)
        with engine.begin() as connection:
            tables.store(connection, page)

    for row in rows(number):
        page.append(row)
        if len(page) == PAGE:
            write()
            done += PAGE
            tell(done)
            page.clear()
    if page:
        write()
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            raw: Any = connection.connection.dbapi_connection
            raw.autocommit = True
            raw.execute("ANALYZE")
    engine.dispose()


def seconds(action: Callable[[], Any]) -> float:
    """Return the median of the seconds that something takes."""
    taken = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        action()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def measure(url: str) -> dict[str, float]:
    """Return the seconds of each command as a whole, and of its query alone."""
    with Reports(url) as reports:
        oldest = next(reports.bodies()).id
        newest = datetime.now(timezone.utc).date()
        past = newest - timedelta(days=DAYS // 3)
        missing = f"OOPS-{'0' * 32}"
        engine = engine_of(url, writes=False)

        def command(*words: str) -> Callable[[], Any]:
            environ = {**os.environ, "OOPS_REPOSITORY": url}
            line = [sys.executable, "-m", "oops_celery.cli", *words]
            return lambda: subprocess.run(
                line, env=environ, check=True, capture_output=True
            )

        return {
            "show": seconds(command("show", oldest)),
            "show: query": seconds(lambda: reports.find(oldest)),
            "show 8 characters: query": seconds(lambda: reports.find(oldest[5:13])),
            "show, not there: query": seconds(lambda: reports.find(missing)),
            "report --days 30": seconds(command("report", "--days", "30")),
            "report --days 30: query": seconds(
                lambda: reports.overview(newest, 30, by_hour=False)
            ),
            "report --date past: query": seconds(lambda: reports.overview(past, 1)),
            "connecting": seconds(lambda: engine.connect().close()),
        }


def database_options(command: Any) -> Any:
    """Add the options for the database to measure."""
    for option in (
        click.option("--json", "as_json", is_flag=True),
        click.option(
            "--reports",
            "number",
            default=1_000_000,
            show_default=True,
            help="0 measures what is there.",
        ),
        click.option("--url", help="A database; by default SQLite in a new folder."),
    ):
        command = option(command)
    return command


@click.command()
@database_options
def main(url: str | None, number: int, as_json: bool) -> None:
    """Fill a database, and measure how long reading takes."""
    folder = tempfile.mkdtemp(prefix="oops-reading-")
    url = check(url or f"sqlite:///{folder}/oopses.db")
    begun = time.perf_counter()
    fill(url, number, lambda done: click.echo(f"\r{done:,}", nl=False, err=True))
    click.echo(f"\rfilled in {time.perf_counter() - begun:.0f} s", err=True)
    found = measure(url)
    if as_json:
        click.echo(json.dumps({"reports": number, "seconds": found}))
        return
    for name, value in found.items():
        click.echo(f"{name:26} {value * 1000:8.1f} ms")


if __name__ == "__main__":
    main()
