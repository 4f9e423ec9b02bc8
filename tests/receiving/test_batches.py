"""Reports go to the pool in batches, and each stays a task of its own."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY

import kombu
import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated, WorkerLostError
from celery.exceptions import Reject, Retry

from oops_celery import Publisher, Topology, wire
from oops_celery.errors import NotTaken, RepositoryError
from oops_celery.receiving import batches, progress, suspects, trace
from oops_celery.receiving.batches import (
    MAX_BYTES,
    MAX_REPORTS,
    MAX_SECONDS,
    MAX_WAITED,
)
from oops_celery.receiving.delay import Later
from oops_celery.receiving.progress import End
from oops_celery.repository import store as stores
from tests.support import QUICK_TOPOLOGY, Node, Worker, eventually

# -- What goes together: no broker ----------------------------------------------------


class Request:
    """As Celery's, as far as it is asked here."""

    def __init__(self, number: int, size: int = 10, **more: Any) -> None:
        self.id = f"r{number}"
        self.type = "task"
        self.body = b"x" * size
        self.request_dict: dict[str, Any] = {}
        self.content_type = self.content_encoding = ""
        self.delivery_info = {"redelivered": more.get("redelivered", False)}
        self.app = SimpleNamespace(use_fast_trace_task=True)
        self.task = SimpleNamespace(soft_time_limit=None, time_limit=None)
        self.is_revoked = more.get("revoked", False)
        self.said: list[Any] = []

    def revoked(self) -> bool:
        return self.is_revoked

    def on_accepted(self, pid: int, at: float) -> None:
        self.said.append("accepted")

    def on_success(self, result: Any) -> None:
        self.said.append(result)

    def on_failure(self, error: Any) -> None:
        self.said.append(error)


