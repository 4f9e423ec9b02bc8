"""A report from the failure to the page, typed as the README says: for any version."""

from __future__ import annotations

import ast
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from oops_celery import wire
from oops_celery.repository.queries import Reports
from tests.support import PATIENCE, ROOT, Node, environment, eventually


@contextmanager
def running(folder: Path, command: str, **environ: str) -> Iterator[None]:
    """Run ``celery -A oops_celery COMMAND``, and end it."""
    with (folder.parent / f"{command}.log").open("wb") as said:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("celery"), "-A", "oops_celery", command],
            cwd=folder,
            env=environment(**environ),
            stdout=said,
            stderr=said,
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(120)


def test_a_report_from_the_failure_to_the_page(broker: Node, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    url = broker.url
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])

    def command(*words: str) -> str:
        done = subprocess.run(
            words,
            cwd=folder,
            env=environment(RABBITMQ_URL=url),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def page(path: str) -> str:
        try:
            with urlopen(f"http://127.0.0.1:{port}/{path}", timeout=120) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    oops_celery = str(Path(sys.executable).with_name("oops-celery"))
    program = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    worker = running(folder, "worker", RABBITMQ_URL=url)
    flower = running(
        folder,
        "flower",
        RABBITMQ_URL=url,
        FLOWER_PORT=port,
        FLOWER_UNAUTHENTICATED_API="1",
    )
    with flower, worker:
        eventually(lambda: "true" in page("api/workers?status=1"), 4 * PATIENCE)
        (report_id,) = ast.literal_eval(command(sys.executable, "-c", program[0]))
        with Reports(f"sqlite:///{folder}/oopses.db") as reports:
            (stored,) = eventually(lambda: reports.find(report_id))
        report = wire.decode(stored.body)
        assert (report["id"], report["type"]) == (report_id, "ZeroDivisionError")
        assert "ZeroDivisionError" in command(oops_celery, "show", report_id)
        shown = json.loads(command(oops_celery, "show", report_id[5:15], "--json"))
        assert shown["id"] == report_id
        checks = json.loads(command(oops_celery, "doctor", "--json"))["checks"]
        states = {one["check"]: one["state"] for one in checks}
        states.pop("celery", None)  # before 5.6 it is said what RabbitMQ may deny
        assert set(states.values()) == {"ok"}, checks

        def task() -> str:
            text = page(f"api/task/info/{report_id}")
            return text if text and json.loads(text)["state"] == "SUCCESS" else ""

        assert "(ZeroDivisionError, topic=division)" in eventually(task)
        assert report_id in page(f"task/{report_id}")
