"""A RabbitMQ cluster of three nodes on this machine, whose nodes can be killed."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import amqp

from tests.support import environment, eventually

#: Where Debian's package has RabbitMQ's programs. Those on PATH must be run by root.
PROGRAMS = Path("/usr/lib/rabbitmq/bin")

#: Seconds that a node may take to start, and a command to answer.
START_TIMEOUT = 120.0
COMMAND_TIMEOUT = 60.0

#: Only for the tests: as many nodes as this fit on a small machine.
SMALL = {
    "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1",
    "RABBITMQ_CTL_ERL_ARGS": "+S 1:1",
}


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that nobody listens on."""
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            for _ in range(count)
        ]
        return [int(one.getsockname()[1]) for one in sockets]


class ClusterNode:
    """One node: its folder, its ports, its process.

    Args:
        folder: Where it keeps everything. The cookie is in the folder above.
        name: Its Erlang name, ``name@localhost``.
        config: Its rabbitmq.conf.
    """

    def __init__(self, folder: Path, name: str, config: str) -> None:
        self.folder = folder
        self.name = name
        self.port, distribution, ctl = free_ports(3)
        self.host = f"localhost:{self.port}"
        self.url = f"amqp://guest:guest@{self.host}/"
        folder.mkdir()
        (folder / "rabbitmq.conf").write_text(config)
        (folder / "enabled_plugins").write_text("[].\n")
        (folder / "rabbitmq-env.conf").touch()  # not that of the system
        self._environ = environment(
            HOME=str(folder.parent),
            RABBITMQ_NODENAME=name,
            RABBITMQ_NODE_IP_ADDRESS="127.0.0.1",
            RABBITMQ_NODE_PORT=str(self.port),
            RABBITMQ_DIST_PORT=str(distribution),
            RABBITMQ_CTL_DIST_PORT_MIN=str(ctl),
            RABBITMQ_CTL_DIST_PORT_MAX=str(ctl + 20),
            RABBITMQ_CONF_ENV_FILE=str(folder / "rabbitmq-env.conf"),
            RABBITMQ_CONFIG_FILE=str(folder / "rabbitmq.conf"),
            RABBITMQ_ENABLED_PLUGINS_FILE=str(folder / "enabled_plugins"),
            RABBITMQ_MNESIA_BASE=str(folder / "data"),
            RABBITMQ_LOG_BASE=str(folder / "log"),
            RABBITMQ_PID_FILE=str(folder / "pid"),
            **SMALL,
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and don't wait."""
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                [PROGRAMS / "rabbitmq-server"],
                cwd=self.folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a process group, to be killed as a whole
            )

    def wait(self) -> None:
        """Wait until it takes connections."""
        eventually(self._ready, START_TIMEOUT)

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "output").read_text()
        try:
            with self.connect():
                return True
        except (OSError, amqp.AMQPError):
            return False

    def connect(self) -> amqp.Connection:
        connection = amqp.Connection(host=self.host, connect_timeout=5, read_timeout=10)
        connection.connect()
        return connection

    def run(self, program: str, *command: str) -> str:
        """Run one of RabbitMQ's programs against this node; return what it prints."""
        done = subprocess.run(
            [PROGRAMS / program, "-n", self.name, *command],
            env=self._environ,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def ctl(self, *command: str) -> str:
        return self.run("rabbitmqctl", *command)

    def signal(self, number: int) -> None:
        """Send a signal to the node and to its helpers."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """End it as a power cut would, as far as one machine can show that."""
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()


class Cluster:
    """Three nodes that have found one another.

    Use it in a ``with`` statement; at its end the nodes are killed.

    Args:
        folder: An empty folder for all of it.
        config: Each node's rabbitmq.conf, which names them rabbit@rabbit1 to 3.
    """

    def __init__(self, folder: Path, config: str) -> None:
        self.folder = folder
        cookie = folder / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(10))
        cookie.chmod(0o400)
        # Other runs on this machine share the name server of Erlang, epmd.
        run = secrets.token_hex(4)
        names = [f"oops{number}-{run}@localhost" for number in (1, 2, 3)]
        for number, name in enumerate(names, 1):
            assert f"rabbit@rabbit{number}\n" in config
            config = config.replace(f"rabbit@rabbit{number}\n", f"{name}\n")
        self.nodes = [
            ClusterNode(folder / name.partition("@")[0], name, config) for name in names
        ]

    @property
    def url(self) -> str:
        """All nodes, as RABBITMQ_URL names them."""
        return f"amqp://guest:guest@{','.join(node.host for node in self.nodes)}/"

    def __enter__(self) -> Cluster:
        try:
            # The first one alone: who comes first must not be a race here.
            for node in self.nodes:
                node.start()
                node.wait()
            eventually(lambda: len(self.running()) == len(self.nodes), START_TIMEOUT)
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def ask(self, program: str, *command: str) -> Any:
        """Run one of RabbitMQ's programs; return the JSON it prints.

        A node whose process runs may just be starting, or pause for want of others:
        the next one is asked then.
        """
        alive = [
            one for one in self.nodes if one.process and one.process.poll() is None
        ]
        for node in alive[:-1]:
            with suppress(AssertionError):
                return json.loads(node.run(program, *command, "--formatter", "json"))
        return json.loads(alive[-1].run(program, *command, "--formatter", "json"))

    def node(self, name: str) -> ClusterNode:
        return next(node for node in self.nodes if node.name == name)

    def running(self) -> set[str]:
        """Return the names of the nodes that are in the cluster now."""
        return set(self.ask("rabbitmqctl", "cluster_status")["running_nodes"])

    def leader(self, queue: str, among: Iterable[str] = ()) -> ClusterNode:
        """Return the node that leads a quorum queue, once there is one.

        Args:
            queue: The queue.
            among: Names of nodes that may lead it; by default those that run.
        """

        def found() -> ClusterNode | None:
            rows = self.ask("rabbitmqctl", "-q", "list_queues", "name", "leader")
            names = {row["name"]: row["leader"] for row in rows}
            name = names.get(queue)
            return self.node(name) if name in (among or self.running()) else None

        leader: ClusterNode = eventually(found, START_TIMEOUT)
        return leader

    def depth(self, queue: str) -> int:
        """Return the number of messages in a queue, those at work included."""
        rows = self.ask("rabbitmqctl", "-q", "list_queues", "name", "messages")
        return int({row["name"]: row["messages"] for row in rows}[queue])

    def members(self, queue: str, vhost: str = "/") -> dict[str, str]:
        """Return the state in Raft of each member of a quorum queue, by node."""
        rows = self.ask("rabbitmq-queues", "quorum_status", queue, "--vhost", vhost)
        return {row["Node Name"]: row["Raft State"] for row in rows}
