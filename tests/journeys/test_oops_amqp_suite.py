"""oops-amqp's own tests, as they are, with oops_celery in its place."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rabbitfixture.server import RABBITBIN

from tests.support import ROOT, Node

#: Tests of oops-amqp that cannot pass, and why.
DESELECTED = {
    "test_receiver.py::test_run_forever": (
        "asserts which methods of a made-up connection are called; ours also limits "
        "what the broker hands out (basic_qos), and closes without basic_cancel"
    ),
}

#: Tests that pass; each but the one above is run with amqp and with kombu.
PASSED = 14

#: What the tests import. Their broker is the node of this run, and stopping it stops
#: RabbitMQ in it, but not Erlang: that takes a second, not eight.
MODULES = {
    "oops_amqp/__init__.py": "from oops_celery import Publisher, Receiver\n",
    "oops_amqp/anybson.py": "from bson import decode as loads, encode as dumps\n",
    # Loaded by pytest: oops-amqp is installed here too.
    "in_its_place.py": """
import oops_amqp, oops_celery
assert oops_amqp.Publisher is oops_celery.Publisher
assert oops_amqp.Receiver is oops_celery.Receiver
""",
    "rabbitfixture/__init__.py": "",
    "rabbitfixture/server.py": """
import os, subprocess, types

class RabbitServer:
    def __init__(self):
        self.config = types.SimpleNamespace(
            hostname=os.environ["NODE_HOST"], port=int(os.environ["NODE_PORT"])
        )
        self.runner = self

    def setUp(self): pass
    def cleanUp(self): pass
    def _stop(self): self._ctl("stop_app")
    def _start(self): self._ctl("start_app")

    def _ctl(self, command):
        subprocess.run([*os.environ["NODE_CTL"].split(), command], check=True)
""",
}


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """oops-amqp's source, in the version that constraints.txt pins."""
    (pinned,) = re.findall(
        r"^oops_amqp==.+$", (ROOT / "constraints.txt").read_text(), re.M
    )
    folder = tmp_path_factory.mktemp("oops-amqp")
    pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "--no-deps", "--no-binary", ":all:", "-d", folder, pinned], check=True
    )
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    (source,) = folder.glob("oops_amqp-*/")
    return source


@pytest.fixture
def caught(own_node: Node) -> Iterator[None]:
    """A queue for what is published to an exchange that is bound to nothing.

    Two of the tests do that, and want an id for it; our publisher gives one only for a
    report that is in a queue. RabbitMQ's alternate exchange puts it into one.
    """
    with own_node.connect() as connection:
        channel = connection.channel()
        channel.exchange_declare("caught", "fanout", durable=True, auto_delete=False)
        channel.queue_declare("caught", durable=True, auto_delete=False)
        channel.queue_bind("caught", "caught")
    catch = '{"alternate-exchange": "caught"}'
    own_node.ctl("set_policy", "caught", "^exchange-", catch, "--apply-to", "exchanges")
    yield
    own_node.ctl("clear_policy", "caught")
    with own_node.connect() as connection:
        connection.channel().queue_delete("caught")
        connection.channel().exchange_delete("caught")


@pytest.mark.usefixtures("caught")
def test_the_tests_of_oops_amqp(sdist: Path, own_node: Node, tmp_path: Path) -> None:
    for name, text in MODULES.items():
        path = tmp_path / "modules" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    # A helper of its tests; nothing of the publisher or the receiver is in it.
    shutil.copy(sdist / "oops_amqp/utils.py", tmp_path / "modules/oops_amqp")
    shutil.copytree(sdist / "tests", tmp_path / "tests")
    config = own_node._server.config
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider"),
            *("-p", "in_its_place", "tests"),
            *(f"--deselect=tests/{name}" for name in DESELECTED),
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(tmp_path / "modules"),
            "HOME": config.homedir,
            "NODE_HOST": config.hostname,
            "NODE_PORT": str(config.port),
            "NODE_CTL": f"{RABBITBIN}/rabbitmqctl -n {config.fq_nodename}",
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    summary = done.stdout.splitlines()[-1]
    assert f"{PASSED} passed, {len(DESELECTED)} deselected in" in summary, done.stdout
