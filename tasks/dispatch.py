"""A task for each class in ``consumers:`` of the topology, named after the class."""

from __future__ import annotations

from functools import partial
from typing import Any

from celery import Task, signals

from oops_celery import wire
from oops_celery.celery import app
from oops_celery.dispatcher.instances import Instances, Kind
from oops_celery.dispatcher.runners import message_of
from oops_celery.receiving.event_loop import LOOP
from oops_celery.receiving.outcome import Task as OutcomeStands
from oops_celery.topology.imports import import_object


def _register(target: str) -> Instances:
    instances = Instances(Kind(partial(import_object, target), target))

    @app.task(
        bind=True,
        name=target,
        serializer=wire.ADOPTED,
        Request="oops_celery.dispatcher.request:MessageRequest",
        base=OutcomeStands,
        ignore_result=True,
        acks_late=True,
        reject_on_worker_lost=True,
        acks_on_failure_or_timeout=False,  # before Celery 5.7, see Request
        retry_on_worker_lost=False,
        acks_on_timeout=False,
        acks_on_failure=True,
    )
    def dispatch(self: Task, body: bytes) -> None:
        instances.consume(message_of(body, self.request), app.sender.send)

    return instances


#: The instances of each class in this process.
INSTANCES = {
    target: _register(target)
    for target in dict.fromkeys(entry.consumer for entry in app.topology.consumers)
}


@signals.worker_process_shutdown.connect
@signals.worker_shutdown.connect
def _shut_down(**_: Any) -> None:
    for instances in INSTANCES.values():
        instances.close()
    LOOP.stop()
