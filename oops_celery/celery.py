"""The Celery app that ``celery -A oops_celery`` finds."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import celery.app.amqp
import click
import kombu
from celery import Celery, signals
from celery.loaders.app import AppLoader
from celery.utils.nodenames import default_nodename, host_format
from click.core import ParameterSource

from oops_celery import settings, wire
from oops_celery.settings import environment
from oops_celery.settings.requirements import check_worker, needed_by
from oops_celery.topology.default import DEFAULT
from oops_celery.topology.model import Topology
from oops_celery.transport import reentry
from oops_celery.transport.connection import Connection
from oops_celery.transport.sender import Sender
from oops_celery.wire import serializers as serializers

logger = logging.getLogger(__name__)

#: The default name of a worker. Another worker on this host may have Celery's default,
#: ``celery@%h``, and RabbitMQ gives the control queue to one worker of a name only.
WORKER_NAME = "oops@%h"

#: Celery settings that differ from Celery's defaults.
DEFAULTS: dict[str, Any] = {
    # JSON for Celery's own messages; the task has its own serializer.
    "accept_content": ["json", wire.SERIALIZER, wire.ADOPTED],
    # Declare nothing named "celery" on the user's broker.
    "task_default_exchange": "",
    "broker_connection_retry_on_startup": True,
    # Celery counts hosts, not rounds: with three hosts, a worker would end after 13
    # minutes without a broker.
    "broker_connection_max_retries": None,
    # RabbitMQ closes a channel if a report is at work for half an hour
    # (consumer_timeout), or if rights are withdrawn. Celery's worker would end, or wait
    # for that report without taking others.
    "broker_channel_error_retry": True,
    # A report that is stored when the connection is lost comes again, and is stored
    # under the same name: better than killing it half-way.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    # Leave alone what an operator's or a consumer's code prints.
    "worker_redirect_stdouts": False,
    # RabbitMQ 4.3 may deny transient queues that are not exclusive. These are Celery's
    # own defaults since 5.7; new in 5.6.
    "control_queue_exclusive": True,
    "event_queue_exclusive": True,
    "worker_consumer": "oops_celery.receiving.consumer:Consumer",
    "worker_autoscaler": "oops_celery.receiving.worker:Autoscaler",
    "worker_send_task_events": True,
}


class Loader(AppLoader):
    """Loads the configuration from `oops_celery.settings`."""

    def read_configuration(self, *_: Any, **__: Any) -> dict[str, Any]:
        """Return Celery's settings."""
        own: settings.Settings = self.app.oops
        with for_a_person():
            environment.check_options(self.app)
            broker = settings.broker(own.celery)
        queue = {"task_default_queue": own.queue}
        return {**DEFAULTS, **queue, **own.celery, **broker}


class AMQP(celery.app.amqp.AMQP):
    """Celery's messages, with the queues of the topology."""

    Connection = Connection

    @cached_property
    def queues(self) -> Any:
        """The queues that the worker consumes."""
        if self.app.topology.queue(self.app.oops.queue) is None:
            return self.queues_cls([])  # the worker runs consumers only
        # The worker's consumer declares it with the topology. "quorum" makes Celery
        # limit the prefetch in the way that every kind of queue supports.
        queue = kombu.Queue(
            self.app.oops.queue,
            no_declare=True,
            queue_arguments={"x-queue-type": "quorum"},
        )
        return self.Queues([queue])


