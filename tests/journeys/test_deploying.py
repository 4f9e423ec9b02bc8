"""docs/deploying.md: its commands, files and promises. The cluster: faults/."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import amqp
import pytest

from oops_celery import Publisher, settings
from oops_celery.repository.queries import Reports
from oops_celery.repository.store import Repository
from tests.support import ROOT, Node, Worker, environment, eventually, start_node
from tests.support.postgresql import PROGRAMS, PostgreSQL

PAGE = (ROOT / "docs/deploying.md").read_text()
RIGHTS, BACKUP, COPY, WATCHING = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
PASSIVE, MOVING = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(
    r"^ {4,}(\S.*)$", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL), re.MULTILINE
)
SYSTEMD = ROOT / "examples/systemd"
UNITS = sorted(SYSTEMD.glob("*.service"))


def test_the_commands_are_those_that_are_tested() -> None:
    assert [re.sub(r" .*", "", line) for line in COMMANDS] == [
        "python3",  # the first four are the system's; test_package installs the wheel
        "/opt/oops-celery/bin/pip",
        "useradd",
        "install",
        "systemctl",  # the units are verified below
        "RABBITMQ_URL=amqp://user:password@rabbit1,rabbit2,rabbit3/oops",
        "OOPS_TOPOLOGY=moving.yml",
        "rabbitmqctl",
        "rabbitmqctl",
    ]
    programs = [line.split()[0] for line in WATCHING.splitlines()]  # test_cluster
    assert programs == ["rabbitmqctl", "rabbitmq-diagnostics", "rabbitmq-queues"]
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link


# Rights


def ctl(node: Node, line: str) -> None:
    """Run a line of the page."""
    program, *words = shlex.split(line)
    assert program == "rabbitmqctl"
    node.ctl(*words)


class Secured:
    """A node on which the commands of "Users and rights" have been run."""

    def __init__(self, node: Node) -> None:
        self.node = node
        passwords = dict(re.findall(r"add_user (\S+) '(.*)'", RIGHTS))
        quoted = {user: word.replace(" ", "%20") for user, word in passwords.items()}
        self.publisher_url, self.worker_url = (
            f"amqp://{user}:{quoted[user]}@{node.host}/oops"
            for user in ("oops-publisher", "oops-worker")
        )
        self._password = passwords["oops-worker"]

    def connect(self, user: str = "oops-worker") -> amqp.Connection:
        passwords = dict(re.findall(r"add_user (\S+) '(.*)'", RIGHTS))
        connection = amqp.Connection(
            host=self.node.host,
            userid=user,
            password=passwords[user],
            virtual_host="oops",
        )
        connection.connect()
        return connection

    def count(self, queue: str) -> int:
        with self.connect() as connection:
            return int(connection.channel().queue_declare(queue, passive=True)[1])


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    server = start_node()
    node = Node(server)
    for line in RIGHTS.splitlines():
        ctl(node, line)
    yield Secured(node)
    server.cleanUp()


CONFIG = """
import oops
import oops_celery

config = oops.Config()

def refuse(report):
    if "refuse" in report:
        raise ValueError("refused")

