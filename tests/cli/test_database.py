"""The commands that read and fill the repository's database."""

from __future__ import annotations

import bz2
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner, Result
from oops_datedir_repo import serializer_rfc822
from sqlalchemy import update

from oops_celery import wire
from oops_celery.cli import main
from oops_celery.repository import folder
from oops_celery.repository.queries import Reports
from oops_celery.repository.schema import HEAD, report_group
from oops_celery.repository.search import Wanted
from oops_celery.repository.store import Repository
from tests.support import environment, eventually

NOON = datetime(2026, 3, 5, 12, 30, tzinfo=timezone.utc)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("OOPS_", "COLUMNS"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RABBITMQ_URL", "amqp://127.0.0.1:1/")


@pytest.fixture
def keep(database: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Store a report in the database that the commands read; return its id."""
    monkeypatch.setenv("OOPS_REPOSITORY", database)
    repository = Repository(database)

    def keep_report(**report: Any) -> str:
        (kept,) = repository.publish({"time": NOON, "type": "KeyError", **report})
        return kept

    return keep_report


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(main, arguments, prog_name="oops-celery")
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own: settings are read once."""
    return subprocess.run(
        [sys.executable, "-m", "oops_celery.cli", *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_report_shows_the_groups_of_a_day(keep: Any, database: str) -> None:
    for minutes in range(3):
        keep(value=f"no {minutes}", time=NOON + timedelta(minutes=minutes))
    other = keep(type="ValueError", value="bad", topic="/cart?user=17")
    keep(type="TypeError", time=NOON + timedelta(days=1))
    result = call("report", "--date", "2026-03-05", "--json")
    shown = json.loads(result.stdout)
    assert shown["reports"] == 4
    assert shown["unreadable"] == []
    first, second = shown["groups"]
    assert first["type"], first["count"] == ("KeyError", 3)
    assert first["value"] == "no <number>"
    assert first["first"] == "2026-03-05T12:30:00Z"
    assert first["last"] == "2026-03-05T12:32:00Z"
    assert first["hours"] == {"2026-03-05T12:00:00Z": 3}
    assert second["example"] == other
    assert second["topic"] == "/cart"


def test_a_group_is_shown_as_it_was_in_the_period(keep: Any) -> None:
    old = keep(n=1)
    keep(n=2, time=NOON + timedelta(days=3))
    (group,) = json.loads(call("report", "--date", "2026-03-05", "--json").stdout)[
        "groups"
    ]
    assert group["count"] == 1
    assert group["example"] == old
    assert group["last"] < "2026-03-06"


def test_report_of_a_day_without_any_names_the_last_day(
    keep: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    keep()
    assert "--date 2026-03-05" in call("report", "--date", "2026-02-01").stdout


def test_report_writes_a_page(keep: Any, tmp_path: Path) -> None:
    keep(value="<b>bold</b>")
    assert call("report", "--date", "2026-03-05", "--html", "x.html").exit_code == 0
    assert "&lt;b&gt;bold" in (tmp_path / "x.html").read_text()


def test_show_needs_no_broker(keep: Any) -> None:
    report_id = keep(value="needle")
    for part in (report_id, report_id[5:13], f" {report_id}. ", report_id.upper()):
        result = run("show", part)
        assert result.returncode == 0, result.stderr
        assert "needle" in result.stdout
    result = run("show", "OOPS-" + "0" * 32)
    assert result.returncode == 1
    assert "no such report in repository" in result.stderr


def test_show_names_the_candidates(keep: Any) -> None:
    ids = [keep(id=f"ABC-{n}", n=n) for n in range(3)]
    result = run("show", "abc")
    assert result.returncode == 1
    assert "3 reports have it" in result.stderr
    assert all(one in result.stderr for one in ids)
    assert "n: 1" in run("show", "ABC-1").stdout


def test_show_tells_reports_with_the_same_id_apart(keep: Any, database: str) -> None:
    same = "OOPS-" + "a" * 32
    keep(id=same, value="one")
    keep(id=same, value="two")
    with Reports(database) as reports:
        (other,) = {one.id for one in reports.bodies()} - {same}
    for part, value in ((same, "one"), (other, "two"), (other[5:].upper(), "two")):
        assert json.loads(run("show", "--json", part).stdout)["value"] == value


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    for command in (["report"], ["export", "x"]):
        result = CliRunner().invoke(
            main, command, env={"OOPS_REPOSITORY": "sqlite:///none.db"}
        )
        assert result.exit_code == 2
        assert "none.db is not there: a worker makes it" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_url_that_cannot_be_used() -> None:
    for command in ("show x", "report", "doctor", "import .", "export x"):
        done = run(*command.split(), OOPS_REPOSITORY="mysql://u:s3cret@h/x")
        assert done.returncode == 2, command
        assert "OOPS_REPOSITORY='mysql://u:***@h/x'" in done.stderr
        assert "postgresql+psycopg://" in done.stderr
        assert "s3cret" not in done.stdout + done.stderr


# -- import and export ----------------------------------------------------------------


def fill(place: Path, count: int) -> dict[str, bytes]:
    """Write reports to a folder; return their bodies by id."""
    bodies = {}
    for number in range(count):
        time = NOON + timedelta(hours=number % 100)
        encoded = wire.encode({"type": f"E{number % 5}", "n": number, "time": time})
        folder.write(str(place), encoded, day=time, sync=False)
        bodies[encoded.id] = encoded.body
    return bodies


def test_there_and_back_again(database: str, tmp_path: Path) -> None:
    bodies = fill(tmp_path / "in", 1000)
    result = call("import", "--repository", database, "in", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["new"] == 1000
    again = call("import", "--repository", database, "in", "--processes", "1")
    assert "no new reports of 1,000 files, 1,000 stored before" in again.stdout
    for _ in range(2):
        result = call("export", "--repository", database, "out", "--json")
        assert json.loads(result.stdout)["reports"] == 1000
    files = [path for path in (tmp_path / "out").glob("*/*") if path.is_file()]
    assert {path.name: path.read_bytes() for path in files} == bodies
    assert {path.stat().st_mode & 0o777 for path in files} == {0o640}
    for path in files:
        report = wire.decode(path.read_bytes())
        assert path.parent.name == str(report["time"].date())


READER = """
import sys
from oops_datedir_repo import serializer
for name in sys.argv[1:]:
    with open(name, "rb") as file:
        report = serializer.read(file)
    print(report["id"], report["type"], report["n"], report["time"].isoformat())
"""


def test_oops_datedir_repo_reads_what_is_exported(
    old_python: Path, tmp_path: Path
) -> None:
    fill(tmp_path / "in", 100)
    url = f"sqlite:///{tmp_path}/oopses.db"
    assert call("import", "--repository", url, "in").exit_code == 0
    assert call("export", "--repository", url, "out").exit_code == 0
    files = sorted(map(str, (tmp_path / "out").glob("*/*")))
    done = subprocess.run(
        [old_python, "-c", READER, *files], capture_output=True, text=True, check=True
    )
    reports = [wire.decode(Path(one).read_bytes()) for one in files]
    assert done.stdout.splitlines() == [
        f"{one['id']} {one['type']} {one['n']} {one['time'].isoformat()}"
        for one in reports
    ]


def test_other_layouts(database: str, tmp_path: Path) -> None:
    """Nested, compressed, of RFC 822, without an id; and what is no report."""
    deep = tmp_path / "in/2026/03/05"
    deep.mkdir(parents=True)
    (deep / "a.bz2").write_bytes(bz2.compress(wire.encode({"id": "A"}).body))
    (deep / "b").write_bytes(wire.encode({"type": "E", "id": "B"}, True).body)
    old = io.BytesIO()
    report = {"id": "C", "type": "E", "value": "v", "time": NOON, "req_vars": []}
    serializer_rfc822.write({**report, "timeline": []}, old)
    (deep / "c").write_bytes(old.getvalue())
    (deep / "noid").write_bytes(b"\x0c\x00\x00\x00\x10n\x00\x01\x00\x00\x00\x00")
    (deep / "half.tmp").write_bytes(b"half")
    (tmp_path / "in/metadata").mkdir()
    (tmp_path / "in/metadata/config").write_text("x")
    os.mkfifo(deep / "pipe")
    (deep / "junk").write_text("junk")
    for _ in range(2):
        result = call("import", "--repository", database, "in", "--json")
        assert result.exit_code == 1
        unreadable = json.loads(result.stdout)["unreadable"]
        assert sorted(Path(one["file"]).name for one in unreadable) == ["junk", "pipe"]
    with Reports(database) as reports:
        assert reports.count() == 4
        for part in ("B", "C", "noid"):
            assert [one.id for one in reports.find(part)] == [part]


def test_what_is_exported_is_chosen(keep: Any, tmp_path: Path) -> None:
    first = keep(n=1)
    late = keep(n=2, time=NOON + timedelta(days=9), type="ValueError")

    def exported(*options: str) -> set[str]:
        to = tmp_path / f"to{len(list(tmp_path.iterdir()))}"
        result = call("export", str(to), *options)
        assert result.exit_code == 0, result.stderr
        return {path.name for path in to.glob("*/*")}

    assert exported() == {first, late}
    assert exported("--id", first) == {first}
    assert exported("--type", "Value*") == {late}
    assert exported("--since", "2026-03-06") == {late}
    assert exported("--until", "2026-03-06T00:00Z") == {first}
    result = call("export", "x", "--id", "nope", "--id", first)
    assert result.exit_code == 1
    assert "nope: no such report" in result.stderr
    assert call("export", "x", "--since", "soon").exit_code == 2
    (tmp_path / "file").touch()
    assert "cannot be written" in call("export", "file/x").stderr


def test_a_part_of_the_groups(keep: Callable[..., str], database: str) -> None:
    def ids(*options: str) -> list[str]:
        result = call("report", "--date", "2026-03-05", "--json", *options)
        assert result.exit_code == 0, result.output
        return sorted(one["type"] for one in json.loads(result.stdout)["groups"])

    for hours, kind, topic in (
        (-30, "OldError", "shop"),
        (-30, "BothError", "shop"),
        (0, "BothError", "shop"),
        (0, "OperationalError", "pay"),
        (5, "LateError", "pay.card"),
    ):
        time = NOON + timedelta(hours=hours)
        value = "late 17" if kind == "LateError" else ""
        keep(type=kind, topic=topic, value=value, time=time, id=f"OOPS-{kind}{hours}")
    assert ids() == ["BothError", "LateError", "OperationalError"]
    assert ids("--days", "3") == sorted([*ids(), "OldError"])
    assert ids("--type", "*tionalE*") == ["OperationalError"]
    assert ids("--type", "operational*") == []
    assert ids("--topic", "pay*") == ["LateError", "OperationalError"]
    assert ids("--new") == ["LateError", "OperationalError"]
    assert ids("--new", "--days", "3") == ids("--days", "3")
    assert ids("--since", "2026-03-05T13:00Z") == ["LateError"]
    assert ids("--since", "2026-03-04T05:00") == ids("--days", "3")
    (late,) = json.loads(
        call("report", "--date", "2026-03-05", "--json", "--type", "Late*").stdout
    )["groups"]
    assert (late["new"], late["state"], late["place"]) == (True, "open", "")
    with Reports(database) as reports:
        (summary,) = reports.search(Wanted(types=("LateError",)))
    assert (late["id"], late["example_value"]) == (summary.group_id, "late 17")
    said = call("report", "--date", "2026-03-05", "--since", "2026-03-05T13:59")
    assert said.stdout.split("\t")[0] == "1"
    for wrong in (("--since", "2026-03-06"), ("--since", "soon")):
        refused = call("report", "--date", "2026-03-05", *wrong)
        assert refused.exit_code == 2
        assert "--since" in refused.stderr
    folder = call("report", ".", "--new")
    assert (folder.exit_code, folder.stdout) == (2, "")
    assert "--since and --new need a database; . is none" in folder.stderr


def test_many_days_are_counted_by_day(keep: Callable[..., str]) -> None:
    for number in range(40):
        time = NOON - timedelta(hours=7 * number)
        keep(type=f"E{number % 3}Error", time=time, id=f"OOPS-{number}")
    days = ("report", "--date", "2026-03-05", "--days", "9")
    by_hour = {
        group["type"]: group["count"]
        for group in json.loads(call(*days, "--json").stdout)["groups"]
    }
    lines = [line.split("\t") for line in call(*days).stdout.splitlines()]
    assert {line[3]: int(line[0]) for line in lines} == by_hour
    assert sum(by_hour.values()) == 30
    assert call(*days, "--html", "x.html").exit_code == 0
    assert "By day" in Path("x.html").read_text()


def test_copy_and_regroup_are_commands(
    keep: Callable[..., str], database: str, tmp_path: Path
) -> None:
    kept = keep()
    result = call("repository", "regroup")
    assert "rule 1, nothing to do" in result.stdout
    other = f"sqlite:///{tmp_path}/other.db"
    result = call("repository", "copy", database, other, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["to"], found["rows"], found["different"]) == (other, 4, {})
    with Reports(other) as reports:
        assert [one.id for one in reports.find(kept)] == [kept]
    engine = Repository(other).engine()
    with engine.begin() as connection:
        connection.execute(update(report_group).values(rule=0))
    engine.dispose()
    regroup = ("repository", "regroup", "--repository", other)
    assert (
        "1 group with 1 report of older rules would be"
        in call(*regroup, "--dry-run").stdout
    )
    assert json.loads(call(*regroup, "--json").stdout)["reports"] == 1
    assert "nothing to do" in call(*regroup).stdout
    for wrong in (
        ("copy", database, database),
        ("copy", f"sqlite:///{tmp_path}/none.db", other),
        ("copy", database, "mysql://u:secret@h/x"),
        ("regroup", "--repository", "sqlite:////none/x.db"),
    ):
        result = call("repository", *wrong)
        assert result.exit_code == 2, result.output
        assert len(result.stderr.splitlines()) == 1
        assert "secret" not in result.stderr


def test_a_folder_is_no_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "oopses").mkdir()
    monkeypatch.setenv("OOPS_REPOSITORY", "./oopses")
    result = call("import", "oopses")
    assert result.exit_code == 2
    assert "OOPS_REPOSITORY='./oopses' is a folder" in result.stderr
    assert "sqlite:///FILE" in result.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_import_that_is_ended_goes_on(
    database: str, tmp_path: Path, how: signal.Signals
) -> None:
    fill(tmp_path / "in", 5000)
    command = [sys.executable, "-m", "oops_celery.cli", "import", "in", "--json"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, "--repository", database],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def stored() -> int:
        with Reports(database) as reports:
            return reports.count()

    Repository(database).upgrade()

    def end_in_the_middle() -> None:
        before = stored()
        process = start()
        eventually(lambda: stored() > before or process.poll() is not None)
        os.killpg(process.pid, how)
        out, err = process.communicate()
        assert "Traceback" not in err
        if how == signal.SIGINT and not out:
            assert process.returncode == 130
            assert "the same command goes on" in err

    end_in_the_middle()
    end_in_the_middle()
    process = start()
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out)["files"] == 5000
    assert stored() == 5000


def test_the_processes_of_an_import_end_with_it(tmp_path: Path) -> None:
    fill(tmp_path / "in", 5000)
    database = f"sqlite:///{tmp_path}/oopses.db"
    command = [sys.executable, "-m", "oops_celery.cli", "import", "in"]
    process = subprocess.Popen(
        [*command, "--repository", database, "--processes", "2"], env=environment()
    )
    main = psutil.Process(process.pid)
    children = eventually(lambda: len(found := main.children()) >= 2 and found)
    process.kill()
    process.wait()
    eventually(lambda: not any(one.is_running() for one in children))


# -- repository upgrade, doctor -------------------------------------------------------


def test_upgrade(database: str) -> None:
    def upgrade() -> dict[str, Any]:
        result = call("repository", "upgrade", "--repository", database, "--json")
        assert result.exit_code == 0
        told: dict[str, Any] = json.loads(result.stdout)
        return told

    assert (upgrade()["from"], upgrade()["from"]) == (None, HEAD)
    with Repository(database).engine().begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    result = call("repository", "upgrade", "--repository", database)
    assert result.exit_code == 2
    assert "newer oops-celery" in result.stderr


def test_doctor_examines_the_database(
    keep: Any, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def doctor() -> dict[str, str]:
        found = json.loads(run("doctor", "--json").stdout)["checks"]
        (one,) = [one for one in found if one["check"] == "repository"]
        return dict(one)

    keep()
    assert doctor()["state"] == "ok"
    assert "1 report ever stored" in doctor()["text"]
    with Repository(database).engine().begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    assert doctor()["state"] == "wrong"
    assert "upgrade oops-celery here, too" in doctor()["fix"]
    monkeypatch.setenv("OOPS_REPOSITORY", "postgresql+psycopg://u:s3cret@127.0.0.1:1/x")
    assert doctor()["state"] == "wrong"
    assert "start it" in doctor()["fix"]
    assert "s3cret" not in str(doctor())
    monkeypatch.setenv("OOPS_REPOSITORY", "sqlite:///new.db")
    assert doctor()["state"] == "ok"
    assert not (tmp_path / "new.db").exists()
    (tmp_path / "text.db").write_text("no database at all" * 100)
    monkeypatch.setenv("OOPS_REPOSITORY", "sqlite:///text.db")
    assert doctor()["state"] == "wrong"
