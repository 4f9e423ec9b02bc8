"""The nodes that are processes: what pytest-celery offers works on them."""

from __future__ import annotations

import pytest

from oops_celery import wire
from tests.faults.nodes import Setup
from tests.faults.processes import is_alive
from tests.support import eventually


@pytest.mark.workers(2)
def test_a_setup_of_one_broker_and_two_workers(celery_setup: Setup) -> None:
    assert len(celery_setup) == 3
    assert celery_setup.ready(ping=False, control=True, docker=True)
    names = {name for answer in celery_setup.app.control.ping() for name in answer}
    assert {name.split("@")[0] for name in names} == {"w1", "w2"}
    assert celery_setup.worker_cluster.versions == {celery_setup.worker.version}


def test_nodes_can_be_killed_and_started_again(celery_setup: Setup) -> None:
    for node in (celery_setup.worker, celery_setup.broker):
        before = node.container.pid
        node.kill()
        assert node.container.status == "exited"
        assert not is_alive(before)
        node.restart()
        assert node.container.status == "running"
        assert node.container.pid != before
    celery_setup.worker.assert_log_exists("ready.")
    celery_setup.broker.assert_log_exists("Server startup complete")


def test_a_frozen_worker_does_nothing(celery_setup: Setup) -> None:
    with celery_setup.worker.pause():
        states = celery_setup.worker.get_running_processes_info(["status"])
        assert {one["status"] for one in states} == {"stopped"}
        sent = celery_setup.load.report()
        assert celery_setup.records.count_kept() == 0
    eventually(lambda: celery_setup.records.count_kept() == 1)
    assert list(celery_setup.settle().kept) == [sent]


def test_the_ledger_knows_each_place(celery_setup: Setup) -> None:
    """What is nowhere is lost; what is there in two files is there twice."""
    sent = [celery_setup.load.report() for _ in range(4)]
    eventually(lambda: celery_setup.records.count_kept() == 4)
    ledger = celery_setup.settle()
    ledger.assert_nothing_lost()
    assert sorted(ledger.kept) == sorted(sent)
    first, second, *_ = celery_setup.home.glob("oopses/*/*")
    lost = wire.decode(first.read_bytes())["id"]
    twice = wire.decode(second.read_bytes())["id"]
    first.unlink()
    copy = celery_setup.home / "oopses/2000-01-01" / second.name
    copy.parent.mkdir()
    copy.write_bytes(second.read_bytes())
    ledger = celery_setup.ledger()
    assert ledger.lost == [lost]
    assert ledger.twice == [twice]
    ledger.parked.update({lost: 2, twice: 1})
    assert ledger.lost == []
    assert ledger.twice == sorted([lost, twice])
