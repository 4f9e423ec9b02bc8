"""``oops-celery show``: a report is found where it is, and shown to a person."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from click.testing import CliRunner
from oops_datedir_repo import DateDirRepo, serializer_rfc822

from oops_celery import wire
from oops_celery.celery import AMQP, App, Loader
from oops_celery.cli import main
from oops_celery.dead_letters.search import Search
from oops_celery.operations.depths import ask
from oops_celery.repository.reader import find_reports
from oops_celery.repository.store import Repository
from tests.support import Node
from tests.support.parking import DEAD, MAIN, RETRY, Command, Parking, make_report

NOWHERE = "amqp://guest:guest@127.0.0.1:1/"
TIMELINE = [[0, 10, "SQL-main", "SELECT 1"], [10, 100, "http", "GET /", ["a trace"]]]


@pytest.fixture
def parking(broker: Node, tmp_path: Path) -> Iterator[Parking]:
    parking = Parking(broker, f"sqlite:///{tmp_path}/oopses.db")
    yield parking
    parking.close()


@pytest.fixture
def oops_celery(broker: Node, tmp_path: Path) -> Command:
    return Command(tmp_path, broker.url)


@pytest.fixture
def alone(tmp_path: Path) -> Command:
    """The command without a broker, and with a folder."""
    return Command(tmp_path, NOWHERE, OOPS_REPOSITORY="oopses")


def keep(folder: Path, day: int, report: dict[str, object]) -> tuple[str, Path]:
    """Keep a report as the worker does; return its id and its file."""
    body = wire.encode(report, inherit_id=True).body
    kept = {**wire.decode(body)}
    repository = DateDirRepo(str(folder / "oopses"), inherit_id=True, stash_path=True)
    time = datetime(2024, 5, day, tzinfo=timezone.utc)
    repository.publish(kept, now=time)
    return str(kept["id"]), Path(str(kept["datedir_repo_filepath"]))


# -- The repository -------------------------------------------------------------------


def test_a_kept_report_is_shown_though_its_file_has_another_name(
    alone: Command,
) -> None:
    report = make_report(
        KeyError("cart"),
        req_vars={"HTTP_HOST": "shop.example", "lines": "a\nb"},
        timeline=TIMELINE,
        url="https://shop.example/pay",
        empty=None,
    )
    own, path = keep(alone.folder, 3, report)
    assert path.name != own
    shown = alone("show", own).stdout
    lines = shown.splitlines()
    assert lines[0] == "KeyError: 'cart'"
    assert f"id: {own}" in lines
    assert "url: https://shop.example/pay" in lines
    assert f"found in: {path}" in lines
    assert '  File "' in shown
    assert "    raise error" in lines
    assert r"  lines: a\nb" in lines
    assert "empty" not in shown
    assert lines[-3:] == [
        "Timeline",
        "  ██                       10 ms at 0: SQL-main SELECT 1",
        "    ██████████████████     90 ms at 10: http GET /",
    ]
    by_file = alone("show", path.name[:20]).stdout
    assert by_file == shown
    ascii_only = alone("show", own, PYTHONIOENCODING="ascii").stdout
    assert "  ##                       10 ms at 0" in ascii_only


def test_json_and_raw_are_the_whole_report(alone: Command) -> None:
    strange = {
        "bytes": b"\xffabc",
        "nan": float("nan"),
        "time": datetime(2024, 5, 1, 3, tzinfo=timezone.utc),
        "deep": {"list": [1, 2.5, None, True]},
    }
    own, path = keep(alone.folder, 1, make_report(KeyError("a"), **strange))
    shown = alone("show", "--json", own).stdout
    report = json.loads(shown, parse_constant=lambda _: pytest.fail("not JSON"))
    assert set(report) == set(wire.decode(path.read_bytes()))
    assert report["id"] == own
    assert report["bytes"] == "\\xffabc"
    assert report["nan"] == "nan"
    assert report["time"] == "2024-05-01T03:00:00+00:00"
    assert report["deep"] == {"list": [1, 2.5, None, True]}
    raw = subprocess.run(
        [sys.executable, "-m", "oops_celery.cli", "show", "--raw", own],
        cwd=alone.folder,
        env=alone.environ,
        capture_output=True,
        check=True,
    )
    assert raw.stdout == path.read_bytes()
    assert alone("show", "--raw", "--json", own, code=2).stdout == ""


def test_a_part_of_an_id_is_enough_if_no_other_has_it(alone: Command) -> None:
    keep(alone.folder, 1, make_report(KeyError("a"), id="OOPS-aaa111"))
    keep(alone.folder, 2, make_report(ValueError("b"), id="OOPS-aaa222"))
    keep(alone.folder, 3, make_report(KeyError("c"), id="OOPS-aaa"))
    assert json.loads(alone("show", "--json", "a111").stdout)["id"] == "OOPS-aaa111"
    unclear = alone("show", "aaa", code=1)
    lines = unclear.stderr.splitlines()
    assert unclear.stdout == ""
    assert "aaa: 3 reports have it in their ids:" in unclear.stderr
    for end, kind in (("111", "KeyError"), ("222", "ValueError"), ("", "KeyError")):
        (line,) = [one for one in lines if one.startswith(f"OOPS-aaa{end}  {kind}  ")]
        assert re.search(r"  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC  ", line)
    # A whole id is clear, though it is a part of others.
    assert json.loads(alone("show", "--json", "OOPS-aaa").stdout)["id"] == "OOPS-aaa"
    assert "id: OOPS-aaa\n" in alone("show", "OOPS-aaa").stdout
    none = alone("show", "bbb", code=1)
    assert f"bbb: no such report in repository {alone.folder}/oopses" in none.stderr
    alone("show", "", code=2)


def test_an_id_is_found_as_people_paste_it(alone: Command) -> None:
    own, path = keep(alone.folder, 1, make_report(KeyError("a")))
    keep(alone.folder, 1, make_report(KeyError("b")))
    bare = own.removeprefix("OOPS-")
    for text in (
        *(f"{own}.", f"  {own} ", f"'{own}'", own.lower(), own.upper(), bare.upper()),
        *(f"[{bare[:9]}]", f"oops-{bare[:9].upper()}", str(path)),
        *(f"https://oops.example/{own}", f"https://a.example/x/{bare[:9]}/?a=b#c"),
    ):
        assert json.loads(alone("show", "--json", text).stdout)["id"] == own, text
    for nothing in ("", "  ", "...", "https://"):
        alone("show", nothing, code=2 if nothing != "https://" else 1)


def test_no_broker_is_needed(alone: Command) -> None:
    own, _ = keep(alone.folder, 1, make_report(KeyError("a")))
    shown = alone("show", own)
    assert shown.stdout.startswith("KeyError: 'a'\n")
    assert shown.stderr == ""
    missing = alone("show", "zzz", code=1, OOPS_REPOSITORY="gone").stderr
    assert f"{alone.folder}/gone (not there)" in missing
    assert "in a queue, which cannot be asked: amqp://**@127.0.0.1:1/: " in missing


def test_a_database_that_cannot_be_read(alone: Command) -> None:
    missing = alone("show", "zzz", code=2, OOPS_REPOSITORY="sqlite:///gone.db").stderr
    assert (
        f"could not be read: sqlite:///{alone.folder}/gone.db is not there" in missing
    )
    assert "no such report" not in missing


def test_what_else_lies_in_a_repository_is_no_trouble(alone: Command) -> None:
    own, path = keep(alone.folder, 2, make_report(KeyError("a")))
    day = path.parent
    (day / "broken").write_bytes(own.encode())
    (day / "half.tmp").write_bytes(path.read_bytes())
    (day / "folder").mkdir()
    (day / "fifo").symlink_to("nowhere")
    (day.parent / "metadata").mkdir()
    old = {"id": "OOPS-old1", "type": "OldError", "value": "x"}
    with (day / "rfc822").open("wb") as file:
        serializer_rfc822.write({**old, "req_vars": {}, "timeline": []}, file)
    found = list(find_reports(str(day.parent), own))
    assert [(one.id, one.path) for one in found] == [(own, str(path))]
    assert alone("show", "OOPS-old1").stdout.startswith("OldError: x\n")


def test_the_newest_day_comes_first_and_a_big_repository_is_quick(
    tmp_path: Path,
) -> None:
    report = make_report(KeyError("a"), pad="x" * 3000)
    for day in range(1, 11):
        folder = tmp_path / f"2024-05-{day:02}"
        folder.mkdir()
        for number in range(500):
            body = wire.encode({**report, "day": day, "number": number}).body
            (folder / f"file-{number}").write_bytes(body)
    body = wire.encode({**report, "id": "OOPS-wanted"}, inherit_id=True).body
    for day in (3, 9):
        (tmp_path / f"2024-05-{day:02}/its-file").write_bytes(body)
    start = time.process_time()
    found = [one.path for one in find_reports(str(tmp_path), "S-want")]
    assert time.process_time() - start < 2  # decoding all of them takes longer
    assert found == [str(tmp_path / f"2024-05-{day:02}/its-file") for day in (9, 3)]


# -- The dead letters and the queues --------------------------------------------------


def test_a_dead_report_says_why_and_when(
    parking: Parking, oops_celery: Command
) -> None:
    report = make_report(KeyError("a"))
    (dead,) = parking.park(report)
    lines = oops_celery("show", dead[8:16]).stdout.splitlines()
    assert lines[0] == "KeyError: 'a'"
    assert f"found in: dead letters in {parking.database}" in lines
    assert "  reason: NotTaken: disk full" in lines
    assert "  attempts: 21" in lines
    assert f"  queue: {DEAD}" in lines
    assert f"  came from: queue {MAIN}" in lines
    assert "Traceback of its last failure" in lines
    assert "ValueError: of the worker" in lines
    today = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    (parked,) = [line for line in lines if line.startswith("  parked: ")]
    assert parked.startswith(f"  parked: {today} ")
    assert parked.endswith("s ago")
    # Kept after all: both places are said.
    assert parking.database
    kept = Repository(parking.database)
    kept.publish({**report, "id": dead})
    both = oops_celery("show", dead).stdout
    assert f"found in: {parking.database}\nfound in: dead letters in " in both
    assert "  reason: NotTaken: disk full" in both
    assert parking.letters() == [dead]


def test_reports_on_their_way_are_counted_and_left_alone(
    parking: Parking, oops_celery: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues = (MAIN, RETRY.replace("1", "3"), DEAD)
    encoded = wire.encode(make_report(KeyError("a")))
    for queue in queues:
        parking.broker.publish(queue, encoded.body)
    said = oops_celery("show", encoded.id, code=1).stderr
    assert f"{encoded.id}: no such report in repository " in said
    for queue in queues:
        assert f"one of 1 in queue {queue}, since when is unknown\n" in said
    monkeypatch.setenv("RABBITMQ_URL", parking.broker.url)
    monkeypatch.chdir(oops_celery.folder)
    app = App("test", amqp=AMQP, loader=Loader, set_as_current=False)
    for _ in range(20):
        search = Search(str(parking.database), encoded.id).run()
        assert (search.found, search.not_looked_at) == ([], [])
        assert [one.messages for one in ask(app, queues, 60)] == [1, 1, 1]
    for queue in queues:
        (message,) = parking.broker.messages(queue)
        assert (message.headers or {}).get("x-delivery-count", 0) == 0
        assert not message.delivery_info["redelivered"]


def test_a_queue_that_is_missing_does_not_hide_the_others(
    broker: Node, parking: Parking, oops_celery: Command
) -> None:
    with broker.connect() as connection:
        connection.channel().queue_delete(RETRY)
    encoded = wire.encode(make_report(KeyError("a")))
    broker.publish(DEAD, encoded.body)
    shown = oops_celery("show", encoded.id, code=1)
    assert f"one of 1 in queue {DEAD}" in shown.stderr
    assert RETRY not in shown.stderr


def test_a_report_that_is_nowhere(parking: Parking, oops_celery: Command) -> None:
    said = oops_celery("show", "OOPS-none", code=1).stderr
    assert "no report waits in a queue; its program may still have it\n" in said


def test_a_frozen_broker_does_not_stop_the_search(
    parking: Parking, oops_celery: Command
) -> None:
    (dead,) = parking.park(make_report(KeyError("a")))
    thaw = parking.broker.pause()
    try:
        shown = oops_celery("show", dead)
        missing = oops_celery("show", "OOPS-none", code=1)  # ends by itself
    finally:
        thaw()
    assert shown.stdout.startswith("KeyError: 'a'\n")
    assert ": no answer within 3 s" in missing.stderr


def test_help_has_an_example_and_the_exit_codes() -> None:
    of_dead = ("list", "show", "replay", "discard", "export", "edit")
    for command in (["show"], *(["dead", name] for name in of_dead)):
        said = CliRunner().invoke(main, [*command, "--help"]).stdout
        assert "Example" in said
        assert f"oops-celery {' '.join(command)} " in said
        assert "The exit code is 0 when" in said
        assert "130" in said
