"""What pytest-celery calls a container: here a process group of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import amqp
import psutil
from rabbitfixture.server import RABBITBIN, RabbitServerResources

from tests.support import environment, eventually

#: Seconds that a start or a stop may take on a busy machine.
PATIENCE = 90.0

#: The folder that the package ``tests`` is imported from.
ROOT = Path(__file__).parent.parent.parent


class LocalProcess:
    """A program in a process group of its own, with the words of a container.

    Args:
        name: Its name, for people.
        log: File that takes what it prints.
    """

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    # What a program must say about itself.

    @property
    def command(self) -> list[str]:
        raise NotImplementedError

    @property
    def environ(self) -> dict[str, str]:
        raise NotImplementedError

    @property
    def celeryconfig(self) -> dict[str, Any]:
        raise NotImplementedError

    @property
    def folder(self) -> Path:
        return self.log.parent

    @property
    def pid(self) -> int:
        """The process that a polite signal goes to."""
        return self.group

    def is_up(self) -> bool:
        raise NotImplementedError

    # What pytest-celery's nodes call.

    @property
    def id(self) -> str:
        return f"{self.name}-{self.group}"

    @property
    def status(self) -> str:
        if self._process is None or self._process.poll() is not None:
            return "exited"
        return "paused" if self._paused else "running"

    @property
    def exit_code(self) -> int | None:
        return self._process.returncode if self._process else None

    def logs(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def ready(self) -> bool:
        try:
            eventually(lambda: self.is_up() or self.status == "exited", PATIENCE)
        except AssertionError:
            raise AssertionError(f"not ready: {self.logs()[-5000:]}") from None
        assert self.status == "running", f"it has ended: {self.logs()[-5000:]}"
        return True

    def reload(self) -> None:
        """There is nothing that could be stale here."""

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send a signal to the program; SIGKILL to all its processes."""
        number = _number(signal)
        with suppress(ProcessLookupError):
            if number != _number("SIGKILL"):
                os.kill(self.pid, number)
                return
            pids = [one.pid for one in self.processes()]
            os.killpg(self.group, number)
            self.wait()
            eventually(lambda: not any(map(is_alive, pids)), PATIENCE)

    def stop(self, timeout: float = PATIENCE) -> None:
        """End it politely; when that takes too long, kill it."""
        self.kill("SIGTERM")
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def restart(self, timeout: float = PATIENCE) -> None:
        """Stop it if it runs, then start it, on the same data."""
        if self.status != "exited":
            self.stop(timeout)
        self.start()

    def teardown(self) -> None:
        """End it, however it is."""
        if self.status != "exited":
            self.kill()

    # What a container can do beside that.

    def pause(self) -> None:
        """Freeze its process group; returns when each process of it stands still."""
        os.killpg(self.group, signal.SIGSTOP)
        eventually(lambda: not any(map(self._runs, self.processes())), PATIENCE)
        self._paused = True

    def unpause(self) -> None:
        os.killpg(self.group, signal.SIGCONT)
        self._paused = False

    @property
    def group(self) -> int:
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    def processes(self) -> list[psutil.Process]:
        """Return the main process and all that descend from it."""
        try:
            main = psutil.Process(self.group)
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def ports(self) -> set[int]:
        """Return the local ports of the main process's open connections."""
        found = psutil.Process(self.group).net_connections("tcp")
        return {one.laddr.port for one in found if one.status == "ESTABLISHED"}

    def _runs(self, process: psutil.Process) -> bool:
        """Say if a process of the group runs: a signal reaches each in its own time."""
        try:
            if os.getpgid(process.pid) != self.group:
                return False
            return process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
        except (psutil.NoSuchProcess, ProcessLookupError):
            return False

    def launch(self) -> None:
        """Start it, and don't wait until it works."""
        self._paused = False
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self) -> None:
        self.launch()
        self.ready()

    def wait(self, timeout: float = PATIENCE) -> int:
        assert self._process is not None
        return self._process.wait(timeout)


def is_alive(pid: int) -> bool:
    """Whether a process runs. One whose parent has died may be a zombie for long."""
    try:
        return str(psutil.Process(pid).status()) != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _number(name: str | int) -> int:
    return int(signal.Signals[name] if isinstance(name, str) else name)


