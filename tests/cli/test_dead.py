"""The commands for dead letters, on a real node."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import bson
import pytest

from oops_celery import FolderPublisher, wire
from oops_celery.celery import AMQP, App, Loader
from oops_celery.dead_letters import park
from oops_celery.dead_letters.queues import Broker
from oops_celery.dead_letters.replay import Replay
from oops_celery.errors import QueueError
from tests.support import Node, Worker, eventually
from tests.support.parking import (
    DEAD,
    MAIN,
    RETRY,
    Command,
    Parking,
    ids_in,
    make_report,
    many,
)

EVIL = "\x1b]0;owned\x07\x1b[31m [red]a[/red] [/b] \u202e"


@pytest.fixture
def parking(broker: Node) -> Iterator[Parking]:
    parking = Parking(broker)
    yield parking
    parking.close()


@pytest.fixture
def oops_celery(broker: Node, tmp_path: Path) -> Command:
    return Command(tmp_path, broker.url)


@pytest.fixture
def an_app(broker: Node, monkeypatch: pytest.MonkeyPatch) -> App:
    """An app of this process, with the node of this test."""
    monkeypatch.setenv("RABBITMQ_URL", broker.url)
    return App("test", amqp=AMQP, loader=Loader, set_as_current=False)


# -- list -----------------------------------------------------------------------------


def test_list_says_what_is_dead_and_leaves_it_there(
    parking: Parking, oops_celery: Command
) -> None:
    ids = parking.park(make_report(KeyError("a")), make_report(ValueError("b")))
    found = oops_celery.json("dead", "list", "--json")
    assert [one["id"] for one in found] == ids
    assert [one["type"] for one in found] == ["KeyError", "ValueError"]
    assert {one["reason"] for one in found} == {"NotTaken: disk full"}
    assert {one["attempts"] for one in found} == {21}
    assert all(0 <= one["age"] < 60 for one in found)
    lines = oops_celery("dead", "list").stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == ids
    assert re.fullmatch(
        r"OOPS-\w{32}\tKeyError\tNotTaken: disk full\t21\t\d+s", lines[0]
    )
    assert parking.broker.count(DEAD) == 2


def test_list_filters_by_type_and_time(parking: Parking, oops_celery: Command) -> None:
    old = {park.PARKED_AT: "2020-01-01T00:00:00+00:00"}
    body = wire.encode(make_report(KeyError("old"))).body
    parking.broker.publish(DEAD, body, application_headers=old)
    (new,) = parking.park(make_report(KeyError("new")))
    parking.park(make_report(ValueError("other")))

    def listed(*more: str) -> list[str]:
        options = ("--type", "KeyError", *more)
        found = oops_celery.json("dead", "list", "--json", *options)
        return [one["id"] for one in found]

    assert listed("--since", "2h") == [new]
    assert listed("--since", "2021-01-01T00:00:00Z") == [new]
    assert len(listed("--since", "2019-12-31")) == 2
    wrong = oops_celery("dead", "list", "--since", "soon", code=2)
    assert "'soon' is neither like 30m" in wrong.stderr


def test_list_names_what_is_no_report(parking: Parking, oops_celery: Command) -> None:
    parking.park_body(b"\x00garbage\xff")
    parking.park_body(b"")
    parking.park_body(b"order", message_id="order-17")
    parking.park_body(b"[]", headers={"id": "task-1", "task": "shop.pay"})
    found = oops_celery.json("dead", "list", "--json")
    assert [one["report"] for one in found] == [False] * 4
    hashes = [one["id"] for one in found[:2]]
    assert all(re.fullmatch("body-[0-9a-f]{12}", one) for one in hashes)
    assert hashes[0] != hashes[1]
    assert [one["id"] for one in found[2:]] == ["order-17", "task-1"]
    assert found[3]["type"] == "shop.pay"
    shown = oops_celery("dead", "show", hashes[0]).stdout
    assert r"it starts with: \x00garbage\xff" in shown
    assert "reason: not a BSON document" in shown
    raw = subprocess.run(
        [sys.executable, "-m", "oops_celery.cli", "dead", "show", "--raw", hashes[0]],
        env=oops_celery.environ,
        capture_output=True,
        check=True,
    )
    assert raw.stdout == b"\x00garbage\xff"


def test_a_message_of_any_shape_is_listed_shown_and_replayed(
    parking: Parking, oops_celery: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep: dict[str, Any] = {}
    for _ in range(500):
        deep = {"d": deep}
    odd = {"id": 5, "type": {"a": 1}, "req_vars": [["a"], 7], "timeline": [[1], "ab"]}
    shapes = (
        {"id": "OOPS-deep", "deep": deep, "tb_text": 7, "req_vars": 5, "timeline": 1},
        {**odd, "timeline": [[0, float("nan")], ["a", "b"], [5, 1], [0, 2**62, 3, 4]]},
        odd,
    )
    for number, shape in enumerate(shapes):
        body = bson.encode(shape)
        parking.park_body(body, message_id=f"odd-{number}", headers={"a": [None]})
    # A time that Python does not have, in a header.
    monkeypatch.setattr("amqp.serialization.calendar.timegm", lambda _: 10**14)
    headers = {"far": datetime(2020, 1, 1)}
    parking.broker.publish(DEAD, b"far", application_headers=headers)
    monkeypatch.undo()
    ids = [one["id"] for one in oops_celery.json("dead", "list", "--json")]
    assert ids[:3] == ["OOPS-deep", "odd-1", "odd-2"]
    assert ids[3].startswith("body-")
    for one in ids[:3]:
        assert f"found in: queue {DEAD}" in oops_celery("dead", "show", one).stdout
        assert "req_vars" in oops_celery.json("dead", "show", "--json", one)
    assert "it starts with: far" in oops_celery("dead", "show", ids[3]).stdout
    oops_celery("dead", "show", "--json", ids[3], code=1)
    assert oops_celery.json("dead", "replay", "--all", "--json")["done"] == ids
    eventually(lambda: parking.broker.count(MAIN) == 4)


def test_what_rabbitmq_has_dead_lettered_says_so(
    parking: Parking, oops_celery: Command
) -> None:
    encoded = wire.encode(make_report(KeyError("a")))
    parking.broker.publish(MAIN, encoded.body)
    with parking.broker.connect() as connection:
        channel = connection.channel()
        message = eventually(lambda: channel.basic_get(MAIN))
        channel.basic_reject(message.delivery_tag, requeue=False)
    eventually(lambda: parking.broker.count(DEAD) == 1)
    (found,) = oops_celery.json("dead", "list", "--json")
    assert found["reason"] == "dead-lettered by RabbitMQ: rejected"
    assert (found["came_from"], found["attempts"]) == (MAIN, None)
    assert found["age"] is not None


def test_nothing_a_stranger_wrote_reaches_the_terminal(
    parking: Parking, oops_celery: Command
) -> None:
    report = make_report(ValueError(EVIL), tb_text=EVIL, req_vars={EVIL: EVIL})
    report.update({"type": EVIL, "timeline": [[0, 5, EVIL, EVIL]], EVIL: EVIL})
    (dead,) = parking.park(report, reason=EVIL, headers={EVIL[:9]: EVIL})
    parking.park_body(b"\x1b]0;x\x07", message_id=EVIL, headers={"a": EVIL})
    for arguments in (
        ("dead", "list"),
        ("dead", "show", dead),
        ("dead", "show", EVIL),
        ("dead", "replay", "OOPS-none" + EVIL, EVIL[:3]),
        ("show", EVIL[:3]),
    ):
        output = on_terminal(oops_celery, *arguments)
        assert "[red]a[/red]" in output.replace("\r\n", "") or "replay" in arguments
        # What rich writes itself: colours, the cursor, a line anew.
        ours = re.sub(r"\x1b\[[\d;?]*[mlhKA]|\r", "", output)
        assert all(char.isprintable() or char == "\n" for char in ours), ours
        assert "\x1b[31m [red]" not in output


def on_terminal(oops_celery: Command, *arguments: str, columns: int = 100) -> str:
    """Run a command on a terminal of its own; return all that it writes there."""
    ours, theirs = pty.openpty()
    environ = {**oops_celery.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    started = oops_celery.start(
        *arguments, stdin=theirs, stdout=theirs, stderr=theirs, env=environ
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            read = os.read(ours, 65536)
        except OSError:  # Linux says so when the other side is closed
            break
        if not read:
            break
        written += read
    os.close(ours)
    started.wait(120)
    return written.decode()


def test_a_table_fits_a_narrow_terminal_and_its_ids_are_enough(
    parking: Parking, oops_celery: Command
) -> None:
    ids = parking.park(*(make_report(ValueError(str(each))) for each in range(3)))
    output = on_terminal(oops_celery, "dead", "list", columns=60)
    lines = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", output).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 60
    short = [line.split()[0] for line in lines if line.strip().startswith("OOPS-")]
    assert [whole.startswith(part) for whole, part in zip(ids, short)] == [True] * 3
    assert (
        json.loads(oops_celery("dead", "show", "--json", short[1]).stdout)["id"]
        == (ids[1])
    )


# -- replay ---------------------------------------------------------------------------


def test_replay_brings_a_report_back_as_it_came(
    parking: Parking, oops_celery: Command
) -> None:
    report = make_report(KeyError("a"))
    theirs = {"tenant": "blue", "CC": ["elsewhere"]}
    (dead, kept) = parking.park(report, make_report(ValueError("b")), headers=theirs)
    said = oops_celery("dead", "replay", dead[5:15])
    assert said.stdout == "1 dead letter replayed\n"
    eventually(lambda: parking.broker.count(MAIN) == 1)
    (message,) = parking.broker.messages(MAIN)
    assert bytes(message.body) == wire.encode(report).body
    assert message.headers["tenant"] == "blue"
    assert message.headers["retries"] == 0
    assert not [name for name in message.headers if name.startswith("oops-")]
    assert message.properties["content_type"] == "application/bson"
    assert message.properties["delivery_mode"] == 2
    assert "expiration" not in message.properties
    assert ids_in(parking.broker, DEAD) == [kept]


def test_replay_puts_a_message_into_the_queue_that_it_came_from(
    parking: Parking, oops_celery: Command
) -> None:
    with parking.broker.connect() as connection:
        connection.channel().queue_declare("orders", durable=True, auto_delete=False)
        try:
            parking.park_body(b"order", "orders", message_id="order-1", type="new")
            parking.park_body(b"lost", "gone", message_id="lost-1")
            said = oops_celery.json("dead", "replay", "--all", "--json", code=1)
            assert said["done"] == ["order-1"]
            ((failed, why),) = [(one["id"], one["why"]) for one in said["failed"]]
            assert failed == "lost-1"
            assert why.startswith("queue 'gone': no queue took it")
            (message,) = parking.broker.messages("orders")
            assert bytes(message.body) == b"order"
            assert message.properties["type"] == "new"
            assert not message.headers
            assert parking.broker.count(DEAD) == 1
        finally:
            connection.channel().queue_delete("orders")


def test_replay_of_an_id_that_is_unclear_does_nothing(
    parking: Parking, oops_celery: Command
) -> None:
    ids = parking.park(make_report(KeyError("a")), make_report(ValueError("b")))
    unclear = oops_celery("dead", "replay", ids[0], "OOPS-", "nonsense", code=1)
    assert all(one in unclear.stderr for one in ids)
    assert "nonsense: there is no such id" in unclear.stderr
    assert "nothing was done" in unclear.stderr
    for wrong in ((), ("--all", ids[0]), ("--all", "--type", "KeyError")):
        oops_celery("dead", "replay", *wrong, code=2)
    assert oops_celery.json("dead", "replay", "--json", "--type", "Gone")["done"] == []
    assert sorted(ids_in(parking.broker, DEAD)) == sorted(ids)


def test_a_thousand_are_listed_in_three_seconds_and_all_come_back(
    parking: Parking, oops_celery: Command
) -> None:
    ids = parking.park(*many(1000, size=10_000))
    times = []
    for _ in range(3):
        start = time.monotonic()
        lines = oops_celery("dead", "list").stdout.splitlines()
        times.append(time.monotonic() - start)
        assert [line.split("\t")[0] for line in lines] == ids
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)  # with other people's work
    assert min(times) < 3 * max(busy, 1)
    assert oops_celery("dead", "replay", "--all").stdout == (
        "1,000 dead letters replayed\n"
    )
    eventually(lambda: parking.broker.count(MAIN) == 1000)
    assert ids_in(parking.broker, MAIN) == ids
    assert parking.broker.count(DEAD) == 0


def test_a_killed_replay_leaves_each_report_in_one_place(
    parking: Parking, oops_celery: Command
) -> None:
    ids = parking.park(*many(600, size=5000))
    halfway = []
    for _ in range(3):
        before = parking.broker.count(MAIN)
        replay = oops_celery.start("dead", "replay", "--all")
        eventually(partial(more_than, parking.broker, before))
        replay.kill()
        replay.communicate()
        eventually(lambda: parking.broker.count(RETRY) == 0)
        left = eventually_still(lambda: parking.broker.count(DEAD))
        halfway.append(left)
        # RabbitMQ counts none of those that it is just moving.
        eventually(lambda left=left: parking.broker.count(MAIN) + left == 600)
    assert 0 < halfway[0] < 600  # it was killed in the middle
    if parking.broker.count(DEAD):
        oops_celery("dead", "replay", "--all")
    eventually(lambda: parking.broker.count(MAIN) == 600)
    assert sorted(ids_in(parking.broker, MAIN)) == sorted(ids)
    assert parking.broker.count(DEAD) == parking.broker.count(RETRY) == 0


def more_than(broker: Node, number: int) -> bool:
    return broker.count(MAIN) > number


def eventually_still(number: Callable[[], int]) -> int:
    """Return a number when it has not changed for half a second."""
    seen = [number()]

    def still() -> bool:
        seen.append(number())
        return len(seen) > 10 and len(set(seen[-10:])) == 1

    eventually(still)
    return seen[-1]


def test_without_a_retry_queue_a_killed_replay_loses_nothing(
    parking: Parking, oops_celery: Command
) -> None:
    topology = {
        "exchanges": [{"exchange": DEAD, "type": "fanout"}],
        "queues": [
            {"queue": MAIN, "x_dead_letter_exchange": DEAD, "passive": True},
            {"queue": DEAD, "bindings": [{"exchange": DEAD, "routing_key": ""}]},
        ],
    }
    (oops_celery.folder / "t.yml").write_text(json.dumps(topology))
    oops_celery.environ["OOPS_TOPOLOGY"] = "t.yml"
    ids = parking.park(*many(1500))
    replay = oops_celery.start("dead", "replay", "--all")
    eventually(lambda: parking.broker.count(MAIN) > 0)
    replay.kill()
    replay.communicate()
    left = eventually_still(lambda: parking.broker.count(DEAD))
    assert 0 < left < 1500
    # At most the one between its confirm and its removal is in both.
    assert parking.broker.count(MAIN) + left - 1500 in (0, 1)
    oops_celery("dead", "replay", "--all")
    assert set(ids_in(parking.broker, MAIN)) == set(ids)


def test_a_full_queue_loses_no_replayed_report(
    broker: Node, oops_celery: Command
) -> None:
    # RabbitMQ tries again after this time; 3 minutes by default.
    key = "dead_letter_worker_publisher_confirm_timeout"
    usual = broker.ctl("eval", f"{{ok, V}} = application:get_env(rabbit, {key}), V.")
    broker.ctl("eval", f"application:set_env(rabbit, {key}, 500).")
    parking = Parking(broker)
    # Only RabbitMQ knows the limit: it is that of a policy.
    limit = '{"max-length":5,"overflow":"reject-publish"}'
    broker.ctl("set_policy", "full", f"^{MAIN}$", limit, "--apply-to", "queues")
    try:
        ids = parking.park(*many(60))
        oops_celery("dead", "replay", "--all")
        assert broker.count(DEAD) == 0
        came: list[str] = []

        def all_came() -> bool:
            came.extend(ids_in(broker, MAIN))
            return len(came) >= 60

        eventually(all_came)
        assert sorted(came) == sorted(ids)
    finally:
        broker.ctl("clear_policy", "full")
        # Unset, RabbitMQ could not dead-letter at least once any more.
        broker.ctl("eval", f"application:set_env(rabbit, {key}, {usual.strip()}).")
        parking.close()


def test_a_retry_queue_that_goes_away_loses_no_report(
    parking: Parking, an_app: App
) -> None:
    ids = parking.park(*many(3))
    with Broker(an_app) as looker:
        replay = Replay(an_app, looker, DEAD)
        # As found before somebody deleted it.
        replay._transits[MAIN] = "never.there"
        keys = [letter_key(message) for message in looker.browse(DEAD)]
        outcomes = list(replay.run(keys))
    assert [one.why for one in outcomes] == [
        f"queue 'never.there' has gone; it is in {DEAD!r} again"
    ] * 3
    again = parking.broker.messages(DEAD)
    # In any order: one may have been on its way to the replay again.
    assert sorted(wire.decode(bytes(one.body))["id"] for one in again) == sorted(ids)
    assert again[0].headers[park.REASON] == "NotTaken: disk full"


def letter_key(message: Any) -> bytes:
    from oops_celery.dead_letters.letter import read_letter

    return read_letter(message, DEAD).key


def test_a_replayed_report_is_taken_by_a_worker(
    parking: Parking,
    oops_celery: Command,
    worker: Callable[..., Worker],
    run: Callable[..., str],
) -> None:
    (oops_celery.folder / "no-folder").write_text("a file")
    broken = {"OOPS_REPOSITORY": "no-folder", "OOPS_MAX_RETRIES": "0"}
    first = worker(**broken)
    published = run(
        "import oops, oops_celery;"
        "print(oops_celery.publisher(oops.Config().create({'topic': 'shop'}))[0])"
    ).strip()
    eventually(lambda: parking.broker.count(DEAD) == 1)
    first.kill()
    (found,) = oops_celery.json("dead", "list", "--json")
    assert found["id"] == published
    assert "NotADirectoryError" in found["reason"]
    second = worker()
    oops_celery("dead", "replay", published)
    eventually(second.files)
    shown = oops_celery("show", published).stdout
    assert f"found in: {second.files()[0]}" in shown


# -- discard and export ---------------------------------------------------------------


def test_discard_asks_first(parking: Parking, oops_celery: Command) -> None:
    ids = parking.park(make_report(KeyError("a")), make_report(ValueError("b")))
    for answer in ("", "\n", "no\n"):
        refused = oops_celery("dead", "discard", "--all", code=1, answer=answer)
        assert "Discard 2 dead letters in oopses.dead for good? [y/N]" in refused.stderr
    assert parking.broker.count(DEAD) == 2
    oops_celery("dead", "discard", ids[0], answer="y\n")
    assert parking.broker.count(DEAD) == 1
    said = oops_celery("dead", "discard", "--type", "ValueError", "--yes", "--json")
    assert json.loads(said.stdout) == {"done": [ids[1]], "failed": [], "gone": 0}
    assert parking.broker.count(DEAD) == 0


def test_what_was_parked_meanwhile_is_not_discarded(
    parking: Parking, oops_celery: Command
) -> None:
    parking.park(make_report(KeyError("a")))
    pipes = oops_celery.start("dead", "discard", "--all")
    assert pipes.stderr is not None
    asked = ""
    while "[y/N]" not in asked:
        asked += pipes.stderr.read(1)
    (late,) = parking.park(make_report(KeyError("late")))
    assert pipes.communicate("y\n", timeout=120)[0] == "1 dead letter discarded\n"
    assert ids_in(parking.broker, DEAD) == [late]


def test_export_writes_what_a_worker_would_have_kept(
    parking: Parking, oops_celery: Command
) -> None:
    reports = [make_report(KeyError("a")), make_report(ValueError("b"))]
    ids = parking.park(*reports)
    parking.park_body(b"garbage", message_id="no-report")
    said = oops_celery("dead", "export", "out", code=1)
    assert said.stdout == "2 dead letters exported\n"
    assert said.stderr == "no-report: no report; it stays in the queue\n"
    assert parking.broker.count(DEAD) == 3
    # Again, and some of them: the same files.
    oops_celery("dead", "export", "out", "--type", "KeyError", "--remove")
    assert parking.broker.count(DEAD) == 2
    files = sorted((oops_celery.folder / "out").glob("*/*"))
    publish = FolderPublisher(oops_celery.folder / "kept")
    for report in reports:
        publish({**report, "id": wire.encode(report).id})
    kept = sorted((oops_celery.folder / "kept").glob("*/*"))
    assert [one.name for one in files] == [one.name for one in kept]
    assert [one.read_bytes() for one in files] == [one.read_bytes() for one in kept]
    assert {wire.decode(one.read_bytes())["id"] for one in files} == set(ids)


def test_a_killed_export_loses_and_doubles_nothing(
    parking: Parking, oops_celery: Command
) -> None:
    ids = parking.park(*many(400))
    out = oops_celery.folder / "out"
    export = oops_celery.start("dead", "export", "out", "--remove")
    eventually(lambda: len(list(out.glob("*/*"))) > 20)
    export.kill()
    export.communicate()
    left = eventually_still(lambda: parking.broker.count(DEAD))
    assert 0 < left < 400
    oops_celery("dead", "export", "out", "--remove")
    assert parking.broker.count(DEAD) == 0
    bodies = [one.read_bytes() for one in out.glob("*/*") if one.suffix != ".tmp"]
    assert sorted(wire.decode(body)["id"] for body in bodies) == sorted(ids)


def test_an_export_that_cannot_write_removes_nothing(
    parking: Parking, oops_celery: Command
) -> None:
    parking.park(make_report(KeyError("a")))
    (oops_celery.folder / "file").touch()
    said = oops_celery("dead", "export", "file/out", "--remove", code=1)
    assert "Error: file/out: Not a directory" in said.stderr
    eventually(lambda: parking.broker.count(DEAD) == 1)


# -- Trouble --------------------------------------------------------------------------


def test_no_broker_is_one_line(tmp_path: Path) -> None:
    oops_celery = Command(tmp_path, "amqp://guest:secret@127.0.0.1:1/")
    said = oops_celery("dead", "list", code=2)
    assert len(said.stderr.splitlines()) == 1
    assert said.stderr.startswith("Error: amqp://**@127.0.0.1:1/: ")
    assert "secret" not in said.stderr


def test_a_frozen_broker_is_one_line_and_soon(
    parking: Parking, oops_celery: Command, an_app: App
) -> None:
    parking.park(make_report(KeyError("a")))
    thaw = parking.broker.pause()
    try:
        start = time.monotonic()
        with pytest.raises(QueueError), Broker(an_app):
            pass
        assert time.monotonic() - start < 60  # 5 s, and a loaded machine
        said = oops_celery("dead", "replay", "--all", code=2)
        assert ": no answer within 5 s; " in said.stderr
        assert len(said.stderr.splitlines()) == 1
    finally:
        thaw()


def test_a_broker_that_freezes_while_we_look_is_noticed(
    parking: Parking, an_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oops_celery.dead_letters.queues.LOOK_TIMEOUT", 1.0)
    parking.park(*many(200, size=50_000))
    with pytest.raises(QueueError, match="no answer within 1 s"), Broker(an_app) as it:
        messages = it.browse(DEAD)
        next(messages)
        thaw = parking.broker.pause()
        try:
            list(messages)
        finally:
            thaw()


def test_a_queue_that_is_not_there(broker: Node, oops_celery: Command) -> None:
    said = oops_celery("dead", "list", code=1)
    assert "no queue 'oopses.dead' in vhost '/'" in said.stderr
    broker_queue = oops_celery("dead", "--queue", "other", "list", code=1)
    assert "no queue 'other'" in broker_queue.stderr
    (oops_celery.folder / "t.yml").write_text("queues: [{queue: oopses}]")
    said = oops_celery("dead", "list", code=1, OOPS_TOPOLOGY="t.yml")
    assert "queue 'oopses' has no queue of dead letters in t.yml" in said.stderr


def test_looking_at_the_dead_letters_does_not_hide_them_from_the_next(
    parking: Parking, an_app: App
) -> None:
    parking.park(*many(50))
    for _ in range(15):
        with Broker(an_app) as looker:
            assert len(list(looker.browse(DEAD))) == 50
        with Broker(an_app) as looker:
            messages = looker.browse(DEAD)
            next(messages)
            messages.close()  # type: ignore[attr-defined]


def test_ctrl_c_ends_a_replay_between_two_reports(
    parking: Parking, oops_celery: Command
) -> None:
    parking.park(*many(600))
    replay = oops_celery.start("dead", "replay", "--all")
    eventually(lambda: parking.broker.count(MAIN) > 0)
    replay.send_signal(signal.SIGINT)
    _, err = replay.communicate(timeout=120)
    assert replay.returncode == 130
    assert re.fullmatch(r"\d+ of 600 before the interruption\nInterrupted\.\n", err), (
        err
    )
    eventually(lambda: parking.broker.count(RETRY) == 0)
    left = eventually_still(lambda: parking.broker.count(DEAD))
    assert parking.broker.count(MAIN) + left == 600


def test_it_is_celerys_command_too(parking: Parking, oops_celery: Command) -> None:
    (dead,) = parking.park(make_report(KeyError("a")))
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("celery")),
            *("-A", "oops_celery", "oops", "dead", "list"),
        ],
        env=oops_celery.environ,
        cwd=oops_celery.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"{dead}\tKeyError\t")
