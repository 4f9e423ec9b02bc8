"""One connection to the broker, in confirm mode, with a limit on every wait."""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

import amqp
from amqp.exceptions import MessageNacked
from kombu import Producer
from kombu.transport.pyamqp import Channel

from oops_celery.errors import Refused

#: Seconds that AMQP's close handshake may take.
CLOSE_TIMEOUT = 0.5


class Link:
    """One connection with one channel, used by one thread at a time; see `open_link`.

    Args:
        connection: A `kombu.Connection` or `amqp.Connection`, connected.
        confirm: Whether the broker confirms each message.
    """

    #: Whether the broker speaks AMQP.
    is_amqp = True

    def __init__(self, connection: Any, confirm: bool) -> None:
        self._pid = os.getpid()
        _links[id(self)] = self
        self.confirm = confirm
        self.connection = connection  # a connection closes when it is garbage: keep it
        self.returned: Exception | None = None
        #: Whether nothing has been published on it yet.
        self.new = True
        #: Whether the broker nacked a message of this channel.
        self.nacked = False
        self._begin()

    def _begin(self) -> None:
        #: py-amqp's connection.
        self.raw = _raw(self.connection)
        self.raw.confirm_publish = self.confirm
        self.raw.on_blocked = self._on_blocked
        self._open_channel()

    def follow(self) -> None:
        """Use kombu's new connection if a refusal closed the first one."""
        if not self.raw.connected:
            self._begin()

    def _open_channel(self) -> None:
        # kombu's channel, on plain py-amqp's connection too.
        self.channel = Channel(self.raw)
        self.channel.open()
        self.producer = Producer(
            self.channel, auto_declare=False, on_return=self._on_return
        )

    def _on_return(self, error: Exception, *_: Any) -> None:
        self.returned = error

    @staticmethod
    def _on_blocked(reason: str) -> None:
        # RabbitMQ sends this to publishing connections under an alarm. The confirm
        # would come after the alarm, which may be days later.
        raise amqp.RecoverableConnectionError(f"blocked by the broker: {reason}")

    def renew_channel(self, timeout: float) -> None:
        """Replace the channel.

        In RabbitMQ 3.10, a channel whose first message found the leader of a quorum
        queue dead stays with that node, and gets nacks even when there is a new leader.
        """
        with self.raw.transport.having_timeout(timeout):
            self.channel.close()
            self._open_channel()
        self.nacked = False

    def publish(
        self,
        body: bytes,
        timeout: float,
        plain: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Publish a message, and wait at most ``timeout`` seconds for the confirm.

        Args:
            body: The body.
            timeout: Seconds.
            plain: All properties of the message by their AMQP names; without it, kombu
                makes them from the options, with a content type.
            options: Arguments of `kombu.Producer.publish`.
        """
        self.returned = None
        # Without confirms, a returned message would be mistaken for a later one.
        options = {"mandatory": self.confirm, **options}
        waits = {"timeout": timeout, "confirm_timeout": timeout}
        try:
            if plain is None:
                self.producer.publish(body, **options, **waits)
            else:
                message = amqp.Message(body, **plain)
                self.channel.basic_publish(message, **options, **waits)
        except MessageNacked:
            self.nacked = True
            raise
        if self.returned is not None:
            raise Refused(f"no queue took it: {self.returned}")

    def close(self) -> None:
        """Close the connection with AMQP's handshake, for a moment at most."""
        forget_inherited()
        with suppress(Exception):
            if self.raw.connected:
                self.raw.transport.sock.settimeout(CLOSE_TIMEOUT)
                self.raw.close()
        self.drop()

    def drop(self) -> None:
        """Close the socket without AMQP's close handshake: the connection is broken."""
        forget_inherited()
        with suppress(Exception):
            if self.raw.connected:
                self.raw.transport.sock.settimeout(0)  # no TLS close_notify either
                self.raw.collect()

    def forget(self) -> None:
        """Leave a connection of the parent process alone, after a fork.

        Only closing the file descriptor is safe: any byte sent, or a shutdown of the
        socket, would end the parent's connection.
        """
        _links.pop(id(self), None)
        with suppress(Exception):
            if self.raw.connected:  # else py-amqp would connect, to tell its transport
                self.raw.transport.sock.close()


class TrialLink(Link):
    """A link to a broker for trying out, such as that of ``make run``.

    kombu's transports without AMQP have no confirms, no returned messages and no
    arguments of queues.
    """

    is_amqp = False
    raw = None

    def _begin(self) -> None:
        self.channel = self.connection.channel()
        self.producer = Producer(self.channel, auto_declare=False)

    def follow(self) -> None:
        """Do nothing: no refusal closes such a connection."""

    def publish(
        self,
        body: bytes,
        timeout: float,
        plain: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Publish a message; see `Link.publish`."""
        if plain is not None:
            more = dict(plain)
            options = {**options, "headers": more.pop("application_headers", None)}
            options.update(more)
        self.producer.publish(body, timeout=timeout, **options)

    def close(self) -> None:
        """Close the connection."""
        with suppress(Exception):
            self.connection.release()

    def drop(self) -> None:
        """Leave the connection: there is no handshake."""


def open_link(connection: Any, confirm: bool, timeout: float) -> Link:
    """Connect, and return the link.

    Args:
        connection: A `kombu.Connection` or `amqp.Connection`.
        confirm: Whether the broker confirms each message.
        timeout: Seconds that connecting, and each answer after it, may take.
    """
    _connect(connection, timeout)
    return (TrialLink if _raw(connection) is None else Link)(connection, confirm)


def _raw(connection: Any) -> Any:
    """Return py-amqp's connection; None for kombu's other transports."""
    raw = connection
    if not isinstance(raw, amqp.Connection):
        raw = connection.connection
    return raw if isinstance(raw, amqp.Connection) else None


#: All links in use.
_links: WeakValueDictionary[int, Link] = WeakValueDictionary()

#: The process that the links belong to.
_pid = os.getpid()


def forget_inherited() -> None:
    """Leave the parent process's links alone, after a fork.

    Also called at each use of a link: Python does not see every fork (uWSGI's).
    """
    global _pid
    pid = os.getpid()
    if _pid == pid:
        return
    for reference in _links.valuerefs():
        link = reference()
        if link is not None and link._pid != pid:
            link.forget()
    _pid = pid


os.register_at_fork(after_in_child=forget_inherited)
# When a child that used none ends, garbage collection shuts sockets down.
atexit.register(forget_inherited)


def _connect(connection: Any, timeout: float) -> None:
    """Connect, with a limit on each wait that has none."""
    if isinstance(connection, amqp.Connection):
        for name in ("connect_timeout", "read_timeout", "write_timeout"):
            if getattr(connection, name) is None:
                setattr(connection, name, timeout)
        connection.connect()
        return
    hosts = len(connection.alt) or 1
    connection.connect_timeout = (
        min(connection.connect_timeout or timeout, timeout) / hosts
    )
    if connection.transport.driver_name == "py-amqp":
        connection.transport_options = {
            "read_timeout": timeout,
            "write_timeout": timeout,
            **(connection.transport_options or {}),
        }
    # Each host once, without a pause: connect() would sleep 2 s between hosts.
    connection.ensure_connection(max_retries=hosts - 1, interval_start=0)
