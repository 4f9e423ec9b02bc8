"""Every command and every snippet of the README works as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest

from oops_celery import settings, wire
from oops_celery.dead_letters.letters import Letters
from oops_celery.repository.queries import Reports
from oops_celery.repository.reader import Stored
from oops_celery.settings.values import OWN
from tests.support import ROOT, Node, Worker, environment, eventually

README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
#: With the place in the README, to find the one before a snippet.
INSTALLS = [
    (one.start(), one[1]) for one in re.finditer(r"^    (pip .+)$", README, re.M)
]
COMMANDS = [
    line.partition("  #")[0].strip() for line in re.findall(r"^    (.+)$", README, re.M)
]
COMMANDS = [
    line for line in COMMANDS if re.match("make|pip|celery|oops-celery|OOPS_", line)
]

#: See the fixtures of these names.
Installed = Callable[[str], Path]
Run = Callable[..., str]

#: What an operator types; below, and `trace`, which does not end, in test_cli_trace.
OPERATORS = [
    "oops-celery doctor",
    "oops-celery show 68c5cd",
    "oops-celery dead list --group",
    "oops-celery dead replay --all",
    "oops-celery resubmit ./fallback",
    "oops-celery report --html day.html",
    "oops-celery topology graph",
    "oops-celery trace",
]


def test_the_commands_are_those_that_are_tested() -> None:
    assert [
        "make run",  # test_tour
        "make test",  # what runs this; see also below
        "pip install .",  # all that follows is run after these, in an empty environment
        "pip install '.[web]'",
        "celery -A oops_celery worker",  # below
        "oops-celery web",  # below
        "celery -A oops_celery flower",
        *OPERATORS,
        "oops-celery validate config.yml",
        "OOPS_TOPOLOGY=config.yml celery -A oops_celery worker",
    ] == COMMANDS


@pytest.mark.parametrize(
    "target", ["run", "test", "fail", "lint", "worker", "flower", "wheel"]
)
def test_the_makefile_has_what_is_promised(target: str) -> None:
    done = subprocess.run(
        ["make", "--dry-run", target],
        cwd=ROOT,
        # None of the variables that the make around the tests was called with.
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = {
        "run": "python -m examples.tour",
        "test": "python -m pytest tests",
        "fail": "python -m examples.shop",
        "lint": "ruff check",
        "worker": "celery -A oops_celery worker",
        "flower": "celery -A oops_celery flower",
        "wheel": "python -m build --wheel --outdir dist",
    }
    assert expected[target] in done.stdout


@pytest.fixture(scope="session")
def programs(installed: Installed) -> Path:
    """What the last install line of the README has installed."""
    return installed(INSTALLS[-1][1])


@pytest.fixture
def run(installed: Installed, tmp_path: Path) -> Run:
    """Run a snippet of the README after the install line that stands before it."""

    def run_snippet(number: int, url: str, program: str | None = None) -> str:
        place = README.index(SNIPPETS[number])
        line = [line for start, line in INSTALLS if start < place][-1]
        done = subprocess.run(
            [installed(line) / "python", "-c", program or SNIPPETS[number]],
            cwd=tmp_path,
            env=environment(RABBITMQ_URL=url),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run_snippet


def kept(folder: Path) -> list[Stored]:
    """Return the reports in the default repository."""
    with Reports(f"sqlite:///{folder}/oopses.db") as reports:
        return list(reports.bodies())


def test_a_report_goes_the_way_that_the_readme_says(
    broker: Node,
    worker: Callable[..., Worker],
    run: Run,
    programs: Path,
    tmp_path: Path,
) -> None:
    """The first snippet, `celery -A oops_celery worker`, `./oopses.db`."""
    worker(python=programs / "python", OOPS_REPOSITORY="")  # the default
    out = run(0, broker.url)
    (stored,) = eventually(lambda: kept(tmp_path))
    report = wire.decode(stored.body)
    assert out == f"['{report['id']}']\n"
    assert report["type"] == "ZeroDivisionError"


def test_the_fallback_takes_what_rabbitmq_does_not(run: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    out = run(1, f"amqp://127.0.0.1:{port}/")
    assert re.fullmatch(r"\['OOPS-[0-9a-f]{32}'\]\n", out)
    assert len(list(tmp_path.glob("fallback/*/OOPS-*"))) == 1


def test_the_scrubbed_report_is_what_the_comment_says(run: Run) -> None:
    out = run(2, "nonsense")
    assert SNIPPETS[2].endswith(f"# {out}")


def test_the_snippet_for_those_who_come_from_oops_amqp(broker: Node, run: Run) -> None:
    with broker.connect() as connection:
        channel = connection.channel()
        channel.exchange_declare("oopses", "fanout", durable=True, auto_delete=False)
        channel.queue_declare("oopses", durable=True, auto_delete=False)
        channel.queue_bind("oopses", "oopses")
    assert "localhost:5672" in SNIPPETS[3]
    snippet = SNIPPETS[3].replace("localhost:5672", broker.host)
    assert run(3, "nonsense", f"{snippet}\nprint(publisher({{'k': 1}}))") == (
        "['OOPS-f9082d518031065d1e948548a66a4a05']\n"
    )
    assert len(SNIPPETS) == 4


def test_the_commands_for_those_who_come_from_the_dispatcher(
    broker: Node, worker: Callable[..., Worker], programs: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.yml").write_text(
        "queues: [{queue: readme}]\n"
        "consumers: [{consumer: 'readme:Consumer', queue: readme}]\n"
    )
    (tmp_path / "readme.py").write_text(
        "class Consumer:\n"
        "    def consume(self, amqp, msg): open('got', 'wb').write(msg.body)\n"
        "    def shutdown(self, exception=None): pass\n"
    )
    validate, start = COMMANDS[-2:]
    done = subprocess.run(
        [programs / "oops-celery", *validate.split()[1:]],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "config.yml: no mistakes\n"
    name, _, value = start.split()[0].partition("=")
    assert start.split()[1:] == ["celery", "-A", "oops_celery", "worker"]
    worker(python=programs / "python", **{name: value})
    broker.publish("readme", b"hello")
    got = tmp_path / "got"
    eventually(lambda: got.exists() and got.read_bytes() == b"hello")
    with broker.connect() as connection:
        connection.channel().queue_delete("readme")


def test_what_an_operator_types(
    broker: Node, worker: Callable[..., Worker], programs: Path, tmp_path: Path
) -> None:
    """One report is kept, one is parked, one waits in the fallback."""
    worker(python=programs / "python", OOPS_REPOSITORY="")
    encoded = [wire.encode({"type": "ValueError", "n": n}) for n in range(2)]
    broker.publish("oopses", encoded[0].body)
    broker.publish("oopses", b"garbage")
    fallback = tmp_path / "fallback" / "2026-01-01"
    fallback.mkdir(parents=True)
    (fallback / "OOPS-1").write_bytes(encoded[1].body)
    eventually(lambda: kept(tmp_path))
    with Letters(f"sqlite:///{tmp_path}/oopses.db") as letters:
        eventually(lambda: letters.counts() == {"oopses.dead": 1})
    expected = {
        "doctor": (1, "oopses.dead"),
        "show": (0, encoded[0].id),
        "dead list": (0, "undecodable"),
        "dead replay": (0, ""),
        "resubmit": (0, "fallback: 1 sent, none left"),
        "report": (0, "in 1 group"),
        "topology": (0, "flowchart"),
    }
    assert len(expected) == len(OPERATORS) - 1
    for command, (name, (code, words)) in zip(OPERATORS, expected.items()):
        assert command.startswith(f"oops-celery {name}")
        done = subprocess.run(
            [
                programs / "oops-celery",
                *command.replace("68c5cd", encoded[0].id[:12]).split()[1:],
            ],
            cwd=tmp_path,
            env=environment(RABBITMQ_URL=broker.url),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert (done.returncode, done.stderr) == (code, ""), (command, done.stdout)
        assert words in done.stdout, command
    assert "<svg" in (tmp_path / "day.html").read_text()
    eventually(lambda: len(kept(tmp_path)) == 2)


def fetch(url: str) -> str:
    """Return a page; empty if it is not there yet."""
    try:
        with urlopen(url, timeout=120) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def test_the_pages_open_a_report_by_its_id(
    broker: Node,
    worker: Callable[..., Worker],
    run: Run,
    programs: Path,
    tmp_path: Path,
) -> None:
    worker(python=programs / "python", OOPS_REPOSITORY="")
    command = shlex.split("oops-celery web")
    assert shlex.join(command) in COMMANDS
    log = tmp_path / "web.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [programs / command[0], *command[1:], "--port", "0"],
            cwd=tmp_path,
            env=environment(RABBITMQ_URL=broker.url),
            stdout=out,
            stderr=out,
        )
    found = eventually(lambda: re.search(r"on (http://\S+/);", log.read_text()))
    report_id = run(0, broker.url).strip("[]'\n")
    try:
        assert "division by zero" in eventually(lambda: fetch(found[1] + report_id))
    finally:
        process.terminate()
        process.wait(120)


def test_flower_starts(broker: Node, programs: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = shlex.split("celery -A oops_celery flower")
    process = subprocess.Popen(
        [programs / command[0], *command[1:]],
        cwd=tmp_path,
        env=environment(RABBITMQ_URL=broker.url, FLOWER_PORT=str(port)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}/"
        assert "Flower" in eventually(lambda: fetch(url))
    finally:
        process.terminate()
        process.wait(120)


def test_every_setting_is_in_the_table_with_its_default() -> None:
    defaults = settings.Settings()
    for name in OWN:
        assert f"`OOPS_{name.upper()}`" in README
    for name in ("repository", "exchange", "queue", "max_retries", "max_size"):
        row = next(
            line
            for line in README.splitlines()
            if line.startswith(f"| `OOPS_{name.upper()}`")
        )
        assert (
            f"`{getattr(defaults, name)}`" in row or str(getattr(defaults, name)) in row
        )


def test_the_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            file, _, anchor = link.partition("#")
            target = page.parent / file if file else page
            if not link.startswith("http"):
                assert target.exists(), (page.name, link)
                assert not anchor or anchor in anchors(target), (page.name, link)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}