config.filters.append(refuse)
config.publisher = oops_celery.FolderPublisher("oopses")
"""


@pytest.fixture
def worker(secured: Secured, tmp_path: Path) -> Iterator[Worker]:
    """A worker with the rights of oops-worker."""
    (tmp_path / "keeper.py").write_text(CONFIG)
    started = Worker(
        tmp_path, secured.worker_url, "-c", "1", OOPS_CONFIG="keeper:config"
    )
    yield started
    started.kill()


def publish(url: str, report: str, folder: Path, **environ: str) -> tuple[str, str]:
    program = f"import oops_celery; print(oops_celery.publisher({report}))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment(RABBITMQ_URL=url, **environ),
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    return done.stdout, done.stderr


def test_the_rights_are_enough(secured: Secured, worker: Worker) -> None:
    """To publish, to keep, to retry, to park, and to ask the worker."""
    folder, url = worker.folder, secured.publisher_url
    assert "refused for user" not in worker.text()
    # May not declare: says so, and publishes.
    out, err = publish(url, "{'k': 1}", folder)
    assert out == "['OOPS-f9082d518031065d1e948548a66a4a05']\n"
    assert "refused for user 'oops-publisher'" in err
    # Has not even to try.
    (folder / "publisher.yml").write_text(PASSIVE)
    out, err = publish(url, "{'k': 2}", folder, OOPS_TOPOLOGY="publisher.yml")
    assert out.startswith("['OOPS-")
    assert err == ""
    eventually(lambda: len(worker.files()) == 2)
    publish(url, "{'refuse': 1}", folder)
    eventually(lambda: secured.count("oopses.retry.1") == 1)
    with secured.connect("oops-publisher") as connection:
        connection.channel().basic_publish_confirm(amqp.Message(b"garbage"), "oopses")
    eventually(lambda: secured.count("oopses.dead") == 1)
    done = subprocess.run(
        [
            Path(sys.executable).with_name("celery"),
            *("-A", "oops_celery", "inspect", "ping", "-t", "20"),
        ],
        cwd=folder,
        env=environment(RABBITMQ_URL=secured.worker_url),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "pong" in done.stdout, done.stderr


def test_the_rights_are_no_more_than_that(secured: Secured, worker: Worker) -> None:
    refused: list[tuple[str, Any]] = [
        ("oops-publisher", lambda channel: channel.basic_get("oopses")),
        ("oops-publisher", lambda channel: channel.queue_delete("oopses")),
        ("oops-publisher", lambda channel: channel.queue_declare("another")),
        ("oops-worker", lambda channel: channel.queue_declare("another")),
    ]
    for user, attempt in refused:
        with (
            secured.connect(user) as connection,
            pytest.raises(amqp.AccessRefused),
        ):
            attempt(connection.channel())


# systemd


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_the_units_are_valid(unit: Path, tmp_path: Path) -> None:
    text = unit.read_text()
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment]
    parser.read_string(text)
    assert parser["Service"]["EnvironmentFile"] == "/etc/oops-celery.env"
    command = shlex.split(parser["Service"]["ExecStart"])
    assert command[1:4] in (
        ["-A", "oops_celery", "worker"],
        ["-A", "oops_celery", "flower"],
        ["web", "--port", "8000"],
    )
    if shutil.which("systemd-analyze") is None:
        return  # what a unit may say, only systemd knows
    bin_folder = Path(sys.executable).parent
    copy = tmp_path / unit.name
    copy.write_text(text.replace("/opt/oops-celery/bin/", f"{bin_folder}/"))
    done = subprocess.run(
        ["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False
    )
    assert [line for line in done.stderr.splitlines() if unit.name in line] == []


def test_the_worker_of_the_unit_runs_with_the_environment_file(
    broker: Node, tmp_path: Path
) -> None:
    text = (SYSTEMD / "oops-celery.env").read_text()
    variables = dict(re.findall(r"^([A-Z_]+)=\"?([^\"\n]*)\"?$", text, re.MULTILINE))
    ca_file = tmp_path / "ca.pem"
    ca_file.touch()
    url = re.sub("cacertfile=.*", f"cacertfile={ca_file}", variables["RABBITMQ_URL"])
    parsed = settings.parse_rabbitmq_url(url)
    assert len(parsed["broker_url"]) == 3
    assert parsed["broker_use_ssl"]["ca_certs"] == str(ca_file)

    unit = (SYSTEMD / "oops-celery-worker.service").read_text()
    (options,) = re.findall(
        r"^ExecStart=\S+/celery -A oops_celery worker (.*)$", unit, re.M
    )
    changed = {
        "RABBITMQ_URL": broker.url,
        "OOPS_REPOSITORY": str(tmp_path / "oopses"),
    }
    started = Worker(tmp_path, broker.url, *options.split(), **{**variables, **changed})
    try:
        publish(broker.url, "{'k': 1}", tmp_path)
        eventually(started.files)
        assert "concurrency: 2" in started.text()
        heartbeats = broker.ctl("-q", "list_connections", "timeout").split()
        assert variables["RABBITMQ_HEARTBEAT"] in heartbeats
    finally:
        started.kill()


# Backups


def test_backups_and_the_copy_to_postgresql(
    postgresql: PostgreSQL, tmp_path: Path
) -> None:
    repository = Repository(f"sqlite:///{tmp_path}/oopses.db")
    repository.publish({"id": "OOPS-1", "type": "E"})
    target = postgresql.database()
    programs = Path(sys.executable).parent
    copy = COPY.replace("postgresql+psycopg://oops@db/oops", target)
    assert target in copy
    name = target.rpartition("/")[2]
    host, _, port = target.rpartition("/")[0].rpartition("@")[2].partition(":")
    path = f"{programs}:{PROGRAMS}:{os.environ['PATH']}"
    dump = BACKUP.replace("oopses.dump oops\n", f"oopses.dump {name}\n")
    for script in (copy, dump):  # in this order, there is something to back up
        subprocess.run(
            ["sh", "-ex"],
            input=script,
            cwd=tmp_path,
            env=environment(PATH=path, PGHOST=host, PGPORT=port, PGUSER="oops"),
            text=True,
            check=True,
        )
    for url in (f"sqlite:///{tmp_path}/oopses.backup.db", target):
        with Reports(url) as reports:
            assert [one.id for one in reports.find("OOPS-1")] == ["OOPS-1"]
    assert (tmp_path / "oopses.dump").stat().st_size > 1000


# Changing a queue


def test_a_classic_queue_becomes_a_quorum_queue_under_load(
    broker: Node, tmp_path: Path
) -> None:
    """The steps of "Changing a queue": every report that was taken is kept."""
    with broker.connect() as connection:
        channel = connection.channel()
        channel.exchange_declare("oopses", "fanout", durable=True, auto_delete=False)
        channel.queue_declare("oopses", durable=True, auto_delete=False)
        channel.queue_bind("oopses", "oopses")
    command, delete, delete_moving = COMMANDS[-3:]
    words = shlex.split(command)
    variables = dict(word.split("=") for word in words if re.match("OOPS_", word))
    repository = f"sqlite:///{tmp_path}/oopses.db"
    variables["OOPS_REPOSITORY"] = repository
    assert words[2:6] == ["celery", "-A", "oops_celery", "worker"]
    (tmp_path / "moving.yml").write_text(MOVING)

    ids: list[str] = []
    stop = threading.Event()
    publisher = Publisher(lambda: amqp.Connection(host=broker.host), "oopses", "")

    def load() -> None:
        while not stop.wait(0.05):
            ids.extend(publisher({"number": len(ids)}))

    def depth(queue: str) -> int:
        table = broker.ctl("-q", "list_queues", "name", "messages")
        return int(dict(line.split("\t") for line in table.splitlines() if line)[queue])

    thread = threading.Thread(target=load)
    thread.start()
    usual = Worker(tmp_path, broker.url, "-c", "1", OOPS_REPOSITORY=repository)
    moving = None
    try:
        moving = Worker(tmp_path, broker.url, *words[6:], "-c", "1", **variables)
        eventually(lambda: depth("oopses") == 0)
        usual.stop()
        ctl(broker, delete.replace("-p oops ", ""))
        goal = len(ids) + 50
        eventually(lambda: len(ids) > goal)
        usual.restart()
        goal = len(ids) + 50
        eventually(lambda: len(ids) > goal)
        eventually(lambda: depth("oopses.moving") == 0)
        moving.stop()
        ctl(broker, delete_moving.replace("-p oops ", ""))
        stop.set()
        thread.join()

        def kept() -> set[str]:
            with Reports(repository) as reports:
                return {one.id for one in reports.bodies()}

        eventually(lambda: set(ids) <= kept())
        with Reports(repository) as reports:
            assert reports.count() == len(ids) == len(set(ids))
        types = broker.ctl("-q", "list_queues", "name", "type")
        assert re.search(r"^oopses\s+quorum$", types, re.MULTILINE), types
        assert depth("oopses.dead") == 0
    finally:
        stop.set()
        usual.kill()
        if moving is not None:
            moving.kill()
        with broker.connect() as connection:
            connection.channel().queue_delete("oopses.moving")
