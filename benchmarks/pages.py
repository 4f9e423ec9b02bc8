"""The pages of a million reports: ``python -m benchmarks.pages``.

Fills a database as `benchmarks.reading` does, starts the real ``oops-celery web`` on
it, and has 10 clients of another process ask for one page again and again, each on its
own connection, the next request after the answer to the last one.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from benchmarks.reading import database_options, fill
from oops_celery.repository.queries import Reports
from oops_celery.repository.search import Wanted
from oops_celery.settings.repository_url import check

#: Milliseconds within which 95 of 100 answers must be there.
MOST_MS = 100

#: Megabytes of the server.
MOST_MB = 150

#: Seconds of a run that do not count: connections are made, caches filled.
WARM = 1.0


def paths(url: str) -> dict[str, str]:
    """Return the pages to measure, by name: of the largest group, and its type."""
    with Reports(url) as reports:
        latest = reports.search(Wanted(), limit=1)[0]
        found = reports.overview(latest.time.date(), 30, by_hour=False)
        group = found.groups[0]
        report = reports.search(Wanted(group=group.id), limit=1)[0]
    return {
        "the first page": "/",
        "the first page, 30 days": "/?period=30d",
        "a group": f"/groups/{group.id}",
        "a report": f"/{report.id}",
        "a search by type": f"/search?type={group.type}",
    }


def closed_loop(url: str, path: str, clients: int, seconds: float) -> list[float]:
    """Return the seconds of each answer to some clients, each asking without a pause.

    Raises:
        RuntimeError: An answer was not 200.
    """
    where = urlsplit(url)
    taken: list[float] = []
    wrong: list[int] = []
    begun = time.monotonic()

    def ask() -> None:
        connection = HTTPConnection(where.hostname or "", where.port, timeout=60)
        while time.monotonic() < begun + WARM + seconds and not wrong:
            before = time.perf_counter()
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                wrong.append(answer.status)
            if time.monotonic() > begun + WARM:
                taken.append(time.perf_counter() - before)
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise RuntimeError(f"{path}: status {wrong[0]}")
    return taken


def measure(url: str, clients: int, seconds: float) -> dict[str, dict[str, float]]:
    """Return of each page p50 and p95 in ms, answers a second, and the server's MB."""
    found = {}
    with tempfile.NamedTemporaryFile() as log:
        environ = {**os.environ, "OOPS_REPOSITORY": url}
        line = [sys.executable, "-m", "oops_celery.cli", "web", "--port=0"]
        server = subprocess.Popen(line, env=environ, stdout=log, stderr=log)
        try:
            address = _address(server, Path(log.name))
            for name, path in paths(url).items():
                taken = _in_another_process(address, path, clients, seconds)
                found[name] = {
                    "p50": statistics.median(taken) * 1000,
                    "p95": sorted(taken)[math.ceil(len(taken) * 0.95) - 1] * 1000,
                    "rate": len(taken) / seconds,
                    "rss": _megabytes(server.pid),
                }
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)
    return found


def _address(server: subprocess.Popen[bytes], log: Path) -> str:
    until = time.monotonic() + 30
    while time.monotonic() < until and server.poll() is None:
        if found := re.search(r"The pages are on (\S+);", log.read_text()):
            return found[1]
        time.sleep(0.05)
    raise RuntimeError(f"oops-celery web does not start: {log.read_text()}")


def _in_another_process(*of_loop: Any) -> list[float]:
    code = (
        "import json, sys; from benchmarks.pages import closed_loop; "
        "print(json.dumps(closed_loop(*json.loads(sys.argv[1]))))"
    )
    line = [sys.executable, "-c", code, json.dumps(of_loop)]
    done = subprocess.run(line, check=True, stdout=subprocess.PIPE)
    taken: list[float] = json.loads(done.stdout)
    return taken


def _megabytes(process: int) -> float:
    """Return the memory of a process (RSS): the most it ever had."""
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


@click.command()
@database_options
@click.option("--clients", default=10, show_default=True)
@click.option("--seconds", default=10.0, show_default=True, help="For each page.")
def main(
    url: str | None, number: int, clients: int, seconds: float, as_json: bool
) -> None:
    """Fill a database, and measure its pages; exit code 1 if they are too slow."""
    folder = tempfile.mkdtemp(prefix="oops-pages-")
    url = check(url or f"sqlite:///{folder}/oopses.db")
    if number:
        fill(url, number, lambda done: click.echo(f"\r{done:,}", nl=False, err=True))
    found = measure(url, clients, seconds)
    if as_json:
        click.echo(json.dumps({"reports": number, "pages": found}))
    else:
        for name, of_page in found.items():
            click.echo(
                f"{name:24} p50 {of_page['p50']:6.1f} ms  p95 {of_page['p95']:6.1f} ms"
                f"  {of_page['rate']:5.0f}/s  {of_page['rss']:4.0f} MB"
            )
    slow = any(one["p95"] > MOST_MS or one["rss"] > MOST_MB for one in found.values())
    sys.exit(slow)


if __name__ == "__main__":
    main()
