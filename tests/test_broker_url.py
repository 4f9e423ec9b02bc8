"""Users, passwords and virtual hosts of any characters, against a real RabbitMQ."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import kombu
import pytest

from oops_celery import Publisher, Topology
from oops_celery.settings import parse_rabbitmq_url
from tests.support import Node, Worker, environment, eventually

StartWorker = Callable[..., Worker]

#: User, password and virtual host; and whether they may stand in a URL as they are.
NAMES = [
    ("a;b", "pa;ss;", "v;w", True),
    ("u+&=,|$", "!*'()~-._+", "v+ &=", True),
    ("é漢", "ü€😀", "größe", True),
    ("a:b", ":;@/?#[]%", "/", False),
    ("%41", "%2F%", "a/b;c?d#e@f:%2F", False),
    (' "\\', "\t'` {}<>^", " [::1] ", False),
]


@pytest.fixture
def accounts(broker: Node) -> None:
    """Each user with its virtual host, made from bytes: no shell reads the names."""

    def binary(text: str) -> str:
        return f"<<{','.join(map(str, text.encode()))}>>"

    steps = []
    for user, password, vhost, _ in NAMES:
        name, place = binary(user), binary(vhost)
        if vhost != "/":
            steps.append(f'rabbit_vhost:add({place}, <<"test">>)')
        steps += [
            f"rabbit_auth_backend_internal:add_user({name}, {binary(password)}, "
            '<<"test">>)',
            f"rabbit_auth_backend_internal:set_permissions({name}, {place}, "
            '<<".*">>, <<".*">>, <<".*">>, <<"test">>)',
        ]
    assert "error" not in broker.ctl("eval", ", ".join(steps) + ".")


def urls(node: Node) -> list[str]:
    found = []
    for user, password, vhost, plain in NAMES:
        parts = [quote(part, safe="") for part in (user, password, vhost)]
        found.append("amqp://{}:{}@{host}/{}".format(*parts, host=node.host))
        if plain:
            found.append(f"amqp://{user}:{password}@{node.host}/{vhost}")
    return found


@pytest.mark.usefixtures("accounts")
def test_every_name_connects(broker: Node, worker: StartWorker, tmp_path: Path) -> None:
    topology = Topology.load(None)
    for url in urls(broker):

        def connect(url: str = url) -> kombu.Connection:
            return kombu.Connection(parse_rabbitmq_url(url)["broker_url"])

        with connect() as connection:
            assert topology.declare(connection.channel) == []
        assert len(Publisher(connect, "oopses", "")({"n": url})) == 1, url

    # The reports of the first user, from its virtual host.
    url = urls(broker)[1]
    assert ";" in url
    started = worker("-P", "solo", RABBITMQ_URL=url)
    eventually(lambda: len(started.files()) == 2)
    doctor = subprocess.run(
        [sys.executable, "-m", "oops_celery.cli", "doctor"],
        cwd=tmp_path,
        env=environment(RABBITMQ_URL=url),
        capture_output=True,
        text=True,
        check=False,
    )
    said = started.text() + doctor.stdout + doctor.stderr
    assert "Traceback" not in said
    assert "pa;" not in said
    assert "ss;" not in said