class App(Celery):
    """A Celery app with the settings and the topology of oops_celery.

    It has one broker and no result backend, whatever Celery's own variables in the
    environment say: those belong to the application.
    """

    backend_cls = "disabled"

    def connection(self, hostname: Any = None, **options: Any) -> Any:
        """Return a connection to our broker."""
        return super().connection(hostname or self.conf["broker_url"], **options)

    def connection_for_read(self, url: Any = None, **options: Any) -> Any:
        """Return a connection to our broker."""
        return super().connection_for_read(url or self.conf["broker_url"], **options)

    def connection_for_write(self, url: Any = None, **options: Any) -> Any:
        """Return a connection to our broker."""
        return super().connection_for_write(url or self.conf["broker_url"], **options)

    def config_from_cmdline(self, argv: Any, *_: Any, **__: Any) -> None:
        """Refuse settings after ``--`` on the command line.

        Raises:
            ValueError: Always; Celery prints it as one line.
        """
        raise ValueError(
            f"{' '.join(argv)}: set settings of Celery in the environment, as "
            "OOPS_WORKER_CONCURRENCY=4"
        )

    @cached_property
    def oops(self) -> settings.Settings:
        """The settings in force.

        Raises:
            SettingsError: A setting cannot be used.
        """
        with for_a_person():
            return settings.load()

    @cached_property
    def topology(self) -> Topology:
        """The exchanges and queues in force.

        Raises:
            TopologyError: The file cannot be used.
        """
        with for_a_person(), needed_by("the topology"):
            file = self.oops.topology
            return DEFAULT if file is None else Topology.load(file)

    @cached_property
    def oops_config(self) -> Any:
        """The `oops.Config` that takes reports in the worker.

        Raises:
            SettingsError: It cannot be loaded.
        """
        from oops_celery.repository.config import load_config

        with for_a_person():
            return load_config(self.oops)

    @cached_property
    def on_amqp(self) -> bool:
        """Whether the broker speaks AMQP; others have no TTL and no dead letters."""
        return bool(self.connection_for_write().transport.driver_type == "amqp")

    @property
    def broker_name(self) -> str:
        """The broker's URLs, without user and password."""
        urls = self.conf["broker_url"]
        known = [urls] if isinstance(urls, str) else urls
        return ", ".join(map(settings.hide_password, known))

    @cached_property
    def sender(self) -> Sender:
        """Publishes retries and dead letters."""
        return Sender(self.connection_for_write, self.oops.publish_timeout)

    @cached_property
    def Worker(self) -> Any:  # noqa: N802 - Celery's name
        """The worker.

        Raises:
            SettingsError: A package is missing, or too old.
        """
        with for_a_person():
            check_worker()
        return self.subclass_with_self("oops_celery.receiving.worker:Worker")


@contextmanager
def for_a_person() -> Iterator[None]:
    """Turn an error into one line on the terminal, if a command is running.

    Not in a publish: the command may be the application's own (``flask run``), and the
    publisher answers ``[]``.
    """
    try:
        yield
    except ValueError as error:  # SettingsError, TopologyError
        if click.get_current_context(silent=True) is None or reentry.inside():
            raise
        raise click.ClickException(str(error)) from None


app = App(
    "oops_celery",
    amqp=AMQP,
    loader=Loader,
    include=[
        "oops_celery.tasks.republish",
        "oops_celery.tasks.dispatch",
        "oops_celery.tasks.dead_letters",
    ],
    # An application that imports oops_celery keeps its own app. Celery's fixup for
    # Django would make this app the default one, and accepts only a loader's name.
    set_as_current=False,
    fixups=[],
)


def worker_name() -> str:
    """Return the default name of a worker, such as ``oops@host``."""
    return str(host_format(default_nodename(WORKER_NAME)))


def _name_worker(context: click.Context, _: click.Parameter, __: Any) -> None:
    if context.get_parameter_source("hostname") == ParameterSource.DEFAULT:
        context.params["hostname"] = worker_name()


# Celery's place for more options of ``celery worker``, read after its own. So files
# named after the worker have this name too: ``--pidfile %n.pid``.
app.user_options["worker"].add(
    click.Option(
        ["--default-hostname"], hidden=True, expose_value=False, callback=_name_worker
    )
)


def _configure_flower() -> None:
    """Make ``celery -A oops_celery flower`` read our ``flowerconfig.py``.

    Celery imports the app when it knows its command. A flowerconfig.py in the current
    folder takes precedence, and so does ``--conf``.
    """
    context = click.get_current_context(silent=True)
    if (
        context is not None
        and context.invoked_subcommand == "flower"
        and re.match(r"oops_celery\b", str(context.params.get("app")))
        and not os.path.exists("flowerconfig.py")
    ):
        file = os.path.join(os.path.dirname(__file__), "operations/flowerconfig.py")
        os.environ.setdefault("FLOWER_CONF", file)


_configure_flower()
app.user_options["worker"].add(environment.WithoutVariables())


@signals.celeryd_init.connect
def _say_what_is_ignored(conf: Any = None, **_: Any) -> None:
    if conf is not app.conf:
        return
    if wire.BSON_LIBRARY != "pymongo":
        logger.warning(
            "the module bson is the pure Python package, which is some 30 times slower "
            "than PyMongo's: pip install --force-reinstall --no-deps pymongo"
        )
    if app.oops.ignored:
        logger.warning(
            "celeryconfig: %s ignored: only names that start with OOPS_ count here",
            ", ".join(app.oops.ignored),
        )
    ignored = environment.ignored()
    if ignored:
        logger.warning(
            "environment: %s ignored: CELERY_ names are the application's; set "
            "RABBITMQ_URL, OOPS_ names, or options of the command line",
            ", ".join(ignored),
        )
