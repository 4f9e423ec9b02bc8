"""Confirmed publishing that always returns in time: the broker has the message, or not.

py-amqp and kombu wait without a limit in several places (a frozen broker, a memory
alarm, a 404 on a pooled channel). Here every wait has a deadline, and a connection that
met an error is never used again.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from amqp.exceptions import ChannelError, MessageNacked

from oops_celery.errors import Refused, Unavailable
from oops_celery.transport import reentry
from oops_celery.transport.link import Link, forget_inherited, open_link

#: Idle connections to keep.
MAX_IDLE = 8

#: Seconds in which a new quorum queue elects its leader; until then RabbitMQ nacks its
#: messages. And seconds between two attempts.
ELECTION = 2.0
ELECTION_PAUSE = 0.05


class Sender:
    """A pool of links: one for each thread that publishes at the same time.

    Safe with many threads, under gevent and eventlet, and after a fork.

    Args:
        connect: Makes a `kombu.Connection` or an `amqp.Connection`.
        timeout: Seconds that one `send` may take, connecting included; or a function
            that returns them.
        confirm: Whether to wait for the broker's confirm.
        on_open: Called with each new link, to declare what it needs.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        timeout: float | Callable[[], float],
        confirm: bool = True,
        on_open: Callable[[Link], None] | None = None,
    ) -> None:
        #: Makes the next link's connection.
        self.connect = connect
        self._timeout = timeout
        self.confirm = confirm
        self._on_open = on_open
        self._idle: deque[Link] = deque()
        #: Every open link.
        self._open: dict[int, Link] = {}
        #: The process that the links belong to.
        self._pid = os.getpid()

    @property
    def timeout(self) -> float:
        """Seconds that one `send` may take."""
        return self._timeout() if callable(self._timeout) else self._timeout

    def send(self, body: bytes, **options: Any) -> None:
        """Publish one message.

        Args:
            body: The encoded report.
            options: Arguments of `kombu.Producer.publish`. With ``mandatory=False`` the
                broker also takes, and drops, a message that no queue is bound for.

        Raises:
            Refused: The broker did not take it, or routed it to no queue.
            Unavailable: There was no answer within the timeout.
        """
        deadline = time.monotonic() + self.timeout
        link = self.take()
        if link is not None:
            try:
                return self._publish(link, body, deadline, options)
            except Unavailable:
                # Perhaps only this connection was lost, in a restart: try a new one,
                # and distrust all that are as old.
                self.drop_idle()
                if time.monotonic() >= deadline:
                    raise
        return self._publish(self.open(deadline), body, deadline, options)

    def open(self, deadline: float | None = None) -> Link:
        """Open a new link.

        Name servers and other people's connection factories accept no timeout, so a
        thread does this, and is left alone when it is late.

        Raises:
            Unavailable: The link was not open in time.
        """
        self._leave_to_parent()
        deadline = deadline or time.monotonic() + self.timeout
        reentry.spare_handlers()
        opening = _Opening(self, _until(deadline))
        return opening.result(deadline)

    def put(self, link: Link) -> None:
        """Keep a link for the next message."""
        self._leave_to_parent()
        if len(self._idle) < MAX_IDLE and id(link) in self._open:
            self._idle.append(link)
        else:
            self.discard(link, Link.close)

    def close(self) -> None:
        """Close the links that are not in use. The next message opens a new one."""
        self._empty(Link.close)

    def drop_idle(self) -> None:
        """Drop the idle links, because another one was lost."""
        self._empty(Link.drop)

    def _empty(self, leave: Callable[[Link], None]) -> None:
        while (link := self.take()) is not None:
            self.discard(link, leave)

    def take(self) -> Link | None:
        """Return an idle link, or None; `put` it back, or `discard` it."""
        self._leave_to_parent()
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _publish(
        self, link: Link, body: bytes, deadline: float, options: Mapping[str, Any]
    ) -> None:
        try:
            self._publish_when_led(link, body, deadline, options)
        except Refused:
            self.put(link)
            raise
        except MessageNacked as error:
            self.put(link)
            raise Refused("the queue did not take it: nacked by the broker") from error
        except ChannelError as error:
            # The broker closed the channel (404, 403, 406).
            self.discard(link, Link.close)
            raise Refused(str(error)) from error
        except Exception as error:  # sockets, TLS, py-amqp: all kinds of errors
            self.discard(link)
            raise Unavailable(_reason(error, self.timeout)) from error
        except BaseException:
            self.discard(link)
            raise
        self.put(link)

    @staticmethod
    def _publish_when_led(
        link: Link, body: bytes, deadline: float, options: Mapping[str, Any]
    ) -> None:
        """Publish; on a new link, retry while the queue may be electing a leader.

        Another thread or process may have declared the queue a moment ago.
        """
        last_try = min(deadline, time.monotonic() + ELECTION) - ELECTION_PAUSE
        try:
            while True:
                if link.nacked:
                    link.renew_channel(_until(deadline))
                try:
                    return link.publish(body, _until(deadline), **options)
                except MessageNacked:
                    if not link.new or time.monotonic() > last_try:
                        raise
                time.sleep(ELECTION_PAUSE)
        finally:
            link.new = False

    def _make_link(self, timeout: float) -> Link:
        link = open_link(self.connect(), self.confirm, timeout)
        self._open[id(link)] = link
        if self._on_open is not None:
            try:
                self._on_open(link)
                link.follow()
            except BaseException:
                self.discard(link)
                raise
        return link

    def discard(self, link: Link, leave: Callable[[Link], None] = Link.drop) -> None:
        """Drop a link that met an error."""
        self._open.pop(id(link), None)
        leave(link)

    def _leave_to_parent(self) -> None:
        """Leave the parent process's links alone, after a fork."""
        if self._pid == os.getpid():
            return
        forget_inherited()
        self._idle = deque()
        self._open = {}
        self._pid = os.getpid()  # last, because other threads read it


class _Opening:
    """A link that a thread is opening."""

    def __init__(self, sender: Sender, timeout: float) -> None:
        self._sender = sender
        self._timeout = timeout
        self._link: Link | None = None
        self._error: BaseException | None = None
        self._finished = threading.Event()
        self._lock = threading.Lock()
        self._given_up = False
        try:
            reentry.thread(self._run, "oops_celery-connect").start()
        except RuntimeError:  # the interpreter is shutting down: no more threads
            self._run()

    def _run(self) -> None:
        try:
            self._link = self._sender._make_link(self._timeout)
        except BaseException as error:
            self._error = error
        with self._lock:
            self._finished.set()
            late = self._given_up
        if late and self._link is not None:
            self._sender.discard(self._link, Link.close)

    def result(self, deadline: float) -> Link:
        self._finished.wait(max(deadline - time.monotonic(), 0))
        with self._lock:
            self._given_up = not self._finished.is_set()
        if self._link is not None and not self._given_up:
            return self._link
        error = self._error or TimeoutError()
        raise Unavailable(_reason(error, self._sender.timeout)) from error


def _until(deadline: float) -> float:
    """Return the seconds left; never 0, which would mean no limit."""
    return max(deadline - time.monotonic(), 0.001)


def _reason(error: BaseException, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout:g} s"
    return f"{type(error).__name__}: {error}"
