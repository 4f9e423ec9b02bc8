"""A private RabbitMQ node."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import amqp
from rabbitfixture.server import RabbitServer


class Node:
    """A private RabbitMQ node."""

    def __init__(self, server: RabbitServer) -> None:
        self._server = server
        config = server.config
        self.host = f"{config.hostname}:{config.port}"
        self.port: int = config.port
        self._name = config.fq_nodename
        self.home: str = config.homedir
        self.url = f"amqp://guest:guest@{self.host}/"

    def ctl(self, *command: str) -> str:
        """Run rabbitmqctl; return what it prints."""
        out, err = self._server.runner.environment.rabbitctl(command, timeout=60)
        assert "Error" not in err, err
        return str(out)

    @property
    def pid(self) -> int:
        return int(self.ctl("eval", "os:getpid().").strip().strip('"'))

    def log(self) -> str:
        (path,) = Path(self._server.config.homedir).glob(f"{self._name}.log")
        return path.read_text(errors="replace")

    def connect(self) -> amqp.Connection:
        connection = amqp.Connection(host=self.host)
        connection.connect()
        return connection

    def pause(self) -> Callable[[], None]:
        """Freeze the broker; return what thaws it."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        return lambda: os.kill(pid, signal.SIGCONT)

    def restart(self) -> None:
        self.ctl("stop_app")
        self.ctl("start_app")

    def count(self, queue: str) -> int:
        """Return the number of messages that are ready in a queue."""
        with self.connect() as connection:
            return int(connection.channel().queue_declare(queue, passive=True)[1])

    def messages(self, queue: str) -> list[amqp.Message]:
        """Take all messages out of a queue."""
        taken = []
        with self.connect() as connection:
            channel = connection.channel()
            channel.auto_decode = False
            while (message := channel.basic_get(queue, no_ack=True)) is not None:
                taken.append(message)
        return taken

    def publish(self, queue: str, body: bytes, **properties: Any) -> None:
        """Put a message into a queue, as any AMQP program would."""
        with self.connect() as connection:
            connection.channel().basic_publish_confirm(
                amqp.Message(body, **properties), "", queue, mandatory=True
            )

    def clean(self) -> None:
        """Remove what the default topology has."""
        with self.connect() as connection:
            for queue in ("", ".retry.1", ".retry.2", ".retry.3", ".dead"):
                connection.channel().queue_delete(f"oopses{queue}")
            for exchange in ("oopses", "oopses.dead"):
                connection.channel().exchange_delete(exchange)


def start_node() -> RabbitServer:
    server = RabbitServer(ctltimeout=60)
    server.setUp()
    return server
