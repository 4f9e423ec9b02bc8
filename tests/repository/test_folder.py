"""The folder of reports: what is written, under which name, and who reads it."""

from __future__ import annotations

import datetime
import decimal
import json
import os
import stat
import subprocess
import sys
import types
import uuid
from datetime import timedelta, timezone
from pathlib import Path, PurePosixPath
from typing import Any

import oops
import pytest
from oops_datedir_repo import DateDirRepo, serializer_bson

import oops_celery
from oops_celery import FolderPublisher, settings, wire
from oops_celery.receiving.receive import receive
from oops_celery.repository import folder, reader
from oops_celery.repository.config import load_config
from oops_celery.repository.groups import Seen
from oops_celery.repository.reader import waiting
from tests.support import environment

NOW = datetime.datetime.now(timezone.utc).replace(microsecond=0)


def files(of: Path) -> list[Path]:
    return sorted(path for path in of.rglob("*") if path.is_file())


def circular() -> dict[str, Any]:
    made: dict[str, Any] = {"k": 1}
    made["self"] = made
    return made


class Proxy:
    """As a proxy of a web framework outside of a request: everything raises."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("working outside of request context")


def deep() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for _ in range(300):
        made = {"in": made}
    return made


STRANGE = {
    "decimal": decimal.Decimal("1.5"),
    "set": {1, 2},
    "frozenset": frozenset({1}),
    "date": datetime.date(2026, 1, 2),
    "time": datetime.time(1, 2),
    "timedelta": timedelta(1),
    "uuid": uuid.UUID(int=1),
    "path": PurePosixPath("/a"),
    "int keys": {1: 2, "1": 3},
    "tuple keys": {(1, 2): 3},
    "file name": os.fsdecode(b"caf\xe9"),
    "NUL in a key": {"a\0b": 1},
    "proxy": Proxy(),
    "circular": circular(),
    "deep": deep(),
    "large int": 2**70,
    "complex": 1j,
    "class": int,
    "generator": (one for one in ()),
    "mapping proxy": types.MappingProxyType({"a": 1}),
    "bytearray": bytearray(b"a"),
    "exception": ValueError("x"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_it_takes_what_the_publisher_takes(name: str, tmp_path: Path) -> None:
    value = STRANGE[name]
    report = {"type": "ValueError", "value": value}
    publish = oops.publish_with_fallback(lambda _: [], FolderPublisher(tmp_path / "f"))
    ids = publish(report)
    (path,) = files(tmp_path)
    encoded = wire.encode(report)
    assert ids == [encoded.id] == [path.name]
    assert path.read_bytes() == encoded.body
    assert report["value"] is value


@pytest.mark.parametrize("hooks", ["on_create", "filters"])
@pytest.mark.parametrize("name", STRANGE)
def test_with_the_hook_another_publisher_takes_it(
    name: str, hooks: str, tmp_path: Path
) -> None:
    value = STRANGE[name]
    config = oops.Config()
    config.on_create.append(lambda report, _: report.update(value=value))
    getattr(config, hooks).append(oops_celery.plain)
    config.publisher = DateDirRepo(str(tmp_path)).publish
    assert config.publish(config.create())
    (path,) = files(tmp_path)
    wire.decode(path.read_bytes())


def test_the_hook_leaves_a_plain_report_as_it_is() -> None:
    inner = [1, {"a": NOW}]
    report = {"time": NOW, "inner": inner, "bytes": b"a", "none": None}
    oops_celery.plain(report)
    assert report["inner"] is inner


def test_the_id_of_a_report_is_kept(tmp_path: Path) -> None:
    assert FolderPublisher(tmp_path)({"id": "OOPS-1", "k": 1}) == ["OOPS-1"]
    (path,) = files(tmp_path)
    assert (path.name, wire.decode(path.read_bytes())["id"]) == ("OOPS-1", "OOPS-1")


def test_a_folder_is_found_from_wherever_the_program_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    publish = FolderPublisher("fallback")
    monkeypatch.chdir("/")
    publish({})
    assert files(tmp_path / "fallback")


UNUSUAL_IDS = [
    *("", " ", ".", "..", "../../x", "/etc/x", "a/b", ".hidden", "a\0b", "a\nb"),
    *("\x1b[31m", "x" * 300, "ü" * 150, "done.tmp", ".tmp", "a\u202eb", "\udcff"),
    *("-rf", "~", "a b", "a\\b", "*", "$(x)", "é", "metadata", "2026-01-01", "x" * 200),
]


@pytest.mark.parametrize("report_id", UNUSUAL_IDS)
def test_any_id_has_a_file_that_is_found(report_id: str, tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    (kept,) = FolderPublisher(tmp_path / "repository")({"id": report_id, "time": NOW})
    (path,) = files(tmp_path)
    days = tmp_path / "repository" / NOW.date().isoformat()
    assert path.parent == days
    assert path.name.isprintable()
    assert not path.name.startswith(".")
    where = str(tmp_path / "repository")
    (found,) = reader.find_reports(where, kept)
    assert (found.id, found.path) == (kept, str(path))
    assert waiting(tmp_path / "repository") == [path]
    (name,) = reader.files(where, NOW.date(), 1)
    assert [type(one) for one in reader.read_reports(where, [name])] == [Seen]


@pytest.mark.slow
def test_oops_datedir_repo_reads_it(old_python: Path, tmp_path: Path) -> None:
    """With the bson package that it asks for; and a report of each kind of value."""
    publish = FolderPublisher(tmp_path / "reports")
    ids = [publish({"id": one, "time": NOW})[0] for one in UNUSUAL_IDS]
    ids += [publish({"value": value, "time": NOW})[0] for value in STRANGE.values()]
    program = """if True:
        import json, oops_datedir_repo
        read = []
        repository = oops_datedir_repo.DateDirRepo("reports")
        repository.republish(lambda report: read.append(report["id"]) or report["id"])
        print(json.dumps(read))
    """
    done = subprocess.run(
        [old_python, "-c", program],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(json.loads(done.stdout)) == sorted(ids)
    assert files(tmp_path) == []  # it has taken them


def test_two_ids_have_two_files(tmp_path: Path) -> None:
    for report_id in UNUSUAL_IDS:
        FolderPublisher(tmp_path)({"id": report_id, "time": NOW})
    ids = {wire.decode(path.read_bytes())["id"] for path in files(tmp_path)}
    assert len(files(tmp_path)) == len(ids) == len(UNUSUAL_IDS)


def test_the_same_report_is_one_file_and_another_one_is_not_lost(
    tmp_path: Path,
) -> None:
    publish = FolderPublisher(tmp_path)
    for value in (1, 1, 2, 2, 1):
        publish({"id": "OOPS-1", "value": value, "time": NOW})
    found = [wire.decode(path.read_bytes())["value"] for path in files(tmp_path)]
    assert sorted(found) == [1, 2]


@pytest.mark.parametrize(
    ("time", "day"),
    [
        (NOW, NOW),
        (NOW - timedelta(days=3), NOW - timedelta(days=3)),
        (NOW.astimezone(timezone(timedelta(hours=14))), NOW),
        (NOW - timedelta(days=40), None),
        (NOW + timedelta(days=2), None),
        (datetime.datetime(1970, 1, 1), None),
        ("yesterday", None),
        (None, None),
    ],
)
def test_a_report_is_filed_under_its_own_day(
    time: Any, day: datetime.datetime | None, tmp_path: Path
) -> None:
    before = datetime.datetime.now(timezone.utc).date()
    FolderPublisher(tmp_path)({"time": time})
    after = datetime.datetime.now(timezone.utc).date()
    (path,) = files(tmp_path)
    days = {before, after} if day is None else {day.date()}
    assert path.parent.name in {one.isoformat() for one in days}


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_the_group_may_read_it_and_nobody_else(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        FolderPublisher(tmp_path / "new")({})
    finally:
        os.umask(before)
    (path,) = files(tmp_path)
    modes = [stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent)]
    assert modes == [0o640, 0o750]


def test_many_processes_write_the_same_reports(tmp_path: Path) -> None:
    program = """if True:
        import sys, oops_celery
        publish = oops_celery.FolderPublisher("shared")
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(100):
            publish({"id": f"OOPS-{number}", "text": "x" * 100_000})
    """
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for one in started:
        assert one.stdout is not None
        one.stdout.readline()
    for one in started:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    assert [one.wait(120) for one in started] == [0] * 4
    bodies = [path.read_bytes() for path in files(tmp_path)]
    assert len({wire.decode(body)["id"] for body in bodies}) == len(bodies) == 100


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("")
    with pytest.raises(OSError):
        FolderPublisher(tmp_path / "a-file")({})


@pytest.mark.parametrize("broken", ["write", "fsync", "rename"])
def test_what_is_half_written_is_taken_away(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    name = "fchmod" if broken == "write" else broken
    folder._make(f"{tmp_path}/{NOW.date()}")
    monkeypatch.setattr(folder.os, name, fail)
    with pytest.raises(OSError):
        FolderPublisher(tmp_path)({"time": NOW})
    assert files(tmp_path) == []


def test_a_worker_keeps_the_bytes_as_they_came(tmp_path: Path) -> None:
    small_int64 = b"\x12n\0" + (7).to_bytes(8, "little")
    element = b"\x02id\0" + (7).to_bytes(4, "little") + b"OOPS-1\0"
    document = small_int64 + element + b"\0"
    foreign = (4 + len(document)).to_bytes(4, "little") + document
    bodies = [
        foreign,
        wire.encode({"type": "ValueError", "time": NOW, "n": [1, b"a"]}).body,
    ]
    repository = load_config(settings.Settings(repository=str(tmp_path)))
    for body in bodies:
        assert receive(repository, body) == [wire.decode(body)["id"]]
    assert {path.read_bytes() for path in files(tmp_path)} == set(bodies)


def test_a_worker_gives_an_id_to_a_report_that_has_none(tmp_path: Path) -> None:
    body = serializer_bson.dumps({"k": 1})
    (kept,) = folder.FolderRepository(str(tmp_path)).keep(wire.decode(body), body)
    assert kept == "OOPS-f9082d518031065d1e948548a66a4a05"
    (path,) = files(tmp_path)
    assert wire.decode(path.read_bytes()) == {"k": 1, "id": kept}


def test_a_report_that_a_filter_let_through_has_the_bytes_of_the_publisher(
    tmp_path: Path,
) -> None:
    """An `oops.Config` gets a decoded report: encoded again, it is what was sent."""
    config = oops.Config()
    config.publisher = FolderPublisher(tmp_path)
    body = wire.encode(
        {"time": NOW, "n": 1, "large": 2**40, "bytes": b"\0", "nested": {"a": [1.5]}}
    ).body
    receive(config, body)
    (path,) = files(tmp_path)
    assert path.read_bytes() == body
