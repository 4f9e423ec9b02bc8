"""The commands for dead letters, on a real database and a real node."""

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
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import bson
import pytest

from oops_celery import FolderPublisher, wire
from oops_celery.dead_letters import park
from tests.support import Node, Worker, eventually
from tests.support.parking import (
    DEAD,
    MAIN,
    Command,
    Parking,
    ids_in,
    make_report,
    many,
)

EVIL = "\x1b]0;owned\x07\x1b[31m [red]a[/red] [/b] \u202e"


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The default database, in the folder of the commands."""
    return f"sqlite:///{tmp_path}/oopses.db"


@pytest.fixture
def parking(broker: Node, url: str) -> Iterator[Parking]:
    parking = Parking(broker, url)
    yield parking
    parking.close()


@pytest.fixture
def oops_celery(broker: Node, tmp_path: Path) -> Command:
    return Command(tmp_path, broker.url)


@pytest.fixture
def on_both(broker: Node, database: str) -> Iterator[Parking]:
    parking = Parking(broker, database)
    yield parking
    parking.close()


@pytest.fixture
def command(on_both: Parking, tmp_path: Path) -> Command:
    assert on_both.database
    return Command(tmp_path, on_both.broker.url, OOPS_REPOSITORY=on_both.database)


# -- list -----------------------------------------------------------------------------


def test_list_says_what_is_dead(on_both: Parking, command: Command) -> None:
    parking, oops_celery = on_both, command
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
    assert {one["queue"] for one in found} == {DEAD}


def test_list_filters(on_both: Parking, command: Command) -> None:
    old = {park.PARKED_AT: "2020-01-01T00:00:00+00:00"}
    on_both.put(wire.encode(make_report(KeyError("old"))).body, application_headers=old)
    (new,) = on_both.park(make_report(KeyError("new")), reason="OSError: ENOSPC (/a)")
    (other,) = on_both.park(make_report(ValueError("other")))

    def listed(*options: str) -> list[str]:
        found = command.json("dead", "list", "--json", *options)
        return [one["id"] for one in found]

    assert listed("--type", "KeyError", "--since", "2h") == [new]
    assert listed("--type", "K*", "--since", "2021-01-01T00:00:00Z") == [new]
    assert len(listed("--type", "[KV]*", "--since", "2019-12-31")) == 3
    assert listed("--type", "key*") == []
    assert listed("--until", "2021-01-01") == [
        one for one in listed() if one not in (new, other)
    ]
    assert listed("--reason", "*ENOSPC*") == [new]
    assert listed("--reason", "ENOSPC") == []
    assert listed("--queue", DEAD, "--type", "ValueError") == [other]
    assert listed("--queue", "other.dead") == []
    wrong = command("dead", "list", "--since", "soon", code=2)
    assert "'soon' is neither like 30m" in wrong.stderr


def test_list_groups_by_type_and_reason(on_both: Parking, command: Command) -> None:
    for number in range(5):
        reason = f"OSError: [Errno 28] ENOSPC: '/srv/{number}' (try {number})"
        on_both.park(make_report(KeyError(str(number))), reason=reason)
    on_both.park(*(make_report(ValueError(str(each))) for each in range(3)))
    on_both.park_body(b"garbage")
    groups = command.json("dead", "list", "--group", "--json")
    assert [(one["count"], one["type"]) for one in groups] == [
        (5, "KeyError"),
        (3, "ValueError"),
        (1, None),
    ]
    assert groups[0]["reason"] == (
        "OSError: [Errno <number>] ENOSPC: <string> (try <number>)"
    )
    assert {one["queue"] for one in groups} == {DEAD}
    assert groups[0]["first"] <= groups[0]["last"]
    assert groups[0]["example"] in on_both.letters()
    lines = command("dead", "list", "--group").stdout.splitlines()
    assert [line.split("\t")[:2] for line in lines] == [
        ["5", "KeyError"],
        ["3", "ValueError"],
        ["1", ""],
    ]
    one = command.json("dead", "list", "--group", "--json", "--reason", "*/srv/3*")
    assert [(group["count"], group["type"]) for group in one] == [(1, "KeyError")]


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
        cwd=oops_celery.folder,
        env=oops_celery.environ,
        capture_output=True,
        check=True,
    )
    assert raw.stdout == b"\x00garbage\xff"


def test_a_message_of_any_shape_is_listed_shown_and_replayed(
    parking: Parking, oops_celery: Command
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
    parking.put(b"far", application_headers={"oops-unreadable": "a time of 9999999"})
    ids = [one["id"] for one in oops_celery.json("dead", "list", "--json")]
    assert ids[:3] == ["OOPS-deep", "odd-1", "odd-2"]
    assert ids[3].startswith("body-")
    for one in ids[:3]:
        shown = oops_celery("dead", "show", one).stdout
        assert f"found in: dead letters in {parking.database}" in shown
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
    parking.file()
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
        ("dead", "replay", "OOPS-none" + EVIL[:9], EVIL[:3]),
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
    # Two that are parked by two processes may come in either order.
    ids.sort()
    short.sort()
    assert [whole.startswith(part) for whole, part in zip(ids, short)] == [True] * 3
    shown = oops_celery("dead", "show", "--json", short[1]).stdout
    assert json.loads(shown)["id"] == ids[1]


# -- replay ---------------------------------------------------------------------------


def test_replay_brings_a_report_back_as_it_came(
    on_both: Parking, command: Command
) -> None:
    parking, oops_celery = on_both, command
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
    assert parking.letters() == [kept]


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
            assert parking.letters() == ["lost-1"]
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
    assert parking.letters() == ids


def test_what_nothing_tells_apart_is_replayed_as_often_as_it_came(
    on_both: Parking, command: Command
) -> None:
    with on_both.broker.connect() as connection:
        connection.channel().queue_declare("orders", durable=True, auto_delete=False)
        try:
            for _ in range(3):
                on_both.put(b"order", application_headers={park.QUEUE: "orders"})
            for _ in range(3):  # sent together, with one id
                on_both.put(
                    b"order",
                    correlation_id="same",
                    application_headers={park.QUEUE: "orders", park.PARKED_AT: "now"},
                    message_id=os.urandom(4).hex(),
                )
            on_both.put(b"gone", application_headers={park.QUEUE: "gone"})
            said = command.json("dead", "replay", "--all", "--json", code=1)
            assert len(said["done"]) == 6
            assert [one["why"][:12] for one in said["failed"]] == ["queue 'gone'"]
            assert len(on_both.broker.messages("orders")) == 6
            assert len(on_both.letters()) == 1
        finally:
            connection.channel().queue_delete("orders")


def test_all_of_many_come_back(on_both: Parking, command: Command) -> None:
    ids = on_both.park(*many(1000, size=2000))
    lines = command("dead", "list").stdout.splitlines()
    listed = [line.split("\t")[0] for line in lines]
    assert sorted(listed) == sorted(ids)  # parked within milliseconds
    said = command("dead", "replay", "--all", "--dry-run").stdout
    assert said.splitlines() == [*listed, "1,000 dead letters would be replayed"]
    assert len(on_both.letters()) == 1000
    assert command("dead", "replay", "--all").stdout == (
        "1,000 dead letters replayed\n"
    )
    assert ids_in(on_both.broker, MAIN) == listed
    assert on_both.letters() == []


def test_a_killed_replay_loses_nothing_and_the_next_one_ends_it(
    on_both: Parking, command: Command
) -> None:
    ids = on_both.park(*many(600, size=5000))
    replay = command.start("dead", "replay", "--all", "--rate", "100")
    eventually(lambda: len(on_both.letters()) < 600)
    replay.kill()
    replay.communicate()
    left = on_both.letters()
    assert 0 < len(left) < 600  # it was killed in the middle
    sent = ids_in(on_both.broker, MAIN)
    assert {*sent, *left} == set(ids)
    command("dead", "replay", "--all")
    assert on_both.letters() == []
    again = ids_in(on_both.broker, MAIN)
    assert {*sent, *again} == set(ids)
    # What had been sent, and not yet removed, is sent again.
    assert len(sent) + len(again) - 600 <= 100


def test_two_replays_send_each_letter_once(on_both: Parking, command: Command) -> None:
    ids = on_both.park(*many(600))
    with ThreadPoolExecutor() as threads:
        both = [
            threads.submit(
                command.start("dead", "replay", "--all", "--json").communicate
            )
            for _ in range(2)
        ]
        said = [json.loads(one.result(120)[0]) for one in both]
    assert sorted(one for each in said for one in each["done"]) == sorted(ids)
    assert sorted(ids_in(on_both.broker, MAIN)) == sorted(ids)
    assert all(each["failed"] == [] for each in said)
    assert sum(each["gone"] for each in said) <= 600


def test_a_full_queue_keeps_the_letter(
    broker: Node, parking: Parking, oops_celery: Command
) -> None:
    # Only RabbitMQ knows the limit: it is that of a policy.
    limit = '{"max-length":5,"overflow":"reject-publish"}'
    broker.ctl("set_policy", "full", f"^{MAIN}$", limit, "--apply-to", "queues")
    try:
        ids = parking.park(*many(60))
        came: list[str] = []
        for _ in range(60):
            said = oops_celery.json("dead", "replay", "--all", "--json", code=None)
            came += ids_in(broker, MAIN)
            refused = {one["why"] for one in said["failed"]}
            assert refused <= {
                "queue 'oopses': the queue did not take it: nacked by the broker",
                "queue 'oopses': nacked by the broker",
            }, refused
            assert sorted({*came, *parking.letters()}) == sorted(ids)
            if not parking.letters():
                break
        assert sorted(came) == sorted(ids)
    finally:
        broker.ctl("clear_policy", "full")


def test_replay_keeps_to_its_rate(parking: Parking, oops_celery: Command) -> None:
    parking.park(*many(6))
    begun = time.monotonic()
    oops_celery("dead", "replay", "--all", "--rate", "4")
    assert time.monotonic() - begun > 1  # 4, then 2 more a second later
    assert parking.letters() == []
    for wrong in ("0", "-1", "fast"):
        oops_celery("dead", "replay", "--all", "--rate", wrong, code=2)


def test_a_replayed_report_is_taken_by_a_worker(
    parking: Parking,
    oops_celery: Command,
    worker: Callable[..., Worker],
    run: Callable[..., str],
) -> None:
    (oops_celery.folder / "refuses.py").write_text(
        "import oops\nconfig = oops.Config()\n"
        "def publisher(report): raise OSError(28, 'No space left on device')\n"
        "config.publisher = publisher\n"
    )
    assert parking.database
    broken = {"OOPS_CONFIG": "refuses:config", "OOPS_MAX_RETRIES": "0"}
    first = worker(OOPS_REPOSITORY=parking.database, **broken)
    published = run(
        "import oops, oops_celery;"
        "print(oops_celery.publisher(oops.Config().create({'topic': 'shop'}))[0])"
    ).strip()
    eventually(lambda: parking.letters() == [published])
    first.kill()
    (found,) = oops_celery.json("dead", "list", "--json")
    assert found["id"] == published
    assert found["reason"] == "OSError: [Errno 28] No space left on device"
    second = worker(OOPS_REPOSITORY=parking.database)
    oops_celery("dead", "replay", published)
    eventually(lambda: f"republish[{published}] succeeded" in second.text())
    shown = oops_celery("show", published).stdout
    assert f"found in: {parking.database}" in shown
    assert "dead letters" not in shown


# -- discard and export ---------------------------------------------------------------


def test_discard_asks_first(on_both: Parking, command: Command) -> None:
    ids = on_both.park(make_report(KeyError("a")), make_report(ValueError("b")))
    for answer in ("", "\n", "no\n"):
        refused = command("dead", "discard", "--all", code=1, answer=answer)
        assert "Discard 2 dead letters for good? [y/N]" in refused.stderr
    said = command("dead", "discard", "--all", "--dry-run").stdout
    assert said.splitlines() == [*ids, "2 dead letters would be discarded"]
    assert on_both.letters() == ids
    command("dead", "discard", ids[0], answer="y\n")
    assert on_both.letters() == [ids[1]]
    said = command("dead", "discard", "--type", "Value*", "--yes", "--json").stdout
    assert json.loads(said) == {"done": [ids[1]], "failed": [], "gone": 0}
    assert on_both.letters() == []


def test_what_was_parked_meanwhile_is_not_discarded(
    on_both: Parking, command: Command
) -> None:
    (first, second) = on_both.park(
        make_report(KeyError("a")), make_report(KeyError("b"))
    )
    pipes = command.start("dead", "discard", "--reason", "*disk*")
    assert pipes.stderr is not None
    asked = ""
    while "[y/N]" not in asked:
        asked += pipes.stderr.read(1)
    # The newest is gone, and its number is not given to the next one.
    command("dead", "discard", second, "--yes")
    (late,) = on_both.park(make_report(KeyError("late")))
    out, err = pipes.communicate("y\n", timeout=120)
    assert out == "1 dead letter discarded\n"
    assert "1 dead letter had been taken by somebody else" in err
    assert pipes.returncode == 1
    assert on_both.letters() == [late]
    assert first != late


def test_export_writes_what_a_worker_would_have_kept(
    on_both: Parking, command: Command
) -> None:
    reports = [make_report(KeyError("a")), make_report(ValueError("b"))]
    ids = on_both.park(*reports)
    on_both.park_body(b"garbage", message_id="no-report")
    said = command("dead", "export", "out", code=1)
    assert said.stdout == "2 dead letters exported\n"
    assert said.stderr == "no-report: no report; it stays a dead letter\n"
    assert len(on_both.letters()) == 3
    # Again, and some of them: the same files.
    command("dead", "export", "out", "--type", "KeyError", "--remove")
    assert on_both.letters() == [ids[1], "no-report"]
    files = sorted((command.folder / "out").glob("*/*"))
    publish = FolderPublisher(command.folder / "kept")
    for report in reports:
        publish({**report, "id": wire.encode(report).id})
    kept = sorted((command.folder / "kept").glob("*/*"))
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
    assert 0 < len(parking.letters()) < 400
    oops_celery("dead", "export", "out", "--remove")
    assert parking.letters() == []
    bodies = [one.read_bytes() for one in out.glob("*/*") if one.suffix != ".tmp"]
    assert sorted(wire.decode(body)["id"] for body in bodies) == sorted(ids)


def test_an_export_that_cannot_write_removes_nothing(
    parking: Parking, oops_celery: Command
) -> None:
    ids = parking.park(make_report(KeyError("a")))
    (oops_celery.folder / "file").touch()
    said = oops_celery("dead", "export", "file/out", "--remove", code=1)
    assert "Error: file/out: Not a directory" in said.stderr
    assert parking.letters() == ids


# -- edit -----------------------------------------------------------------------------


def editor(folder: Path, change: str) -> str:
    """Make an editor that changes the text of a file; return its command."""
    program = folder / "editor.py"
    program.write_text(
        f"import json, sys\npath = sys.argv[1]\ntext = open(path).read()\n"
        f"{change}\nopen(path, 'w').write(text)\n"
    )
    return f"{sys.executable} {program}"


def test_an_edited_report_is_replayed_and_remembers_its_id(
    on_both: Parking, command: Command
) -> None:
    time = datetime(2026, 5, 1, 3, 4, 5)
    report = make_report(KeyError("é"), time=time, big=2**40, blob=b"\x00\xff", f=1.0)
    (dead,) = on_both.park(report)
    change = "text = text.replace('\"KeyError\"', '\"MendedError\"')"
    said = command("dead", "edit", dead[5:15], EDITOR=editor(command.folder, change))
    (new,) = on_both.letters()
    assert said.stdout == f"{dead} is now {new}\n"
    assert new != dead
    shown = command.json("dead", "show", new, "--json")
    assert (shown["edited_from"], shown["type"]) == (dead, "MendedError")
    (listed,) = command.json("dead", "list", "--json")
    assert (listed["type"], listed["reason"]) == ("MendedError", "NotTaken: disk full")
    command("dead", "replay", new)
    (message,) = on_both.broker.messages(MAIN)
    came = wire.decode(bytes(message.body))
    assert came == {
        **wire.decode(wire.encode(report).body),
        "id": new,
        "type": "MendedError",
        "edited_from": dead,
    }
    assert message.headers["id"] == new
    assert message.properties["correlation_id"] == new


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("pass", "nothing was changed"),
        ("text = '{'", "it is not JSON: "),
        ("text = '[1]'", "a report must be a JSON object"),
    ],
)
def test_an_edit_that_cannot_be_used_changes_nothing(
    parking: Parking, oops_celery: Command, change: str, why: str
) -> None:
    (dead,) = parking.park(make_report(KeyError("a")))
    program = editor(oops_celery.folder, change)
    said = oops_celery("dead", "edit", dead, code=1, EDITOR=program)
    assert why in said.stderr
    assert parking.letters() == [dead]
    kept = list(oops_celery.folder.glob("edited-*.json"))
    assert [one.read_text() for one in kept] == (
        [] if change == "pass" else [change.split("'")[1]]
    )
    assert len(said.stderr.splitlines()) == 1


def test_what_is_no_report_is_not_edited(
    parking: Parking, oops_celery: Command
) -> None:
    parking.park_body(b"garbage", message_id="order-1")
    said = oops_celery("dead", "edit", "order-1", code=1, EDITOR="false")
    assert "it cannot be edited: not a BSON document" in said.stderr
    (dead,) = parking.park(make_report(KeyError("a")))
    failed = oops_celery("dead", "edit", dead, code=2, EDITOR="false")
    assert "Editing failed" in failed.stderr
    assert parking.letters() == ["order-1", dead]


# -- Trouble --------------------------------------------------------------------------


def test_no_broker_is_needed_to_look_and_is_one_line_for_a_replay(
    parking: Parking, oops_celery: Command
) -> None:
    (dead,) = parking.park(make_report(KeyError("a")))
    away = {"RABBITMQ_URL": "amqp://guest:secret@127.0.0.1:1/"}
    said = oops_celery("dead", "list", **away)
    assert (said.stdout.split("\t")[0], said.stderr) == (dead, "")
    assert dead in oops_celery("dead", "show", dead, **away).stdout
    said = oops_celery("dead", "replay", dead, code=2, **away)
    assert said.stderr.splitlines()[0] == "0 of 1 before the interruption"
    assert said.stderr.splitlines()[1].startswith("Error: amqp://**@127.0.0.1:1/: ")
    assert len(said.stderr.splitlines()) == 2
    assert "secret" not in said.stderr
    assert parking.letters() == [dead]
    oops_celery("dead", "discard", dead, "--yes", **away)
    assert parking.letters() == []


def test_a_frozen_broker_is_noticed(parking: Parking, oops_celery: Command) -> None:
    (dead,) = parking.park(make_report(KeyError("a")))
    thaw = parking.broker.pause()
    try:
        assert oops_celery("dead", "list").stdout.startswith(dead)
        said = oops_celery("dead", "replay", "--all", code=2)
        assert ": no answer within 5 s; " in said.stderr
    finally:
        thaw()
    assert parking.letters() == [dead]


def test_without_a_database(broker: Node, oops_celery: Command) -> None:
    said = oops_celery("dead", "list", code=2)
    assert "oopses.db is not there: a worker makes it when it starts" in said.stderr
    said = oops_celery("dead", "list", code=2, OOPS_REPOSITORY="./oopses")
    assert "OOPS_REPOSITORY='./oopses' is a folder: set it, or" in said.stderr
    said = oops_celery("dead", "--repository", "mysql://u:secret@h/x", "list", code=2)
    assert "must be sqlite:///FILE or postgresql+psycopg://" in said.stderr
    assert "secret" not in said.stderr


def test_what_waits_in_the_queue_is_said(
    broker: Node, parking: Parking, oops_celery: Command
) -> None:
    parking.park(make_report(KeyError("a")))
    broker.publish(DEAD, b"unfiled")
    eventually(lambda: broker.count(DEAD) == 1)
    said = oops_celery("dead", "list")
    assert len(said.stdout.splitlines()) == 1
    assert said.stderr == f"1 more wait in queue {DEAD}, for a worker\n"
    none = oops_celery("dead", "show", "nothing", code=1).stderr
    assert "nothing: there is no such id" in none
    assert f"1 more wait in queue {DEAD}, for a worker" in none


def test_ctrl_c_ends_a_replay_between_two_batches(
    parking: Parking, oops_celery: Command
) -> None:
    ids = parking.park(*many(600))
    replay = oops_celery.start("dead", "replay", "--all", "--rate", "100")
    eventually(lambda: parking.broker.count(MAIN) > 0)
    replay.send_signal(signal.SIGINT)
    _, err = replay.communicate(timeout=120)
    assert replay.returncode == 130
    told = re.fullmatch(r"(\d+) of 600 before the interruption\nInterrupted\.\n", err)
    assert told, err
    left = parking.letters()
    sent = ids_in(parking.broker, MAIN)
    assert {*sent, *left} == set(ids)
    assert len(sent) - int(told[1]) <= 100


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
