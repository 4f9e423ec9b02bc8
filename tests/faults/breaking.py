"""The faults. Each happens under load, leaves all mended, and proves that it happened.

A fault takes the setup and a source of chance: a seed gives the same choices again, but
not the same timing.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.nodes import Setup, WorkerNode
from tests.faults.processes import PATIENCE, is_alive
from tests.support import eventually

Fault = Callable[[Setup, random.Random], None]

#: Reports that are told of while a fault lasts, before it is mended.
ENOUGH = 20

#: Reports that a worker with two processes takes from the broker, at most.
PREFETCHED = 2 * 64

#: What RabbitMQ's log says of a client that is dropped, and a worker's of that.
MISSED = "missed heartbeats from client"
LOST = "Connection to broker lost"


def wait_for_told(setup: Setup, where: str, more: int = ENOUGH) -> None:
    """Wait until publishers were told "returned" or "fallback" so much more often."""
    wanted = setup.records.count_told(where) + more
    eventually(lambda: setup.records.count_told(where) >= wanted, PATIENCE)


def wait_for_log(node: WorkerNode, text: str) -> None:
    """Wait until the worker says so once more."""
    wait_for_more(node, text, node.logs().count(text))


def wait_for_more(node: WorkerNode, text: str, before: int) -> None:
    eventually(lambda: node.logs().count(text) > before, PATIENCE)


# The worker's processes.


def kill_pool_process(setup: Setup, chance: random.Random) -> None:
    """SIGKILL, as the out-of-memory killer sends it."""
    worker = chance.choice(setup.workers)
    pids = eventually(lambda: sorted(worker.pool_pids()))
    victim = chance.choice(pids)
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: victim not in worker.pool_pids(), PATIENCE)
    eventually(lambda: len(worker.pool_pids()) >= len(pids), PATIENCE)


def kill_worker(setup: Setup, chance: random.Random) -> None:
    """SIGKILL to all its processes at once."""
    worker = chance.choice(setup.workers)
    worker.kill()
    assert worker.container.exit_code == -signal.SIGKILL
    worker.restart()


def kill_main_process(setup: Setup, chance: random.Random) -> None:
    """SIGKILL to the main process alone: the pool must see that it is an orphan."""
    worker = chance.choice(setup.workers)
    pool = worker.pool_pids()
    os.kill(worker.container.group, signal.SIGKILL)
    worker.container.wait()
    eventually(lambda: not any(map(is_alive, pool)), PATIENCE)
    worker.restart()


def stop_worker(setup: Setup, chance: random.Random) -> None:
    """SIGTERM: it finishes what it has, and ends."""
    worker = chance.choice(setup.workers)
    worker.kill("SIGTERM")
    assert worker.container.wait(PATIENCE) == 0
    worker.restart()


def interrupt_worker(setup: Setup, chance: random.Random) -> None:
    """Ctrl-C in a terminal: SIGINT to all its processes."""
    worker = chance.choice(setup.workers)
    os.killpg(worker.container.group, signal.SIGINT)
    assert worker.container.wait(PATIENCE) == 1  # Celery says so of an interrupt
    worker.restart()


def freeze_worker(setup: Setup, chance: random.Random) -> None:
    """SIGSTOP; reports go on coming meanwhile."""
    worker = chance.choice(setup.workers)
    with worker.pause():
        assert worker.container.status == "paused"
        wait_for_told(setup, "returned", chance.choice([ENOUGH, 10 * ENOUGH]))


def freeze_worker_until_dropped(setup: Setup, chance: random.Random) -> None:
    """SIGSTOP until the broker closes its connection: its reports are free again."""
    worker = chance.choice(setup.workers)
    # One that is just connecting again has no heartbeats yet that it could miss.
    eventually(lambda: setup.broker.knows(worker), PATIENCE)
    before = setup.broker.logs().count(MISSED)
    lost = worker.logs().count(LOST)
    with worker.pause():
        eventually(lambda: setup.broker.logs().count(MISSED) > before, PATIENCE)
    wait_for_more(worker, LOST, lost)


# The broker.


def kill_broker(setup: Setup, chance: random.Random) -> None:
    """SIGKILL to the Erlang VM; started again on the same data."""
    victim = setup.broker.container.pid
    setup.broker.kill()
    assert setup.broker.container.exit_code == -signal.SIGKILL
    wait_for_told(setup, "fallback", chance.choice([0, ENOUGH]))
    setup.broker.restart()
    assert setup.broker.container.pid != victim


def restart_broker(setup: Setup, chance: random.Random) -> None:
    victim = setup.broker.container.pid
    setup.broker.restart()
    assert setup.broker.container.pid != victim


def freeze_broker(setup: Setup, chance: random.Random) -> None:
    """SIGSTOP until publishers have given up on it."""
    with setup.broker.pause():
        wait_for_told(setup, "fallback")


def memory_alarm(setup: Setup, chance: random.Random) -> None:
    setup.broker.ctl("set_vm_memory_high_watermark", "0.000001")
    try:
        wait_for_told(setup, "fallback")
    finally:
        setup.broker.ctl("set_vm_memory_high_watermark", "0.4")


def disk_alarm(setup: Setup, chance: random.Random) -> None:
    setup.broker.ctl("set_disk_free_limit", "1000000GB")
    try:
        wait_for_told(setup, "fallback")
    finally:
        setup.broker.ctl("set_disk_free_limit", "50MB")


def reset_connections(setup: Setup, chance: random.Random) -> None:
    before = [one.logs().count(LOST) for one in setup.workers]
    setup.broker.ctl("close_all_connections", "a fault")
    for worker, count in zip(setup.workers, before):
        wait_for_more(worker, LOST, count)


def kill_broker_and_worker(setup: Setup, chance: random.Random) -> None:
    """A power cut, but for what the kernel has not yet written to the disk."""
    worker = chance.choice(setup.workers)
    setup.broker.kill()
    worker.kill()
    setup.broker.restart()
    worker.restart()


# Queues.


def delete_queue(setup: Setup, chance: random.Random) -> None:
    """The queue of reports is deleted while it is empty: else they go with it."""
    deletes(setup, "oopses")
    wait_for_told(setup, "returned")  # somebody has declared it again


def delete_retry_queue(setup: Setup, chance: random.Random) -> None:
    """Refused reports have nowhere to wait: they go back to their queue."""
    deletes(setup, "oopses.retry.1")
    with order(setup, "EIO"):
        wait_for_log(setup.worker, "goes back to its queue")


def deletes(setup: Setup, queue: str) -> None:
    setup.load.signal(signal.SIGSTOP)
    try:
        eventually(setup.broker.is_drained, PATIENCE)
        assert setup.broker.delete(queue) == 0
    finally:
        setup.load.signal(signal.SIGCONT)


# The repository.


@contextmanager
def order(setup: Setup, name: str) -> Iterator[None]:
    """Have the worker's publisher do something with each report; see `keeper`."""
    path = setup.home / "orders" / name
    path.touch()
    try:
        yield
    finally:
        path.unlink()