class Pool:
    """Keeps what it is given; `end` says what became of it."""

    num_processes = 1

    def __init__(self) -> None:
        self.jobs: list[tuple[list[str], dict[str, Any]]] = []
        self.place: int | None = None

    def apply_async(self, _: Any, args: Any, **callbacks: Any) -> bool:
        self.jobs.append(([job[1] for job in args[1]], callbacks))
        self.place = args[2]
        return True

    def accept(self) -> None:
        self.jobs[0][1]["accept_callback"](1, 0.0)

    def end(self, how: str, *result: Any) -> None:
        _, callbacks = self.jobs.pop(0)
        callbacks[how](*result)

    def note(self, *ends: End) -> None:
        """Come so far, as a process does."""
        for number, end in enumerate(ends):
            progress.note(self.place, number, end)

    def finish(self, seconds: float = 0.0) -> None:
        count = len(self.jobs[0][0])
        result = pickle.dumps((0, "ok", 0.0))
        self.end("callback", ([result] * count, seconds))

    @property
    def at_work(self) -> list[list[str]]:
        return [names for names, _ in self.jobs]


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.fixture
def batch(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> batches.Batches:
    monkeypatch.setattr(batches, "task_ready", lambda request: None)
    monkeypatch.setattr(batches, "DELAY", 0.0)
    timer = SimpleNamespace(call_after=lambda *_: None)
    return batches.Batches(SimpleNamespace(pool=pool, timer=timer))


def names(*numbers: int) -> list[str]:
    return [f"r{number}" for number in numbers]


def test_a_report_waits_for_nobody(batch: Any, pool: Pool) -> None:
    batch.on_task_request(Request(0))
    assert pool.at_work == [names(0)]


def test_what_came_while_all_were_busy_goes_together(batch: Any, pool: Pool) -> None:
    requests = [Request(number) for number in range(5)]
    for request in requests:
        batch.on_task_request(request)
    pool.finish()
    assert pool.at_work == [names(1, 2, 3, 4)]
    pool.accept()
    pool.finish()
    assert requests[4].said == ["accepted", (0, "ok", 0.0)]
    batch.on_task_request(Request(5))
    assert pool.at_work == [names(5)]


def test_a_batch_has_a_limit_and_the_rest_comes_next(batch: Any, pool: Pool) -> None:
    for number in range(MAX_REPORTS + 3):
        batch.on_task_request(Request(number))
    pool.finish()
    assert [len(job) for job in pool.at_work] == [MAX_REPORTS]
    pool.finish()
    assert pool.at_work == [names(MAX_REPORTS + 1, MAX_REPORTS + 2)]


def test_large_reports_go_in_small_batches(batch: Any, pool: Pool) -> None:
    for number in range(6):
        batch.on_task_request(Request(number, size=MAX_BYTES // 2))
    batch.on_task_request(Request(6, size=2 * MAX_BYTES))
    batch.on_task_request(Request(7))
    for together in ((1, 2), (3, 4), (5,), (6,), (7,)):
        pool.finish()
        assert pool.at_work == [names(*together)]


def test_slow_reports_go_one_by_one_until_they_are_quick_again(
    batch: Any, pool: Pool
) -> None:
    def handed_over(seconds: float) -> int:
        """Return how many go together when each takes so long."""
        for number in range(10_000):
            batch.on_task_request(Request(number))
        for _ in range(60):
            pool.finish(seconds * len(pool.at_work[0]))
        count = len(pool.at_work[0])
        while pool.jobs:
            pool.finish(seconds * len(pool.at_work[0]))
        return count

    assert handed_over(2 * MAX_SECONDS) == 1
    assert handed_over(MAX_SECONDS / 4) == 4
    assert handed_over(0.0) == MAX_REPORTS


def test_what_comes_again_goes_alone(batch: Any, pool: Pool) -> None:
    """One may have ended the whole worker: it must not do so again before the rest."""
    for number in range(6):
        batch.on_task_request(Request(number, redelivered=number in (1, 2, 4)))
    pool.finish()
    assert pool.at_work == [names(3, 5)]
    done = []
    for _ in range(3):
        pool.finish()
        done += pool.at_work
    assert sorted(done) == [names(1), names(2), names(4)]


def test_what_comes_again_does_not_wait_for_ever(batch: Any, pool: Pool) -> None:
    batch.on_task_request(Request(0))
    batch.on_task_request(Request(1, redelivered=True))
    for number in range(2, 2 * MAX_WAITED):
        batch.on_task_request(Request(number))
        pool.finish()
        if pool.at_work == [names(1)]:
            return
    raise AssertionError("it waited")


LOST = SimpleNamespace(exception=WorkerLostError())


def lose(batch: Any, pool: Pool, *ends: End, how: Any = LOST) -> list[Request]:
    """Have a batch at work, and its process lost when it was so far."""
    requests = [Request(number) for number in range(len(ends))]
    batch.on_task_request(Request(100))
    for request in requests:
        batch.on_task_request(request)
    pool.finish()
    assert pool.at_work == [[request.id for request in requests]]
    pool.accept()
    pool.note(*ends)
    pool.end("error_callback", how)
    return requests


def test_a_lost_process_ends_one_report_and_the_rest_goes_on(
    batch: Any, pool: Pool
) -> None:
    kept, retried, failed, given_back, begun, *rest = lose(
        batch,
        pool,
        *(End.KEPT, End.RETRIED, End.FAILED, End.OPEN, End.BEGUN),
        *(End.NOT_BEGUN, End.NOT_BEGUN),
    )
    assert kept.said[1][0] == 0
    for request, kind in ((retried, Retry), (failed, NotTaken), (given_back, Reject)):
        assert isinstance(request.said[1][1].exception, kind)
    assert given_back.said[1][1].exception.requeue
    assert begun.said == ["accepted", LOST]
    assert [request.said for request in rest] == [["accepted"]] * 2
    assert pool.at_work == [names(5, 6)]


def test_where_nothing_is_known_each_is_done_again_alone(
    batch: Any, pool: Pool
) -> None:
    """A process that was not forked notes nothing here."""
    requests = lose(batch, pool, End.NOT_BEGUN, End.NOT_BEGUN, End.NOT_BEGUN)
    done = []
    while pool.jobs:
        done += pool.at_work
        pool.finish()
    assert sorted(done) == [names(0), names(1), names(2)]
    assert all(one.said[-1] == (0, "ok", 0.0) for one in requests)


def test_a_revoked_report_is_no_fault_of_the_one_at_work(
    batch: Any, pool: Pool
) -> None:
    how = SimpleNamespace(exception=Terminated(15))
    lose(batch, pool, End.BEGUN, End.NOT_BEGUN, how=how)
    assert pool.at_work == [names(1)]
    pool.finish()
    assert pool.at_work == [names(0)]


def test_a_lost_process_of_one_report_is_its_own_doing(batch: Any, pool: Pool) -> None:
    request = Request(0)
    batch.on_task_request(request)
    pool.end("error_callback", LOST)
    assert request.said == [LOST]
    assert pool.jobs == []


@pytest.mark.parametrize("early", [True, False])
def test_a_report_at_work_when_the_connection_is_lost_is_done_once(
    batch: Any, pool: Pool, early: bool
) -> None:
    """Its message comes again, before or after the end, and gets that."""
    first = [Request(number) for number in range(3)]
    for request in first:
        batch.on_task_request(request)
    pool.finish()
    pool.accept()
    waits = Request(9)
    batch.on_task_request(waits)
    batch.connection_lost()
    if not early:
        pool.finish()
    again = [Request(number, redelivered=True) for number in range(3)]
    for request in again[1:]:
        batch.on_task_request(request)
    if early:
        pool.finish()
    assert [request.said for request in first[1:]] == [["accepted"]] * 2
    assert [request.said for request in again[1:]] == [["accepted", (0, "ok", 0.0)]] * 2
    assert pool.jobs == []
    assert waits.said == []


def test_another_report_of_the_same_id_is_another_report(
    batch: Any, pool: Pool
) -> None:
    batch.on_task_request(Request(0))
    batch.connection_lost()
    batch.on_task_request(Request(0, size=11, redelivered=True))
    pool.finish()
    assert pool.at_work == [names(0)]


def test_another_message_of_the_same_report_is_done_too(batch: Any, pool: Pool) -> None:
    """A retry, or a replayed dead letter: the end that was lost is not its end."""
    batch.on_task_request(Request(0))
    batch.connection_lost()
    pool.finish()
    batch.on_task_request(Request(0))
    assert pool.at_work == [names(0)]


def test_a_lost_process_and_a_lost_connection(batch: Any, pool: Pool) -> None:
    """What comes again is done again, each place is given back once."""
    for number in range(3):
        batch.on_task_request(Request(number))
    pool.finish()
    pool.accept()
    pool.note(End.KEPT, End.BEGUN)
    batch.connection_lost()
    pool.end("error_callback", LOST)
    again = [Request(number, redelivered=True) for number in (1, 2)]
    for request in again:
        batch.on_task_request(request)
    assert again[0].said == ["accepted", (0, ANY, 0.0)]
    assert pool.at_work == [names(2)]
    assert suspects.add("r2") == 2
    suspects.forget("r2")


def test_places_for_other_tasks_are_left_to_them(pool: Pool) -> None:
    pool.num_processes = 5
    batch = batches.Batches(SimpleNamespace(pool=pool), others=3)
    for number in range(4):
        batch.on_task_request(Request(number))  # type: ignore[arg-type]
    assert pool.at_work == [names(0), names(1)]


def test_a_pool_that_ends_takes_nothing(batch: Any, pool: Pool) -> None:
    pool.apply_async = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    batch.on_task_request(Request(0))
    assert not batch.is_at_work


def test_an_end_that_cannot_be_told_is_its_own(
    batch: Any, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    requests = [Request(number) for number in range(4)]
    for request in requests:
        batch.on_task_request(request)
    pool.finish()
    requests[2].on_success = None
    pool.finish()
    assert requests[1].said == requests[3].said == [(0, "ok", 0.0)]
    assert "r2 is done, and stays with the broker" in caplog.text


def test_an_end_that_cannot_be_read_is_the_one_that_was_noted(
    batch: Any, pool: Pool
) -> None:
    requests = [Request(number) for number in range(4)]
    for request in requests:
        batch.on_task_request(request)
    pool.finish()
    pool.note(End.KEPT, End.FAILED, End.KEPT)
    read = pickle.dumps((0, "ok", 0.0))
    pool.end("callback", ([b"nonsense", b"nonsense", read], 0.0))
    (kept,), (failed,), others = (one.said for one in requests[1:])
    assert kept[0] == 0
    assert isinstance(failed[1].exception, NotTaken)
    assert others == [(0, "ok", 0.0)]
    assert not batch.is_at_work


def test_a_failure_that_cannot_be_told_gives_its_place_back(
    batch: Any, pool: Pool
) -> None:
    first, second = Request(0), Request(1)
    first.on_failure = None  # type: ignore[method-assign,assignment]
    batch.on_task_request(first)
    batch.on_task_request(second)
    pool.end("error_callback", LOST)
    assert pool.at_work == [names(1)]


def test_a_pool_that_has_grown_takes_what_waits(batch: Any, pool: Pool) -> None:
    for number in range(2):
        batch.on_task_request(Request(number))
    pool.num_processes = 2
    batch.begin()
    assert pool.at_work == [names(0), names(1)]


def test_without_batches_what_comes_again_waits_a_bit() -> None:
    begun: list[str] = []
    due: list[Callable[[], None]] = []
    consumer = SimpleNamespace(
        connection=object(),
        on_task_request=lambda request: begun.append(request.id),
        timer=SimpleNamespace(
            call_after=lambda _, begin, args: due.append(lambda: begin(*args))
        ),
    )
    later: Any = Later(consumer)
    for number in range(3):
        later.on_task_request(Request(number, redelivered=number != 1))
    assert begun == names(1)
    due[1]()
    assert begun == names(1, 2)
    consumer.connection = None
    due[0]()
    assert begun == names(1, 2)


def test_a_revoked_one_is_left_out(batch: Any, pool: Pool) -> None:
    for number in range(4):
        batch.on_task_request(Request(number, revoked=number in (1, 3)))
    pool.finish()
    assert pool.at_work == [names(2)]
    pool.finish()
    assert pool.jobs == []


def test_only_revoked_ones_take_no_place(batch: Any, pool: Pool) -> None:
    for number in range(3):
        batch.on_task_request(Request(number, revoked=number > 0))
    pool.finish()
    assert pool.jobs == []
    assert not batch.is_at_work


# -- With a worker --------------------------------------------------------------------


@pytest.fixture
def publish(broker: Node) -> Publisher:
    with kombu.Connection(broker.url) as connection:
        Topology.parse(QUICK_TOPOLOGY).declare(connection.channel)
    return Publisher(lambda: kombu.Connection(broker.url), "oopses", "", timeout=60)


@pytest.fixture
def events(broker: Node) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """All events of Celery so far."""
    queue = kombu.Queue(
        "", kombu.Exchange("celeryev", "topic"), routing_key="task.#", exclusive=True
    )
    found: list[dict[str, Any]] = []

    def on_event(body: Any, message: Any) -> None:
        found.extend(body if isinstance(body, list) else [body])
        message.ack()

    def so_far() -> list[dict[str, Any]]:
        try:
            while True:
                connection.drain_events(timeout=0.1)
        except OSError:
            return found

    with (
        kombu.Connection(broker.url) as connection,
        connection.Consumer([queue], callbacks=[on_event], accept=["json"]),
    ):
        yield so_far


#: Writes down which reports came in one batch.
TOGETHER = """
import inspect
frame = inspect.currentframe()
while frame is not None and frame.f_code.co_name != "trace_all":
    frame = frame.f_back
jobs = frame.f_locals["jobs"] if frame else [None]
with open("batches", "a") as file:
    file.write(f"{len(jobs)}\\n")
"""


def test_each_of_a_batch_has_its_own_end_and_events(
    broker: Node,
    worker: Callable[..., Worker],
    publish: Publisher,
    keeper: Any,
    events: Callable[[], list[dict[str, Any]]],
    tmp_path: Path,
) -> None:
    kinds = ("kept", "filtered", "refused once", "refused", "raises", "undecodable")
    sent: dict[str, set[str]] = {kind: set() for kind in kinds}
    for number in range(120):
        kind = kinds[number % len(kinds)]
        if kind == "undecodable":
            encoded = wire.encode({"n": number})
            headers = {"task": "oops_celery.republish", "id": encoded.id}
            broker.publish(
                "oopses",
                encoded.body[:-2],
                application_headers={**headers, "lang": "py"},
                content_type="application/bson",
                content_encoding="binary",
            )
            sent[kind].add(encoded.id)
        else:
            sent[kind].update(publish({"n": number, "kind": kind}))
    settings = keeper(
        TOGETHER
        + """
kind = report["kind"]
if kind == "raises": raise OSError("no space")
if kind == "refused" or kind == "refused once" and seen == 1: return []
return repository.publish(report)
"""
    )
    with (tmp_path / "keeper.py").open("a") as file:
        file.write('config.filters.append(lambda one: one["kind"] == "filtered")')
    started = worker("-c", "1", **settings, OOPS_MAX_RETRIES="1")
    stored = sent["kept"] | sent["refused once"]
    parked = sent["refused"] | sent["raises"] | sent["undecodable"]
    eventually(lambda: len(started.files()) == len(stored))
    eventually(lambda: broker.count("oopses.dead") == len(parked))
    kept = {wire.decode(path.read_bytes())["id"] for path in started.files()}
    assert kept == stored
    dead = {message.headers["id"] for message in broker.messages("oopses.dead")}
    assert dead == parked
    sizes = (tmp_path / "batches").read_text().split()
    assert max(map(int, sizes)) > 5

    again = sent["refused once"] | sent["refused"] | sent["raises"]
    everyone = {one for some in sent.values() for one in some}
    expected = {
        "task-received": everyone,
        "task-started": everyone,
        "task-succeeded": stored | sent["filtered"],
        "task-retried": again,
        "task-failed": parked,
    }

    def told() -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for event in events():
            found.setdefault(event["type"], set()).add(event["uuid"])
        return found

    eventually(lambda: told() == expected)


@pytest.mark.parametrize(
    ("options", "environ", "expected"),
    [
        (["-c", "2"], {}, 2 * 2 * MAX_REPORTS),
        (["-c", "2"], {"OOPS_WORKER_PREFETCH_MULTIPLIER": "3"}, 6),
        (["-c", "2", "--prefetch-multiplier", "1"], {}, 2),
        (["-c", "2", "-P", "threads"], {}, 8),
    ],
    ids=["batches", "setting", "option", "threads"],
)
def test_a_batch_at_work_and_the_next_are_prefetched(
    broker: Node,
    worker: Callable[..., Worker],
    publish: Publisher,
    options: list[str],
    environ: dict[str, str],
    expected: int,
) -> None:
    """Where there are batches, and unless the operator wants it otherwise."""
    worker(*options, **environ)

    def limits() -> dict[str, str]:
        table = broker.ctl("list_consumers", "-q", "queue_name", "prefetch_count")
        return dict(line.split("\t") for line in table.splitlines() if line)

    assert eventually(limits)["oopses"] == str(expected)


@pytest.mark.slow
def test_a_deadly_report_takes_no_neighbour_along(
    broker: Node,
    worker: Callable[..., Worker],
    publish: Publisher,
    keeper: Any,
) -> None:
    sent = [publish({"n": number})[0] for number in range(60)]
    (deadly,) = publish({"deadly": True})
    sent += [publish({"n": number})[0] for number in range(60, 120)]
    started = worker(
        "-c",
        "1",
        **keeper(
            """
            if report.get("deadly"): os._exit(9)
            return repository.publish(report)
            """
        ),
    )
    eventually(lambda: len(started.files()) == len(sent))
    eventually(lambda: broker.count("oopses.dead") == 1)
    (parked,) = broker.messages("oopses.dead")
    assert parked.headers["id"] == deadly
    assert "its process died again" in parked.headers["oops-reason"]
    eventually(lambda: broker.count("oopses") == 0)


def test_each_is_acknowledged_when_its_batch_ends(
    broker: Node,
    worker: Callable[..., Worker],
    publish: Publisher,
    keeper: Any,
) -> None:
    """Killed in the middle, all that is not stored is still there."""
    sent = {publish({"n": number})[0] for number in range(400)}
    hold = """
while report["n"] >= 200 and not os.path.exists("go"):
    time.sleep(0.01)
return keep(report)
"""
    started = worker("-c", "2", **keeper(hold))
    eventually(lambda: len(started.files()) > 40)
    started.kill()
    kept = {wire.decode(path.read_bytes())["id"] for path in started.files()}
    assert len(kept) < 400
    eventually(lambda: broker.count("oopses") >= 400 - len(kept))
    (started.folder / "go").touch()
    started.restart()
    eventually(lambda: len(started.files()) == 400)
    kept = {wire.decode(path.read_bytes())["id"] for path in started.files()}
    assert kept == sent


def test_a_worker_ends_soon_with_much_waiting(
    worker: Callable[..., Worker],
    publish: Publisher,
    keeper: Any,
    broker: Node,
) -> None:
    """A warm shutdown ends what has begun, and gives the rest back."""
    sent = {publish({"n": number})[0] for number in range(300)}
    started = worker(
        "-c", "2", **keeper("time.sleep(0.2); return repository.publish(report)")
    )
    eventually(lambda: len(started.files()) > 4)
    started.process.terminate()
    assert started.process.wait(120) == 0
    left = eventually(lambda: broker.count("oopses"))
    assert len(started.files()) + left == len(sent)


def test_a_time_limit_outlives_a_lost_connection(
    broker: Node,
    worker: Callable[..., Worker],
    publish: Publisher,
    keeper: Any,
    tmp_path: Path,
) -> None:
    """Before Celery 5.7 it is forgotten with the connection."""
    started = worker(
        *("-c", "1"),
        OOPS_TASK_TIME_LIMIT="8",
        **keeper(
            """
            if seen == 1:
                time.sleep(3600)
            return repository.publish(report)
            """
        ),
    )
    publish({"hangs": "once"})
    eventually(lambda: list(tmp_path.glob("seen-*")))
    broker.ctl("close_all_connections", "a test")
    eventually(started.files)
    assert "hard time limit" in started.text()


# -- In a pool process: what a batch gives to a database ------------------------------


class Store:
    """A repository of rows that may fail."""

    def __init__(self) -> None:
        self.fails: set[str] = set()
        self.stored: list[list[str]] = []

    def store(self, rows: list[Any]) -> None:
        if self.fails & set(rows):
            raise RepositoryError("fails")
        self.stored.append(list(rows))


def traced(store: Store) -> Callable[..., Any]:
    """A tracer whose reports go to a store, as those of `Repository.keep`."""

    def trace(_: Any, name: str, *__: Any) -> Any:
        if name.startswith("filtered"):
            return 0, "filtered", 0.0
        if name.startswith("parked"):
            return progress.TOLD[End.FAILED]
        together = stores._together
        if together is not None:
            together.append(store, name)
            return 0, name, 0.0
        try:
            store.store([name])
        except RepositoryError:
            try:
                raise Retry("later")
            except Retry:
                return 1, ExceptionInfo(), 0.0
        return 0, name, 0.0

    return trace


def trace_batch(store: Store, *names: str) -> tuple[list[bool], list[End]]:
    """Return whether each report ended well by its result; and its note."""
    notes = progress.Progress()
    jobs = [(None, name) for name in names]
    results, _ = trace.trace_all(traced(store), jobs, notes.place)
    ends = notes.ends(len(names))
    notes.close()
    return [not pickle.loads(one)[0] for one in results], ends


def test_a_batch_is_one_transaction() -> None:
    store = Store()
    by_result, by_note = trace_batch(store, "a", "filtered", "b", "parked", "c")
    assert store.stored == [["a", "b", "c"]]
    assert by_result == [True, True, True, False, True]
    assert by_note == [End.KEPT, End.KEPT, End.KEPT, End.FAILED, End.KEPT]


def test_when_it_fails_only_those_that_fail_are_retried() -> None:
    store = Store()
    store.fails = {"b"}
    by_result, by_note = trace_batch(store, "a", "b", "parked", "c")
    assert store.stored == [["a"], ["c"]]
    assert by_result == [True, False, False, True]
    assert by_note == [End.KEPT, End.RETRIED, End.FAILED, End.KEPT]


def test_until_they_are_written_none_counts_as_begun() -> None:
    """If the process dies now, they are done again."""
    store, seen = Store(), []
    notes = progress.Progress()
    store.store = lambda rows: seen.append(notes.ends(3))  # type: ignore[method-assign]
    jobs = [(None, name) for name in ("a", "parked", "b")]
    trace.trace_all(traced(store), jobs, notes.place)
    assert seen == [[End.NOT_BEGUN, End.FAILED, End.NOT_BEGUN]]
    notes.close()
