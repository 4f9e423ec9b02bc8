"""A real ``oops-celery web``, on a database with reports and dead letters."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx

from oops_celery import wire
from oops_celery.dead_letters import park
from oops_celery.dead_letters.filing import row_of
from oops_celery.dead_letters.letter import Content, read_letter
from oops_celery.repository.row import Row
from oops_celery.repository.schema import dead_letter
from oops_celery.repository.store import Repository
from tests.support import environment, eventually

#: Of `htpasswd -B -b -C 4 FILE ann secret`.
PASSWORD = "correct horse"

TRACEBACK = """\
Traceback (most recent call last):
  File "/srv/shop/cart.py", line 7, in add
    price = prices[item]
KeyError: 'coffee'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/usr/lib/python3.11/site-packages/django/core/handlers.py", line 3, in inner
    response = get_response(request)
  File "/srv/shop/views.py", line 12, in buy
    raise LookupError("not sold") from error
LookupError: not sold
"""


def a_report(number: int, **more: Any) -> dict[str, Any]:
    now = datetime.now(timezone.utc)
    return {
        "type": "LookupError",
        "value": f"not sold: {number}",
        "topic": "/buy",
        "reporter": "shop",
        "time": now - timedelta(minutes=number),
        "tb_text": TRACEBACK,
        "req_vars": {"item": "coffee", "REMOTE_ADDR": "10.0.0.7"},
        "timeline": [(0, 12.5, "SQL", "SELECT 1"), (15, 40, "HTTP", "GET /price")],
        "branch": "main",
        **more,
    }


def store(database: str, *reports: dict[str, Any]) -> list[str]:
    """Store reports as the worker does; return their ids."""
    repository = Repository(database)
    ids = []
    rows = []
    for report in reports:
        encoded = wire.encode(report)
        ids.append(encoded.id)
        known = {**report, "id": encoded.id}
        rows.append(Row.of(known, encoded.body, encoded.body))
    repository.store(rows)
    return ids


def file_letters(database: str, reason: str, *reports: dict[str, Any]) -> list[str]:
    """File dead letters as the worker does; return their ids."""
    ids = []
    rows = []
    for report in reports:
        encoded = wire.encode(report)
        ids.append(encoded.id)
        headers = {park.REASON: reason, "id": encoded.id}
        content = Content(encoded.body, headers, {"correlation_id": encoded.id})
        letter = read_letter(content, "oopses.dead")
        rows.append(row_of(letter, content))
    Repository(database).write(
        lambda connection: connection.execute(dead_letter.insert(), rows)
    )
    return ids


class Pages:
    """The program, and a client of it."""

    def __init__(self, folder: Path, database: str, *options: str, **env: str) -> None:
        self.log = folder / "web.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "oops_celery.cli", "web", "--port=0", *options],
                cwd=folder,
                env=environment(OOPS_REPOSITORY=database, **env),
                stdout=log,
                stderr=log,
            )
        found = eventually(self._started)
        self.url = found[1].rstrip("/").replace("0.0.0.0", "127.0.0.1")
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def _started(self) -> re.Match[str] | None:
        text = self.log.read_text()
        assert self.process.poll() is None, text
        return re.search(r"The pages are on (\S+);", text)

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.client.get(path, **more)

    def log_in(self, user: str = "ann", password: str = PASSWORD) -> httpx.Response:
        page = self.client.get("/login")
        form = {"csrf": csrf(page.text), "user": user, "password": password}
        return self.client.post("/login", data=form)

    def stop(self) -> int:
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


def csrf(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found, page
    return found[1]


def users(folder: Path) -> str:
    """Return a file of users: ann, and her password."""
    import bcrypt

    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    file = folder / "users"
    file.write_text(f"ann:{hashed}\n")
    return str(file)


def refusals(pages: Pages) -> list[str]:
    """Return the lines of the log about what was refused."""
    return [one for one in pages.log.read_text().splitlines() if "refused:" in one]