@contextmanager
def away(setup: Setup) -> Iterator[Path]:
    """Take the folder of the repository away, and bring it back with all its files."""
    folder = setup.home / "oopses"
    elsewhere = setup.home / "oopses.away"
    folder.rename(elsewhere)
    try:
        yield folder
    finally:
        if folder.is_file():
            folder.unlink()
        for path in list(elsewhere.glob("*/*")):
            target = folder / path.parent.name
            target.mkdir(parents=True, exist_ok=True)
            path.replace(target / path.name)
        for path in elsewhere.glob("*"):
            path.rmdir()
        elsewhere.rmdir()


def file_for_repository(setup: Setup, chance: random.Random) -> None:
    """A file is where the folder was: nothing can be written."""
    with away(setup) as folder:
        folder.touch()
        wait_for_log(setup.worker, "NotADirectoryError")


def repository_gone(setup: Setup, chance: random.Random) -> None:
    """The folder is gone: a new one is made."""
    with away(setup) as folder:
        eventually(folder.is_dir, PATIENCE)


def publisher_says_full(setup: Setup, chance: random.Random) -> None:
    """The worker's publisher raises ENOSPC."""
    with order(setup, "ENOSPC"):
        wait_for_log(setup.worker, "No space left on device")


def publisher_says_read_only(setup: Setup, chance: random.Random) -> None:
    """The worker's publisher raises EROFS."""
    with order(setup, "EROFS"):
        wait_for_log(setup.worker, "Read-only file system")


def slow_repository(setup: Setup, chance: random.Random) -> None:
    """Each report takes 0.1 s, and more come than that allows: the broker has them."""

    def others_wait() -> bool:
        ready, in_workers = setup.broker.counts()["oopses"]
        return ready > ENOUGH and in_workers <= PREFETCHED * len(setup.workers)

    with order(setup, "slow"):
        setup.wait_for_kept(ENOUGH)
        eventually(others_wait, PATIENCE)


def kill_worker_while_repository_is_away(setup: Setup, chance: random.Random) -> None:
    with away(setup) as folder:
        folder.touch()
        wait_for_log(setup.worker, "NotADirectoryError")
        before = [one.logs().count("NotADirectoryError") for one in setup.workers]
        kill_worker(setup, chance)
        for worker, count in zip(setup.workers, before):
            wait_for_more(worker, "NotADirectoryError", count)


FAULTS: tuple[Fault, ...] = (
    kill_pool_process,
    kill_worker,
    kill_main_process,
    stop_worker,
    interrupt_worker,
    freeze_worker,
    freeze_worker_until_dropped,
    kill_broker,
    restart_broker,
    freeze_broker,
    memory_alarm,
    disk_alarm,
    reset_connections,
    kill_broker_and_worker,
    delete_queue,
    delete_retry_queue,
    file_for_repository,
    repository_gone,
    publisher_says_full,
    publisher_says_read_only,
    slow_repository,
    kill_worker_while_repository_is_away,
)

#: Those for a random mix: a broker where a queue was deleted must not be killed, see
#: `BrokerNode.delete`.
MIXED = tuple(one for one in FAULTS if one not in (delete_queue, delete_retry_queue))
