"""What is erased is nowhere any more."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import select

from oops_celery import wire
from oops_celery.cli import main
from oops_celery.dead_letters.filing import Filing
from oops_celery.dead_letters.letter import Content
from oops_celery.dead_letters.letters import Choice, Letters
from oops_celery.repository import schema
from oops_celery.repository.erasure import Where, matches
from oops_celery.repository.queries import Reports
from oops_celery.repository.store import Repository

MARK = "a-name-that-is-nowhere-else"


@pytest.mark.parametrize(
    ("condition", "report", "expected"),
    [
        ("username=ann", {"username": "ann"}, True),
        ("USERNAME=ann", {"req_vars": {"Username": "ann"}}, True),
        ("username=ann", {"username": "anna"}, False),
        ("username=ann*", {"a": [{"b": [{"username": "anna"}]}]}, True),
        ("username=ann", {"req_vars": [["username", "ann"], ["x", 1]]}, True),
        ("username=ann", {"value": "username=ann"}, False),
        ("username=ann", {"username": ["bob", "ann"]}, True),
        ("username=ann", {"req_vars": [["username", ["ann"]]]}, True),
        ("username=ann", {"username": [["ann", "x"]]}, False),
        ("n=17", {"n": 17}, True),
        ("blob=a*", {"blob": b"abc"}, True),
        ("name=*", {"name": {"first": "x"}}, False),
        ("name=a=b", {"name": "a=b"}, True),
        ("email=*@a.example", {"req_vars": {"email": "x@a.example"}}, True),
    ],
)
def test_a_field_at_any_depth(
    condition: str, report: dict[str, Any], expected: bool
) -> None:
    assert matches(wire.encode(report).body, [Where.parse(condition)]) is expected


@pytest.mark.parametrize("wrong", ["username", "=ann", " =ann", "username=", ""])
def test_a_condition_of_another_form(wrong: str) -> None:
    with pytest.raises(ValueError, match="is not like username=ann"):
        Where.parse(wrong)


Erase = Callable[..., Result]


@pytest.fixture
def erase(database: str, monkeypatch: pytest.MonkeyPatch) -> Erase:
    monkeypatch.setenv("OOPS_REPOSITORY", database)

    def run(*arguments: str, code: int = 0, answer: str = "") -> Result:
        result = CliRunner().invoke(main, ["erase", *arguments], input=answer)
        assert result.exit_code == code, result.output
        return result

    return run


def stored(database: str) -> tuple[list[str], list[str]]:
    """Return the ids of the reports and of the dead letters."""
    with Reports(database) as reports, Letters(database) as letters:
        return (
            [one.id for one in reports.bodies()],
            [one.id for one in letters.choose(Choice())],
        )


def fill(database: str) -> Repository:
    repository = Repository(database)
    for number in range(6):
        user = MARK if number % 2 else "bob"
        fields = {"type": "E", "value": f"no user {user}", "id": f"OOPS-{number}"}
        report = {**fields, "req_vars": {"username": user}, "pad": "x" * 5000}
        repository.publish(report)
        body = wire.encode({**report, "id": f"OOPS-dead{number}"}, True).body
        Filing(repository).file(Content(body, {"id": f"{number}"}, {}), "oopses.dead")
    Filing(repository).file(Content(b"garbage", {"id": "g"}, {}), "oopses.dead")
    return repository


def test_what_matches_is_gone_and_counts_stay(database: str, erase: Erase) -> None:
    repository = fill(database)
    where = ("--where", f"username={MARK}")
    said = erase(*where, "--dry-run").output
    assert "3 reports and 3 dead letters would be erased" in said
    assert "OOPS-dead1" in said
    no = erase(*where, code=1, answer="n\n")
    assert "Erase 3 reports and 3 dead letters for good? [y/N]" in no.output
    assert len(stored(database)[0]) == 6
    found = json.loads(erase(*where, "--yes", "--json").output)
    assert found["reports"] == ["OOPS-1", "OOPS-3", "OOPS-5"]
    assert found["dead_letters"] == ["OOPS-dead1", "OOPS-dead3", "OOPS-dead5"]
    assert found["left"] == 0
    assert stored(database) == (
        ["OOPS-0", "OOPS-2", "OOPS-4"],
        ["OOPS-dead0", "OOPS-dead2", "OOPS-dead4", "g"],
    )
    with repository.engine().connect() as connection:
        groups = list(connection.execute(select(schema.report_group)))
    assert sum(row._mapping["count"] for row in groups) == 6
    by_example = {row.example: row.example_value for row in groups}
    assert MARK not in str(by_example)
    assert set(by_example) <= {"OOPS-0", "OOPS-2", "OOPS-4", ""}
    assert "0 left" in erase(*where, "--yes").output


def test_nothing_of_it_is_in_sqlites_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = f"sqlite:///{tmp_path}/oopses.db"
    repository = Repository(database)
    # Not compressed: so it would be seen.
    report = {"id": "OOPS-1", "type": "E", "user": MARK, "value": MARK}
    repository.publish({**report, "pad": bytes(range(256))})
    repository.publish({"id": "OOPS-2", "type": "F"})
    body = wire.encode(report, True).body
    Filing(repository).file(Content(body, {"id": "1"}, {}), "oopses.dead")
    repository.engine().dispose()
    mark = MARK.encode()
    files = list(tmp_path.glob("oopses.db*"))
    assert any(mark in one.read_bytes() for one in files)
    monkeypatch.setenv("OOPS_REPOSITORY", database)
    result = CliRunner().invoke(main, ["erase", "--where", f"user={MARK}", "--yes"])
    assert result.exit_code == 0, result.output
    assert "1 report and 1 dead letter erased; 0 left" in result.output
    for one in tmp_path.glob("oopses.db*"):
        assert mark not in one.read_bytes(), one


@pytest.mark.parametrize(
    ("what", "code"), [(("--where", f"user={MARK}"), 0), (("OOPS-1",), 1)]
)
def test_what_a_reader_kept_is_overwritten_by_the_next_one(
    what: tuple[str, ...], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so is what a command left that was killed before it overwrote."""
    monkeypatch.setattr("oops_celery.repository.database.BUSY_TIMEOUT", 0.1)
    monkeypatch.setenv("OOPS_REPOSITORY", f"sqlite:///{tmp_path}/oopses.db")
    repository = Repository(f"sqlite:///{tmp_path}/oopses.db")
    report = {"id": "OOPS-1", "type": "E", "user": MARK, "pad": bytes(range(256))}
    repository.publish(report)

    def is_there() -> bool:
        files = tmp_path.glob("oopses.db*")
        return any(MARK.encode() in one.read_bytes() for one in files)

    with closing(sqlite3.connect(tmp_path / "oopses.db")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM report").fetchall()
        first = CliRunner().invoke(main, ["erase", *what, "--yes"])
        assert first.exit_code == 1, first.output
        assert "somebody reads the database" in first.stderr
        assert is_there()
        reader.execute("COMMIT")
        second = CliRunner().invoke(main, ["erase", *what, "--yes"])
        assert second.exit_code == code, second.output
        assert not is_there()


def test_by_id(database: str, erase: Erase) -> None:
    fill(database)
    missing = erase("OOPS-1", "OOPS-none", "--yes", code=1)
    assert "OOPS-none: there is no such report; nothing was done" in missing.output
    assert len(stored(database)[0]) == 6
    erase("OOPS-1", " oops-2. ", "OOPS-dead1", "--yes")
    assert stored(database)[0] == ["OOPS-0", "OOPS-3", "OOPS-4", "OOPS-5"]
    assert "OOPS-dead1" not in stored(database)[1]
    # A part of an id is too little for this.
    erase("OOPS", "--yes", code=1)
    for wrong in ((), ("OOPS-0", "--where", "a=b"), ("--where", "a")):
        erase(*wrong, code=2)


def test_a_report_beside_another_of_its_id(database: str, erase: Erase) -> None:
    same = "OOPS-" + "a" * 32
    repository = Repository(database)
    for number, report_id in enumerate((same, same, "abc", "OOPS-abc")):
        time = datetime(2026, 11, 20, tzinfo=timezone.utc)
        repository.publish({"id": report_id, "n": number, "time": time})
    (other,) = {one for one in stored(database)[0] if one.startswith(same)} - {same}
    assert json.loads(erase(other, "--yes", "--json").output)["reports"] == [other]
    assert json.loads(erase("abc", "--yes", "--json").output)["reports"] == ["abc"]
    assert set(stored(database)[0]) == {same, "OOPS-abc"}


def test_a_database_that_is_not_there_is_not_said_to_be_clean(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/typo.db"
    for what in (("--where", "a=b"), ("OOPS-1",)):
        arguments = ["erase", *what, "--yes", "--repository", url]
        result = CliRunner().invoke(main, arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "typo.db is not there" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_a_terminal_nothing_is_erased_unasked(
    database: str, erase: Erase
) -> None:
    fill(database)
    assert "--yes" in erase("OOPS-1", code=1, answer="").stderr
    assert "OOPS-1" in stored(database)[0]
