"""Celery's worker, which starts only if everything that it needs is there."""

from __future__ import annotations

import gc
import inspect
import logging
import logging.config
import os
from typing import Any

import celery.apps.worker
import celery.worker.autoscale
from celery import signals
from celery.app.defaults import DEFAULTS as CELERYS_DEFAULTS
from celery.concurrency import prefork
from celery.concurrency.base import BasePool
from celery.worker.control import control_command

from oops_celery import logs
from oops_celery.celery import App, for_a_person, worker_name
from oops_celery.errors import Away, RepositoryError, SettingsError, TopologyError
from oops_celery.receiving.batches import MAX_REPORTS
from oops_celery.receiving.event_loop import LOOP
from oops_celery.receiving.housekeeping import Housekeeping
from oops_celery.receiving.letters import letter_queues
from oops_celery.receiving.prefork import Pool
from oops_celery.repository.store import Repository
from oops_celery.settings.environment import check_worker_options
from oops_celery.topology.imports import check_imports, guarded, import_object
from oops_celery.topology.problems import read_file

#: Names a file of `logging.config.fileConfig`, as in amqp-dispatcher.
LOGGING_FILE_CONFIG = "LOGGING_FILE_CONFIG"

logger = logging.getLogger("amqp-dispatcher")


class Worker(celery.apps.worker.Worker):
    """A worker for the reports and for the consumers of the topology.

    The pool has a place for each consumer instance with ``prefork: true``, beside those
    of ``--concurrency``, so neither keeps the other waiting.
    """

    #: Messages to prefetch for each place of the pool.
    prefetch_multiplier: int
    pool_cls: type[BasePool]

    def __init__(
        self, app: App | None = None, hostname: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(app, hostname or worker_name(), **kwargs)

    @property
    def places(self) -> int:
        """Places of the pool for consumers that ask for a process."""
        return sum(
            entry.consumer_count
            for entry in self.app.topology.consumers
            if entry.prefork
        )

    def on_before_init(self, **kwargs: Any) -> None:
        """Check everything that needs no broker."""
        with for_a_person():
            check_worker_options(self.app, kwargs)
            _check(self.app)
        super().on_before_init(**kwargs)
        self.app.steps["worker"].add(Housekeeping)

    def prepare_args(self, autoscale: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Add the places for consumers to ``--autoscale``."""
        if autoscale:
            most, least = autoscale
            if most < 1 or least < 0:
                with for_a_person():
                    raise SettingsError(
                        f"--autoscale={most},{least}: must be at least one process"
                    )
            # With no place at first, nothing would limit the prefetch.
            autoscale = most + self.places, max(least, 1) + self.places
        return dict(super().prepare_args(autoscale=autoscale, **kwargs))

    def on_init_blueprint(self) -> None:
        """Set up logging, then call the startup handler, before anything connects."""
        super().on_init_blueprint()
        logs.escape_all()
        if self.pool_cls is prefork.TaskPool:
            self.pool_cls = Pool
        setting = "worker_prefetch_multiplier"
        usual = self.prefetch_multiplier == CELERYS_DEFAULTS[setting]
        if (
            usual
            and setting not in self.app.oops.celery
            and self.pool_cls.uses_semaphore
        ):
            self.prefetch_multiplier = 2 * MAX_REPORTS  # one at work, and the next
        topology = self.app.topology
        self.concurrency += self.places
        grows = self.pool_cls.uses_semaphore or hasattr(self.pool_cls, "grow")
        if self.options.get("autoscale") and not grows:
            with for_a_person():
                raise SettingsError(
                    "--autoscale: this kind of pool cannot grow; set --concurrency"
                )
        if topology.startup_handler:
            with for_a_person():
                _call(topology.startup_handler)


class Autoscaler(celery.worker.autoscale.Autoscaler):
    """Celery's autoscaler; its commands do not count the consumers' places."""

    def update(self, max: int | None = None, min: int | None = None) -> Any:  # noqa: A002
        """Change the most and the least number of places for reports."""
        places: int = self.worker.places
        most, least = super().update(
            None if max is None else max + places, None if min is None else min + places
        )
        return most - places, least - places


@control_command(args=[("queue", str)], signature="<queue>")
def add_consumer(state: Any, queue: str, **_: Any) -> dict[str, str]:
    """Consume our queue again after cancel_consumer; no other queue."""
    own = state.app.oops.queue
    if queue != own:
        return {"error": f"this worker takes reports from {own} alone; set OOPS_QUEUE"}
    state.consumer.call_soon(state.consumer.add_task_queue, queue)
    return {"ok": f"add consumer {queue}"}


def _check(app: App) -> None:
    """Check the settings, and the Python objects that the topology names.

    Raises:
        SettingsError, TopologyError: Something cannot be used; names every mistake.
    """
    topology, queue = app.topology, app.oops.queue
    if topology.queue(queue) is not None:
        config = app.oops_config
        if isinstance(config, Repository):
            _prepare(config)
    elif not topology.consumers:
        raise SettingsError(
            f"OOPS_QUEUE={queue!r}: {topology.source} has no such queue, and no "
            "consumers"
        )
    if letter_queues(app) and (app.oops.config or topology.queue(queue) is None):
        _prepare(Repository(app.oops.repository))
    for name in {queue, *(entry.queue for entry in topology.consumers)}:
        if name in topology.filed:
            raise SettingsError(
                f"{topology.source}: queue {name!r} has file_dead_letters: true, and "
                "another consumer: remove one of them"
            )
    for entry in topology.consumers:
        if entry.queue == queue and topology.queue(queue) is not None:
            raise SettingsError(
                f"OOPS_QUEUE={queue!r} is for reports, but {topology.source} has a "
                f"consumer on it, {entry.consumer}: name another queue in one of them"
            )
    if topology.consumers or topology.startup_handler:
        problems = check_imports(read_file(topology.source))
        if problems:
            raise TopologyError(topology.source, tuple(problems))


def _prepare(repository: Repository) -> None:
    """Make or upgrade the tables of a database. One that is away may come later.

    Raises:
        SettingsError: It can never be used.
    """
    try:
        repository.upgrade()
    except Away as error:
        logger.warning("the repository is away: %s", error)
    except RepositoryError as error:
        raise SettingsError(f"OOPS_REPOSITORY: {error}") from error


def _call(handler: str) -> None:
    def call() -> None:
        result = import_object(handler)()
        if inspect.isawaitable(result):
            LOOP.run(result)

    guarded(f"startup_handler {handler}", call)
    logger.info("startup_handler %s has run, in process %d", handler, os.getpid())


@signals.worker_process_init.connect
def _call_again(**_: Any) -> None:
    """Call the startup handler in a pool process for consumers, too."""
    from oops_celery.celery import app

    topology = app.topology
    if topology.startup_handler and any(one.prefork for one in topology.consumers):
        try:
            _call(topology.startup_handler)
        except ValueError as error:  # the worker would start process after process
            logger.critical("%s", error)


@signals.worker_process_init.connect
def _freeze(**_: Any) -> None:
    """Exempt what a pool process has loaded from garbage collection (`gc.freeze`).

    Celery's record of a failure holds some 400 KB, in cycles. If Python had to scan all
    loaded objects too, it would collect so seldom that they become 100 MB.
    """
    gc.freeze()


def _set_up_logging(**_: Any) -> None:
    path = os.environ[LOGGING_FILE_CONFIG]
    try:
        logging.config.fileConfig(path, disable_existing_loggers=False)
    except Exception as error:  # the file may contain any expression
        with for_a_person():
            raise SettingsError(
                f"{LOGGING_FILE_CONFIG}={path!r}: {type(error).__name__}: {error}; it "
                "must be a file for Python's logging.config.fileConfig"
            ) from None


if os.environ.get(LOGGING_FILE_CONFIG):
    # If this signal has a receiver, Celery leaves logging alone.
    signals.setup_logging.connect(_set_up_logging)
