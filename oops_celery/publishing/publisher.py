"""Publish reports to the broker; an id comes back when the broker has the report."""

from __future__ import annotations

import encodings.idna  # noqa: F401 - resolving a host needs it; 4 ms of a first report
import logging
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from celery import Celery
from celery.utils.nodenames import anon_nodename

from oops_celery import wire
from oops_celery.errors import SendError, SettingsError, Unavailable
from oops_celery.publishing.breaker import Breaker
from oops_celery.transport import reentry
from oops_celery.transport.link import Link
from oops_celery.transport.pipeline import send_many
from oops_celery.transport.sender import Sender
from oops_celery.wire.task import TASK_NAME, task_options

logger = logging.getLogger(__name__)

Collector = Callable[[Mapping[str, Any], bool], list[str]]

#: Takes every report of this process in place of the broker; see `divert`.
_collector: Collector | None = None


class Publisher:
    """Publish OOPS reports as Celery tasks, in place of `oops_amqp.Publisher`.

    Call it with a report, or give it to an `oops.Config`::

        config.publisher = oops_celery.Publisher()

    It returns ``[id]`` when the broker has confirmed the report and routed it to a
    queue; else ``[]``, so that `oops.publish_with_fallback` tries the next publisher.
    It never raises because of the broker, and never takes longer than ``timeout``.
    After a failure it answers ``[]`` at once, and tries the broker again after a
    growing pause: itself if the broker refused quickly, else in a background thread.

    It reads its settings at the first report, as Celery does. If they cannot be used,
    it logs that and does not publish the report. Lines logged during a publish are
    never published themselves: such a call returns ``[]``.

    Safe with many threads, after a fork, and under gevent and eventlet.

    Args:
        connection_factory: A Celery app (by default the app of oops_celery), or a
            function that returns an `amqp.Connection` or a `kombu.Connection`. With an
            app, the topology is declared on each new connection, if the broker permits
            it; with a function nothing is declared, as in oops-amqp.
        exchange_name: Exchange to publish to; by default ``OOPS_EXCHANGE``.
        routing_key: Routing key; by default ``OOPS_ROUTING_KEY``.
        inherit_id: Keep the ``id`` that a report already has.
        timeout: Seconds that one report may take.
        max_size: Bytes of the largest report.
        confirm: Whether to wait until the broker has the report. Without it, ``[id]``
            only means that the report was written to the network.

    Attributes:
        exchange_name, routing_key, timeout, max_size: As given; else the settings.
    """

    exchange_name: str
    routing_key: str
    timeout: float
    max_size: int

    def __init__(
        self,
        connection_factory: Celery | Callable[[], Any] | None = None,
        exchange_name: str | None = None,
        routing_key: str | None = None,
        inherit_id: bool = False,
        *,
        timeout: float | None = None,
        max_size: int | None = None,
        confirm: bool = True,
    ) -> None:
        from oops_celery.celery import app

        given = {
            "exchange_name": exchange_name,
            "routing_key": routing_key,
            "timeout": timeout,
            "max_size": max_size,
        }
        vars(self).update(
            {name: value for name, value in given.items() if value is not None}
        )
        self.inherit_id = inherit_id
        seconds = (lambda: app.oops.publish_timeout) if timeout is None else timeout
        factory = app if connection_factory is None else connection_factory
        if isinstance(factory, Celery):
            self._app = factory
            factory = factory.connection_for_write
            self._sender = Sender(factory, seconds, confirm, _declare)
        else:
            self._app = app
            self._sender = Sender(factory, seconds, confirm)
        self._health = Breaker(self._sender)
        weakref.finalize(self, _close, self._sender)  # at the program's end too

    @property
    def connection_factory(self) -> Callable[[], Any]:
        """Makes the next connections; may be replaced."""
        return self._sender.connect

    @connection_factory.setter
    def connection_factory(self, factory: Callable[[], Any]) -> None:
        self._sender.connect = factory

    def __getattr__(self, name: str) -> Any:
        """Read a setting that was not given, when it is first needed.

        Raises:
            SettingsError: The settings cannot be used.
        """
        if name not in _SETTINGS:
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}"
            )
        from oops_celery.celery import app

        value = getattr(app.oops, _SETTINGS[name])
        setattr(self, name, value)
        return value

    def __repr__(self) -> str:
        known = [
            f"{words} {vars(self)[name]!r}"
            for name, words in (
                ("exchange_name", "exchange"),
                ("routing_key", "routing key"),
            )
            if name in vars(self)  # repr() reads no settings
        ]
        return f"<{type(self).__name__} to {', '.join(known) or 'OOPS_EXCHANGE'}>"

    def __call__(self, report: Mapping[str, Any]) -> list[str]:
        """Publish a report, which is not changed.

        Returns:
            The report's id in a list; an empty list if the broker did not take it.
        """
        if reentry.inside():
            return []
        with reentry.publishing():
            return self._publish(report)

    def _publish(self, report: Mapping[str, Any]) -> list[str]:
        if _collector is not None:
            return _collector(report, self.inherit_id)
        if not self._health.admit():
            return []
        encoded = wire.encode(report, self.inherit_id)
        started = time.monotonic()
        try:
            options = self._options(encoded, report)
            if options is None:
                return []
            self._sender.send(encoded.body, **options)
        except SettingsError as error:  # perhaps read too early: try again later
            self._health.failed(Unavailable(str(error)), 0)
            return []
        except SendError as error:
            self._health.failed(error, time.monotonic() - started)
            return []
        self._health.worked()
        return [encoded.id]

    def publish_many(self, reports: Iterable[Mapping[str, Any]]) -> Iterator[list[str]]:
        """Publish reports with many confirms in flight: for bulk work in one thread.

        Args:
            reports: Read one by one, a window ahead of what is yielded.

        Yields:
            For each report, in order, what a call would return. When the broker is lost
            for good, the rest is not tried.
        """
        reports = reentry.each_outside(reports)
        if _collector is not None:
            return (_collector(report, self.inherit_id) for report in reports)
        return self.publish_encoded(
            (wire.encode(report, self.inherit_id), report) for report in reports
        )

    def publish_encoded(
        self, reports: Iterable[tuple[wire.Encoded, Mapping[str, Any]]]
    ) -> Iterator[list[str]]:
        """Publish encoded reports with many confirms in flight; see `publish_many`.

        Args:
            reports: Each encoded report, and the report itself for the summary.
        """
        if reentry.inside():
            return ([] for _ in reports)
        return reentry.each_inside(self._publish_encoded(reports))

    def _publish_encoded(
        self, reports: Iterable[tuple[wire.Encoded, Mapping[str, Any]]]
    ) -> Iterator[list[str]]:
        ids: deque[str | None] = deque()

        def messages() -> Iterator[tuple[bytes, dict[str, Any]]]:
            for encoded, report in reports:
                may = self._health.admit()
                options = None
                try:
                    options = self._options(encoded, report) if may else None
                except SettingsError as error:
                    self._health.failed(Unavailable(str(error)), 0)
                ids.append(encoded.id if options else None)
                if options:
                    yield encoded.body, options

        for error in send_many(self._sender, messages()):
            while (report_id := ids.popleft()) is None:
                yield []
            if error is None:
                self._health.worked()
                yield [report_id]
            else:
                self._health.failed(error, 0)
                yield []
        yield from ([] for _ in ids)

    def _options(
        self, encoded: wire.Encoded, report: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Return the options of a report's message; None if the report is too large."""
        if len(encoded.body) > self.max_size:
            logger.error(
                "%s is not published: it has %d bytes, and %d are allowed (max_size)",
                encoded.task_id,
                len(encoded.body),
                self.max_size,
            )
            return None
        task_id = encoded.task_id
        own = {"id": task_id, "root_id": task_id, "argsrepr": wire.summary(report)}
        own["origin"] = anon_nodename()  # differs after a fork
        return {
            **self._template,
            "headers": {**self._template["headers"], **own},
            "correlation_id": task_id,
            "exchange": self.exchange_name,
            "routing_key": self.routing_key,
        }

    @cached_property
    def _template(self) -> dict[str, Any]:
        """The options of every report, which Celery makes once."""
        return task_options(self._app, TASK_NAME, "", "")

    @property
    def trouble(self) -> str:
        """Why the last report was not taken, and what to do; empty if it was."""
        return self._health.reason

    def close(self) -> None:
        """Close the idle connections; the next report opens a new one."""
        _close(self._sender)


#: Attributes that come from settings if they are not given.
_SETTINGS = {
    "exchange_name": "exchange",
    "routing_key": "routing_key",
    "timeout": "publish_timeout",
    "max_size": "max_size",
}


def divert(collector: Collector | None) -> Collector | None:
    """Give every report of this process to a function instead of the broker, for tests.

    Args:
        collector: Gets a report and whether to keep its id; returns the id in a list.
            None: reports are sent again.

    Returns:
        The collector before.
    """
    global _collector
    before, _collector = _collector, collector
    return before


def _close(sender: Sender) -> None:
    with reentry.publishing():
        sender.close()


def _declare(link: Link) -> None:
    """Declare the topology if the broker permits it; publish in any case."""
    from oops_celery.celery import app

    try:
        topology = app.topology
    except ValueError as error:  # TopologyError; naming it would import its module
        _declared.say(str(error))
        return
    refusals: list[Any] = []
    if not link.is_amqp or not topology.declare_at_once(link.channel):
        refusals = topology.declare(link.connection.channel)
    _declared.say("; ".join(map(str, refusals)))


class _Changes:
    """Logs a warning only when it differs from the last one."""

    def __init__(self) -> None:
        self._last = ""

    def say(self, text: str) -> None:
        new, self._last = text != self._last, text
        if text and new:
            logger.warning("%s", text)


_declared = _Changes()


def __getattr__(name: str) -> Any:
    """Make the ready-made publisher at its first use."""
    if name != "publisher":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["publisher"] = made = Publisher()
    return made
