"""``make run``: a worker, the pages, Flower, and a program that fails; all is real.

Shows each report's id, how to show it and its page, and ends on Ctrl-C. With
``RABBITMQ_URL`` set it works through that RabbitMQ, else through a folder.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.error import URLError
from urllib.request import urlopen

from rich.console import Console

import oops_celery
from oops_celery.repository.queries import Reports
from oops_celery.settings import hide_password
from oops_celery.settings import repository_url as urls

VAR = Path("var")
REPOSITORY = "sqlite:///var/oopses.db"
#: Tells commands in other terminals, by celeryconfig.py, that the broker is a folder.
EMBEDDED = VAR / "embedded.pid"
FLOWER_PORT = 5555
WEB_PORT = 8000
ADDRESS = "--address=127.0.0.1"
WORKER = ("--concurrency", "2", "--loglevel", "INFO")
CELERY = ("celery", "-A", "oops_celery")
COMMAND = ".venv/bin/oops-celery"

#: Seconds that each step may take.
PATIENCE = 60

console = Console(highlight=False, soft_wrap=True)
Found = TypeVar("Found")


class Stopped(Exception):
    """A step did not happen. Says which, and where to look."""


class Service:
    """A program that runs in the background, and writes to a log in ``./var``.

    Args:
        guard: Ends it if the tour is killed.
        name: Of its log.
        program: Beside Python, with its arguments.
    """

    def __init__(self, guard: IO[str], name: str, *program: str) -> None:
        self.log = VAR / f"{name}.log"
        command = [str(Path(sys.executable).with_name(program[0])), *program[1:]]
        with self.log.open("wb") as log:
            # A session of its own: Ctrl-C reaches the tour alone, which ends the rest.
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True
            )
        print(self.process.pid, file=guard, flush=True)

    def wait_for(self, check: Callable[[], Found], what: str) -> Found:
        """Wait until a check returns something true."""
        deadline = time.monotonic() + PATIENCE
        while not (found := check()):
            if self.process.poll() is not None:
                lines = self.log.read_text(errors="replace").splitlines()[-15:]
                raise Stopped("\n".join([*lines, f"{what}: it ended; see {self.log}"]))
            if time.monotonic() > deadline:
                raise Stopped(f"{what}: not within {PATIENCE} s; see {self.log}")
            time.sleep(0.1)
        return found

    def stop(self) -> None:
        """Let it finish what it has, and end."""
        if self.process.poll() is None:
            self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE)
        with suppress(ProcessLookupError):  # its pool, if it was killed
            os.killpg(self.process.pid, signal.SIGKILL)


def main() -> int:
    """Take the tour; return the exit code."""
    VAR.mkdir(exist_ok=True)
    os.environ["OOPS_REPOSITORY"] = REPOSITORY
    os.environ["FLOWER_UNAUTHENTICATED_API"] = "1"
    for ending in (signal.SIGTERM, signal.SIGHUP):  # the latter: a closed terminal
        signal.signal(ending, _interrupt)
    services: list[Service] = []
    command = [sys.executable, "-m", "examples.guard"]
    guard = subprocess.Popen(
        command, stdin=subprocess.PIPE, text=True, start_new_session=True
    )
    guard.wait()  # it goes on in a process of its own
    assert guard.stdin is not None
    try:
        choose_broker()
        show(services, guard.stdin)
        while True:
            signal.pause()
    except KeyboardInterrupt:
        return 0
    except Stopped as error:
        console.print(str(error), markup=False, style="red")
        return 1
    finally:
        for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ending, signal.SIG_IGN)  # once is enough
        # The terminal may be gone, or whoever read: rich ends the program by that.
        with suppress(OSError, SystemExit):
            console.print("\nEnding the worker, the pages and Flower ...")
        for service in services:
            service.stop()
        guard.stdin.close()
        EMBEDDED.unlink(missing_ok=True)
        with suppress(OSError, SystemExit):
            console.print("Ended.")


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def choose_broker() -> None:
    """Use RabbitMQ where it is named, else the broker in a folder."""
    url = os.environ.get("RABBITMQ_URL")
    if url:
        console.print(f"Broker: {hide_password(url)}", markup=False)
        return
    os.environ["CELERY_CONFIG_MODULE"] = "examples.embedded"
    EMBEDDED.write_text(str(os.getpid()))
    console.print(
        "Broker: the folder ./var/broker. It needs no server; it is for one machine "
        "and for trying out.\n        For RabbitMQ: "
        "RABBITMQ_URL=amqp://user:password@host:5672/ make run"
    )


def show(services: list[Service], guard: IO[str]) -> None:
    """Start everything, let the shop fail, and show what became of it."""
    port, web_port = free_port(FLOWER_PORT), free_port(WEB_PORT)
    pages = os.environ["OOPS_WEB_URL"] = f"http://localhost:{web_port}"
    with console.status("Starting the worker, the pages and Flower ..."):
        worker = Service(guard, "worker", *CELERY, "worker", *WORKER)
        services.append(worker)
        web = Service(guard, "web", "oops-celery", "web", f"--port={web_port}")
        services.append(web)
        flower = Service(guard, "flower", *CELERY, "flower", f"--port={port}", ADDRESS)
        services.append(flower)
        worker.wait_for(lambda: b" ready." in worker.log.read_bytes(), "the worker")
        api = f"http://127.0.0.1:{port}/api"
        # When Flower has heard of the worker, it misses no event any more.
        flower.wait_for(lambda: fetch(f"{api}/workers?status=1"), "Flower")
        web.wait_for(lambda: fetch(f"{pages}/health"), "the pages")
    console.print("All are up. Now the shop fails in four ways.\n")

    reports = shop_failures()
    for what, report_id in reports:
        with console.status(f"{what}: {report_id}"):
            worker.wait_for(
                lambda report_id=report_id: find(report_id),  # type: ignore[misc]
                f"{report_id} in the database",
            )
            task = flower.wait_for(
                lambda report_id=report_id: succeeded(api, report_id),  # type: ignore[misc]
                f"{report_id} in Flower",
            )
        console.print(f"{what}: {task['args']}", markup=False)
        part, page = report_id[5:13], oops_celery.url(report_id)  # any part is enough
        console.print(
            f"  id    {report_id}\n  show  {COMMAND} show {part}\n  page  {page}\n"
        )
    console.print(
        f"All {len(reports)} reports were published, taken by the worker, stored, "
        "and found in Flower by their id.\n"
        "\n"
        "What next, in another terminal:\n"
        f"  look at them         {pages}/\n"
        f"  watch the worker     http://localhost:{port}/tasks\n"
        f"  look at one          {COMMAND} show {reports[0][1][5:13]}\n"
        f"  what fails most      {COMMAND} report\n"
        f"  watch them come      {COMMAND} trace\n"
        "  fail once more       make fail\n"
        "  in your application  config.publisher = oops_celery.publisher\n"
        "  on your servers      RABBITMQ_URL=amqp://... celery -A oops_celery worker\n"
        "Ctrl-C ends all of it; the reports stay in ./var/oopses.db."
    )


def shop_failures() -> list[tuple[str, str]]:
    """Run the shop in a process of its own; return what failed, and the ids."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.shop"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    lost = [what for what, report_id in rows if report_id == "None"]
    if done.returncode or lost:
        raise Stopped(f"{done.stderr}\nnot published: {', '.join(lost) or 'the rest'}")
    return [(what, report_id) for what, report_id in rows]


def find(report_id: str) -> bool:
    """Return whether a report is in the database."""
    with Reports(urls.check(REPOSITORY)) as reports:
        return bool(reports.find(report_id))


def succeeded(api: str, report_id: str) -> Any:
    """Return what Flower knows of a report's task, once it is done."""
    task = fetch(f"{api}/task/info/{report_id}")
    return task if task and task["state"] == "SUCCESS" else None


def fetch(url: str) -> Any:
    """Return the JSON behind a URL; None where there is none yet."""
    try:
        with urlopen(url, timeout=5) as answer:
            return json.load(answer)
    except (URLError, OSError, ValueError):
        return None


def free_port(usual: int) -> int:
    """Return a usual port, or a free one where that is taken."""
    for port in (usual, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Stopped("there is no free port")


if __name__ == "__main__":
    sys.exit(main())
