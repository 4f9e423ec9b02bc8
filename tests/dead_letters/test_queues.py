"""Looking into the dead letters: any number, in order, by several people, unharmed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import amqp
import bson
import pytest

from oops_celery.celery import AMQP, App, Loader
from oops_celery.dead_letters.queues import Broker, lock_of
from oops_celery.dead_letters.removal import discard
from oops_celery.errors import Hidden, LookedAtTooOften, QueueError
from oops_celery.operations.depths import whole_depth
from oops_celery.operations.metrics import QueueCollector
from tests.support import PACKAGED, Node, eventually
from tests.support.parking import DEAD, MAIN, Command, declare

#: More than RabbitMQ hands one consumer unless told otherwise, twice.
MANY = 5000

Listed = list[str]


@pytest.fixture
def declared(broker: Node) -> Node:
    declare(broker)
    return broker


@pytest.fixture
def oops_celery(declared: Node, tmp_path: Path) -> Command:
    return Command(tmp_path, declared.url)


@pytest.fixture
def an_app(broker: Node, monkeypatch: pytest.MonkeyPatch) -> App:
    monkeypatch.setenv("RABBITMQ_URL", broker.url)
    return App("test", amqp=AMQP, loader=Loader, set_as_current=False)


def fill(broker: Node, number: int, queue: str = DEAD, size: int = 0) -> Listed:
    """Put reports into a queue; return their ids, in order."""
    ids = [f"OOPS-{each:032x}" for each in range(number)]
    before = broker.count(queue)
    with broker.connect() as connection:
        channel = connection.channel()
        for one in ids:
            body = bson.encode({"id": one, "type": "KeyError", "pad": "x" * size})
            message = amqp.Message(body, delivery_mode=2)
            channel.basic_publish(message, "", queue)
        eventually(lambda: broker.count(queue) == before + number, 120)
    return ids


def look(app: App, queue: str = DEAD, told: Listed | None = None) -> Listed:
    """Return the ids of the reports in a queue, as they come."""
    with Broker(app, (told if told is not None else []).append) as broker:
        return [bson.decode(message.body)["id"] for message in broker.browse(queue)]


@pytest.fixture
def limited(declared: Node) -> Iterator[Callable[[dict[str, object]], str]]:
    """Declare a quorum queue with arguments; return its name."""
    made: Listed = []
    connection = declared.connect()

    def make(arguments: dict[str, object]) -> str:
        made.append(f"foreign.{len(made)}")
        connection.channel().queue_declare(
            made[-1],
            durable=True,
            auto_delete=False,
            arguments={"x-queue-type": "quorum", **arguments},
        )
        return made[-1]

    yield make
    for queue in made:
        connection.channel().queue_delete(queue)
    connection.close()


def test_five_thousand_are_seen_whole_by_everybody_who_looks_at_once(
    declared: Node, oops_celery: Command
) -> None:
    ids = fill(declared, MANY)
    lists = [oops_celery.start("dead", "list") for _ in range(3)]
    counts = [
        oops_celery.start("doctor", "--no-ping", "--json"),
        oops_celery.start("metrics", "--once"),
    ]
    for one in lists:
        out, err = one.communicate(timeout=200)
        assert [line.split("\t")[0] for line in out.splitlines()] == ids
        assert set(err.splitlines()) <= {
            f"somebody else is looking at queue '{DEAD}': waiting"
        }
    doctor, metrics = (one.communicate(timeout=200)[0] for one in counts)
    checks = json.loads(doctor)["checks"]
    texts = [one["text"] for one in checks if one["check"] == "dead letters"]
    assert texts == [f"{MANY} in queue {DEAD}"]
    assert f'oops_celery_dead_letters{{queue="{DEAD}"}} {MANY}.0\n' in metrics


def test_five_thousand_come_back_once_each_though_it_was_killed(
    declared: Node, oops_celery: Command
) -> None:
    ids = fill(declared, MANY)
    killed = oops_celery.start("dead", "replay", "--all")
    eventually(lambda: declared.count(MAIN) > 100, 120)
    killed.kill()
    killed.communicate()
    again = oops_celery.start("dead", "replay", "--all")
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    eventually(lambda: declared.count(MAIN) == MANY, 120)
    came = [bson.decode(one.body)["id"] for one in declared.messages(MAIN)]
    assert sorted(came) == ids
    assert declared.count(DEAD) == 0


@pytest.mark.parametrize("end", ["close", "kill"])
def test_the_order_stays_however_a_look_ends(
    declared: Node, an_app: App, end: str
) -> None:
    ids = fill(declared, 300)
    for number in range(3):
        with suppress(KeyboardInterrupt), Broker(an_app) as broker:
            messages = broker.browse(DEAD)
            for _ in range(1 + 100 * number):
                next(messages)
            if end == "kill":
                raise KeyboardInterrupt
            messages.close()  # type: ignore[attr-defined]
        eventually(lambda: declared.count(DEAD) == 300)
        assert look(an_app) == ids


def test_taking_some_leaves_the_others_in_their_places(
    declared: Node, an_app: App
) -> None:
    ids = fill(declared, 300)
    wanted = {ids[0], ids[7], ids[299]}
    with Broker(an_app) as broker:
        from oops_celery.dead_letters.letter import read_letter

        found = [read_letter(one, DEAD) for one in broker.browse(DEAD)]
        keys = [letter.key for letter in found if letter.id in wanted]
        assert len(list(discard(broker, DEAD, keys))) == 3
    assert look(an_app) == [one for one in ids if one not in wanted]


def test_large_messages_are_not_sent_ahead_of_the_reader(
    declared: Node, an_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oops_celery.dead_letters.hold.BYTES_AHEAD", 1_000_000)
    ids = fill(declared, 40, size=100_000)
    with Broker(an_app) as broker:
        messages = broker.browse(DEAD)
        next(messages)
        next(messages)
        assert declared.count(DEAD) >= 40 - 12
        messages.close()  # type: ignore[attr-defined]
    assert look(an_app) == ids


@contextmanager
def suppress_refusal(text: str) -> Iterator[Listed]:
    """Take what a queue that is left alone says; it has to match."""
    seen: Listed = []
    try:
        yield seen
    except LookedAtTooOften as error:
        seen.append(str(error))
    assert all(re.search(text, one) for one in seen)


@pytest.mark.parametrize("limit", [0, 1, 2, 5, 10, 21])
def test_looking_never_costs_a_message_where_deliveries_are_limited(
    declared: Node,
    an_app: App,
    limited: Callable[[dict[str, object]], str],
    limit: int,
) -> None:
    queue = limited({"x-delivery-limit": limit})
    ids = fill(declared, 3, queue)
    refused = 0
    for _ in range(50):
        text = f"a message in it .* RabbitMQ takes it out after {limit}$"
        with suppress_refusal(text) as seen:
            assert sorted(look(an_app, queue)) == ids
        refused += len(seen)
        eventually(lambda: declared.count(queue) == 3)
    assert refused
    bodies = [one.body for one in declared.messages(queue)]
    assert sorted(bson.decode(body)["id"] for body in bodies) == ids


def test_no_limit_is_no_reason_to_leave_a_queue_alone(
    declared: Node, an_app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = PACKAGED.read_text()
    (tmp_path / "t.yml").write_text(text.replace("limit: 1000000000", "limit: -1"))
    monkeypatch.setenv("OOPS_TOPOLOGY", str(tmp_path / "t.yml"))
    (one,) = fill(declared, 1)
    for _ in range(25):
        assert look(an_app) == [one]


def test_somebody_who_may_not_make_a_queue_looks_all_the_same(
    declared: Node, an_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = fill(declared, 3)
    declared.ctl("add_user", "weak", "weak")
    try:
        declared.ctl("set_permissions", "weak", "^$", "^$", ".*")
        monkeypatch.setenv("RABBITMQ_URL", f"amqp://weak:weak@{declared.host}/")
        app = App("weak", amqp=AMQP, loader=Loader, set_as_current=False)
        told: Listed = []
        assert look(app, told=told) == ids
        assert told == []
    finally:
        declared.ctl("delete_user", "weak")


def test_the_turn_of_somebody_who_never_ends_is_said(
    declared: Node, an_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oops_celery.dead_letters.queues.TURN_WITHIN", 0.5)
    ids = fill(declared, 3)
    told: Listed = []
    with declared.connect() as other:
        other.channel().queue_declare(lock_of(DEAD), exclusive=True)
        with pytest.raises(QueueError, match="somebody else has been looking at"):
            look(an_app, told=told)
        assert told == [f"somebody else is looking at queue '{DEAD}': waiting"]
        with declared.connect() as asking, pytest.raises(Hidden):
            whole_depth(asking.channel, DEAD, 0.3)
    # Whoever is killed has no turn any more.
    assert eventually(lambda: look(an_app)) == ids


def test_metrics_tell_the_last_known_number_while_somebody_looks(
    declared: Node, an_app: App
) -> None:
    fill(declared, 3)

    def told(collector: QueueCollector) -> dict[str, float]:
        return {
            family.name: sample.value
            for family in collector.collect()
            for sample in family.samples
            if sample.labels.get("queue") == DEAD
        }

    known, new = (QueueCollector(an_app, an_app.topology, 5, 0.3) for _ in range(2))
    assert told(known)["oops_celery_dead_letters"] == 3
    with declared.connect() as other:
        other.channel().queue_declare(lock_of(DEAD), exclusive=True)
        channel = other.channel()
        while channel.basic_get(DEAD):
            pass
        assert told(known)["oops_celery_dead_letters"] == 3
        assert told(new) == {"oops_celery_queue_exists": 1}
    eventually(lambda: declared.count(DEAD) == 3)
    assert told(new)["oops_celery_dead_letters"] == 3
    declared.messages(DEAD)
    assert told(new)["oops_celery_dead_letters"] == 0


def test_a_name_of_any_length_has_a_lock() -> None:
    assert lock_of("a") == "oops-celery.looking.a"
    long = ("\u00fc" * 127, "\u00fc" * 126 + "x")
    assert len({lock_of(one) for one in long}) == 2
    assert all(len(lock_of(one).encode()) <= 255 for one in long)
