"""pytest-celery's fixtures, with processes of this machine in place of containers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_celery import CeleryWorkerCluster

from tests.faults.nodes import BrokerNode, Setup, WorkerNode, prepare
from tests.faults.processes import BrokerProcess, WorkerProcess


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "workers(count, **environ): workers of the setup, and their settings"
    )


@pytest.fixture(scope="session")
def broker_processes() -> Iterator[list[BrokerProcess]]:
    """RabbitMQ nodes; the last one is the one to use."""
    processes: list[BrokerProcess] = []
    yield processes
    for process in processes:
        process.teardown()


@pytest.fixture
def celery_broker(broker_processes: list[BrokerProcess]) -> Iterator[BrokerNode]:
    """A node with empty queues."""
    if not broker_processes or broker_processes[-1].status != "running":
        broker_processes.append(BrokerProcess())
        broker_processes[-1].start()
    process = broker_processes[-1]
    node = BrokerNode(process)
    node.clean()
    yield node
    if process.spoilt:
        process.kill()


@pytest.fixture
def celery_backend_cluster() -> None:
    """Reports have no results."""


@pytest.fixture
def celery_worker_cluster(
    request: pytest.FixtureRequest, celery_broker: BrokerNode, tmp_path: Path
) -> Iterator[CeleryWorkerCluster]:
    """One worker, or as the marker ``workers`` says."""
    marker = request.node.get_closest_marker("workers")
    count = marker.args[0] if marker else 1
    settings = marker.kwargs if marker else {}
    prepare(tmp_path)
    url = celery_broker.container.url
    processes = [
        WorkerProcess(f"w{number}", tmp_path, url, **settings)
        for number in range(1, count + 1)
    ]
    try:
        for process in processes:
            process.launch()
        for process in processes:
            process.ready()
        yield CeleryWorkerCluster(*(WorkerNode(one, None) for one in processes))
    finally:
        for process in processes:
            process.teardown()


@pytest.fixture
def celery_setup_cls() -> type[Setup]:
    return Setup