class BrokerProcess(LocalProcess):
    """A private RabbitMQ node, from the system's package."""

    def __init__(self) -> None:
        self._resources = RabbitServerResources()  # free ports, temporary folders
        self._resources.setUp()
        super().__init__("rabbitmq", Path(self._resources.logfile))
        self.host = f"127.0.0.1:{self._resources.port}"
        self.url = f"amqp://guest:guest@{self.host}/"
        #: Whether it must not be used for another test.
        self.spoilt = False

    @property
    def command(self) -> list[str]:
        return [f"{RABBITBIN}/rabbitmq-server"]

    @property
    def environ(self) -> dict[str, str]:
        own = self._resources
        return environment(
            HOME=own.homedir,
            RABBITMQ_MNESIA_BASE=own.mnesiadir,
            RABBITMQ_LOG_BASE=own.homedir,
            RABBITMQ_NODE_IP_ADDRESS="127.0.0.1",
            RABBITMQ_NODE_PORT=str(own.port),
            RABBITMQ_DIST_PORT=str(own.dist_port),
            RABBITMQ_CTL_DIST_PORT_MIN=str(own.ctl_dist_port),
            RABBITMQ_CTL_DIST_PORT_MAX=str(own.ctl_dist_port + 10),
            RABBITMQ_NODENAME=own.fq_nodename,
            RABBITMQ_ENABLED_PLUGINS_FILE=own.pluginsfile,
        )

    @property
    def celeryconfig(self) -> dict[str, Any]:
        return {"url": self.url, "host_url": self.url}

    @property
    def pid(self) -> int:
        """The Erlang VM."""
        return next(one.pid for one in self.processes() if "beam" in one.name())

    def logs(self) -> str:
        files = sorted(Path(self._resources.homedir).glob("*.log"))
        return "".join(path.read_text(errors="replace") for path in files)

    def is_up(self) -> bool:
        try:
            self.connect().close()
        except (OSError, amqp.AMQPError):
            return False
        return True

    def connect(self) -> amqp.Connection:
        connection = amqp.Connection(self.host, connect_timeout=10, read_timeout=60)
        connection.connect()
        return connection

    def ctl(self, *command: str) -> str:
        """Run rabbitmqctl; return what it prints."""
        done = subprocess.run(
            [f"{RABBITBIN}/rabbitmqctl", "-q", "-n", self._resources.fq_nodename]
            + list(command),
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def teardown(self) -> None:
        super().teardown()
        self._resources.cleanUp()


class WorkerProcess(LocalProcess):
    """``celery -A oops_celery worker``.

    Args:
        name: Name of the worker, one for each that shares a broker.
        home: Folder of this run: repository, orders, logs.
        url: The broker's.
        options: More options of the command.
        environ: More settings, by their name in the environment.
    """

    def __init__(
        self, name: str, home: Path, url: str, *options: str, **environ: str
    ) -> None:
        super().__init__(name, home / f"{name}.log")
        self._url = url
        self._options = options
        self._settings = environ
        self._starts = 0

    @property
    def command(self) -> list[str]:
        return [
            str(Path(sys.executable).with_name("celery")),
            *("-A", "oops_celery", "worker", "--loglevel", "INFO"),
            *("-n", f"{self.name}@%h", "-c", "2", *self._options),
        ]

    @property
    def environ(self) -> dict[str, str]:
        return environment(
            **{
                "PYTHONPATH": str(ROOT),
                # Short heartbeats: so a broker in need drops a frozen worker.
                "RABBITMQ_URL": f"{self._url}?heartbeat=4",
                "OOPS_CONFIG": "tests.faults.keeper:config",
                "OOPS_REPOSITORY": "oopses",  # so dead letters stay in their queue
                "OOPS_TOPOLOGY": "topology.yml",
                **self._settings,
            }
        )

    @property
    def celeryconfig(self) -> dict[str, Any]:
        return {"broker_url": self._url}

    def launch(self) -> None:
        self._starts = self.logs().count(" ready.")
        super().launch()

    def is_up(self) -> bool:
        return self.logs().count(" ready.") > self._starts

    def version(self) -> str:
        import celery

        return celery.__version__

    def log_level(self) -> str:
        return "INFO"

    def worker_name(self) -> str:
        return self.name

    def worker_queue(self) -> str:
        return "oopses"
