"""``oops-celery report``: what it finds in real folders, and how it shows that."""

from __future__ import annotations

import fcntl
import html
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import oops
import pytest
from click.testing import CliRunner, Result

from oops_celery import FolderPublisher, wire
from oops_celery.cli import main
from oops_celery.repository.groups import VALUE_READ, normalised
from tests.support import environment, eventually

NOON = datetime(2026, 3, 5, 12, 30, tzinfo=timezone.utc)
DAY = ("--date", "2026-03-05")

Keep = Callable[..., Path]


@pytest.fixture
def keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keep:
    """Put a report into the repository in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("OOPS_", "COLUMNS"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OOPS_REPOSITORY", "./oopses")

    def keep_report(day: str = "2026-03-05", **report: Any) -> Path:
        body = wire.encode({"time": NOON, **report}).body
        path = tmp_path / "oopses" / day / f"OOPS-{len(body)}-{hash(body)}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        return path

    return keep_report


def call(*arguments: str, **environ: str) -> Result:
    result = CliRunner().invoke(
        main, ["report", *arguments], prog_name="oops-celery", env=environ
    )
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def program(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "oops_celery.cli", "report", *arguments],
        env=environment(**{"OOPS_REPOSITORY": "./oopses", **environ}),
        capture_output=True,
        text=True,
        check=True,
    )


def reported(*arguments: str) -> dict[str, Any]:
    result = call("--json", *(arguments or DAY))
    assert result.exit_code == 0
    found: dict[str, Any] = json.loads(result.stdout)
    return found


# -- Groups ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("'coffee'", "<string>"),
        ("can't open file 'a b' (it's \"the\\\" file\")", None),
        (
            "user_17 waited 5ms, -3.5e-7 s",
            "user_<number> waited <number>ms, <number> s",
        ),
        ("utf8 and python3 stay", "utf8 and python3 stay"),
        ("at 0x7f3a99, id 3fa9bc01d2", "at <hex>, id <hex>"),
        ("OOPS-00112233445566778899aabbccddeeff", "OOPS-<hex>"),
        ("order 8a6e0804-2bd0-4672-b79d-d97027f9071a", "order <uuid>"),
        ("mail to ann.b@shop.example failed", "mail to <email> failed"),
        ("10.0.0.1:5432 and fe80::1 refused", "<ip> and <ip> refused"),
        ("GET https://shop.example/a?b=c: 404", "GET <url> <number>"),
        ("since 2026-03-05T10:00:00.123Z", "since <time>"),
        ("[1,2,3]\n   and\t[4]", "[<number>] and [<number>]"),
        ("defaced std::vector", "defaced std::vector"),
    ],
)
def test_what_differs_each_time_has_a_placeholder(
    value: str, expected: str | None
) -> None:
    expected = expected or "can't open file <string> (it's <string>)"
    assert normalised(value) == expected


def test_a_long_value_is_cut_also_in_the_middle_of_a_quotation() -> None:
    assert normalised("near '" + "x" * VALUE_READ + "' at 5") == "near <string>"
    assert normalised("x" * 5000) == "x" * 200 + "…"


def test_reports_are_put_into_groups(keep: Keep) -> None:
    for minutes, user in ((0, 17), (5, 4), (3, 260)):
        keep(
            type="KeyError",
            topic=f"/cart?user={user}",
            value=f"no user {user}",
            time=NOON + timedelta(minutes=minutes),
        )
    keep(type="KeyError", topic="/", value="no user 1")
    keep(type="ValueError", topic="/cart", value="no user 1")
    found = reported()
    assert (found["from"], found["to"]) == ("2026-03-05", "2026-03-05")
    assert (found["reports"], found["unreadable"]) == (5, [])
    first = found["groups"][0]
    latest = wire.decode(Path("oopses", first.pop("file")).read_bytes())
    assert latest["value"] == "no user 4"
    assert first == {
        "id": None,
        "type": "KeyError",
        "topic": "/cart",
        "value": "no user <number>",
        "example_value": "",
        "place": "",
        "state": None,
        "new": False,
        "count": 3,
        "first": "2026-03-05T12:30:00Z",
        "last": "2026-03-05T12:35:00Z",
        "example": latest["id"],
        "hours": {"2026-03-05T12:00:00Z": 3},
    }
    assert [group["count"] for group in found["groups"]] == [3, 1, 1]


def test_a_report_with_next_to_nothing_in_it_counts(keep: Keep) -> None:
    path = keep(time=None, type=None, value=["a"])
    os.utime(path, (NOON.timestamp(), NOON.timestamp()))
    (group,) = reported()["groups"]
    assert (group["type"], group["topic"], group["value"]) == ("", "", "")
    assert group["first"] == "2026-03-05T12:30:00Z"
    assert "(no type)" in call(*DAY, COLUMNS="80").stdout


def test_today_is_what_the_repository_calls_today(keep: Keep, tmp_path: Path) -> None:
    keep(type="Old")
    config = oops.Config()
    config.publisher = FolderPublisher(tmp_path / "oopses")
    ids = config.publish(config.create({"exc_info": (KeyError, KeyError(1), "")}))
    result = call("--json", "--days", "2")  # should midnight be now
    (group,) = json.loads(result.stdout)["groups"]
    assert [group["example"]] == ids
    assert group["type"] == "KeyError"


def test_several_days_end_with_the_date(keep: Keep) -> None:
    for day in range(1, 8):
        keep(day=f"2026-03-0{day}", type=f"T{day}")
    found = reported("--date", "2026-03-05", "--days", "3")
    assert (found["from"], found["to"]) == ("2026-03-03", "2026-03-05")
    assert sorted(group["type"] for group in found["groups"]) == ["T3", "T4", "T5"]


# -- What is no report ----------------------------------------------------------------


def test_what_cannot_be_read_is_counted_and_named(keep: Keep) -> None:
    good = keep(type="Good")
    body = good.read_bytes()
    folder = good.parent
    (folder / "cut").write_bytes(body[:-5])
    (folder / "empty").touch()
    (folder / "not\x1b[2Jutf8").write_bytes(body.replace(b"Good", b"\xff\xfe\xfd\xfc"))
    (folder / "gone").symlink_to("nowhere")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo")  # reading it would never end
    (folder / "writing.tmp").write_bytes(b"half")
    found = reported()
    assert found["reports"] == 1
    bad = {one["file"]: one["reason"] for one in found["unreadable"]}
    names = ("cut", "empty", "not\x1b[2Jutf8")
    assert set(bad) == {f"2026-03-05/{name}" for name in names}
    assert all("not a BSON document" in reason for reason in bad.values())
    result = call(*DAY)
    assert result.exit_code == 0
    assert "warning: 3 files cannot be read:" in result.stderr
    assert r"2026-03-05/not\x1b[2Jutf8: not a BSON" in result.stderr
    assert len(result.stdout.splitlines()) == 1


def test_many_of_them_are_not_all_named(keep: Keep) -> None:
    folder = keep().parent
    for number in range(15):
        (folder / f"bad{number}").touch()
    stderr = call(*DAY).stderr
    assert stderr.count("not a BSON document") == 10
    assert "and 5 more: --json names all" in stderr


def test_a_repository_that_is_not_there(keep: Keep) -> None:
    result = call("gone\x1b[2J")
    assert (result.exit_code, result.stdout) == (2, "")
    assert r"gone\x1b[2J cannot be read: No such file or directory" in result.stderr
    assert "OOPS_REPOSITORY" in result.stderr
    keep()
    (file,) = Path("oopses/2026-03-05").iterdir()
    assert "Not a directory" in call(str(file)).stderr


def test_the_default_is_the_setting(keep: Keep, monkeypatch: Any) -> None:
    keep(type="Found")
    Path("oopses").rename("elsewhere")
    assert call(*DAY).exit_code == 2
    monkeypatch.setenv("OOPS_REPOSITORY", "elsewhere")
    assert "Found" in call(*DAY).stdout
    monkeypatch.setenv("OOPS_MAX_RETRIES", "many")
    result = call(*DAY)
    assert result.exit_code == 2
    assert "OOPS_MAX_RETRIES='many'" in result.stderr


def test_a_day_without_reports(keep: Keep) -> None:
    keep()
    result = call("--date", "2026-03-09", COLUMNS="100")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "2026-03-09 (UTC), ./oopses: no reports",
        "The last day there: --date 2026-03-05",
    ]
    assert reported("--date", "2026-03-09")["groups"] == []
    assert reported("--date", "0001-01-01")["groups"] == []
    assert call("--date", "0001-01-01", "--days", "9").exit_code == 2
    assert call("--date", "yesterday").exit_code == 2


# -- How it is shown ------------------------------------------------------------------


def test_in_a_pipe_each_group_is_one_line_with_tabs(keep: Keep) -> None:
    keep(type="A", topic="t\tt", value="v" * 150)
    keep(type="B", topic="[red]x[/]", value="\x1b[2J\u202e :smile:")
    lines = call(*DAY).stdout.splitlines()
    rows = {line.split("\t")[3]: line.split("\t") for line in lines}
    assert [len(row) for row in rows.values()] == [7, 7]
    assert rows["A"][4:6] == [r"t\tt", "v" * 150]
    assert rows["B"][4:6] == ["[red]x[/]", r"\x1b[<number>J\u202e :smile:"]
    assert rows["B"][:3] == ["1", "2026-03-05T12:30:00Z", "2026-03-05T12:30:00Z"]


@pytest.mark.parametrize("columns", [60, 100])
def test_the_table_fits(keep: Keep, columns: int) -> None:
    for number in range(25):
        kind = "T" + "t" * number
        keep(type=kind, topic="[bold]a b " * 20, value="\x1b]0;x\x07" + "v" * 500)
    done = program(*DAY, COLUMNS=str(columns), PYTHONIOENCODING="ascii")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert lines[0].startswith("2026-03-05 (UTC), ./oopses: 25 reports in 25 groups")
    assert lines[-1] == "5 more groups: --limit 0 shows all"
    assert "[bold]a b [bold]a" in done.stdout
    assert r"\x1b]<number>;x\x07vvv" in done.stdout
    assert len(re.findall(r"OOPS-[0-9a-f]{32}", done.stdout)) == 20
    assert all(char.isprintable() or char == "\n" for char in done.stdout)


def test_on_a_terminal_progress_is_shown_and_wiped_out(keep: Keep) -> None:
    keep(type="KeyError")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "oops_celery.cli", "report", *DAY],
        env=environment(TERM="xterm", OOPS_REPOSITORY="./oopses"),
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    out, _ = process.communicate(timeout=120)
    err = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "Reading reports" in err
    assert err.rstrip().endswith("\x1b[2K")
    assert "KeyError" in out
    assert "\x1b" not in out


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def made_page(*arguments: str) -> Page:
    result = call(*arguments, "--html", "page.html")
    assert result.exit_code == 0
    assert result.stdout.startswith("page.html: ")
    return Page(Path("page.html").read_text(encoding="utf-8"))


def test_the_page_has_all_groups_and_bars_of_the_right_height(keep: Keep) -> None:
    for number in range(12):
        for minutes in range(number + 1):
            hour = NOON + timedelta(hours=number % 2, minutes=minutes)
            keep(type=f"Type{chr(65 + number)}", topic="t", time=hour)
    page = made_page(*DAY)
    for number in range(12):
        assert f"Type{chr(65 + number)}" in page.text
    titles = re.findall(r"(\d\d:00): (\d+)\n", page.text)
    # One chart of all, and one for each group.
    assert titles[:2] == [("12:00", "36"), ("13:00", "42")]
    assert titles[2] == ("13:00", "12")
    assert len(titles) == 14
    bars = [float(attrs["height"] or 0) for tag, attrs in page.tags if tag == "rect"]
    assert bars[0] / bars[1] == pytest.approx(36 / 42, abs=0.01)
    assert set(bars[1:]) == {100}


def test_days_are_bars_if_there_are_many(keep: Keep) -> None:
    keep(type="Late", time=NOON - timedelta(days=1))
    keep(type="Late", time=NOON)
    assert re.findall(r"([\d-]+): 1\n", made_page(*DAY, "--days", "3").text)[:2] == [
        "2026-03-04",
        "2026-03-05",
    ]


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing_strange(
    keep: Keep,
) -> None:
    evil = "</script><script>alert(1)</script><img src=//evil.example onerror=a>\x1b\"'"
    path = keep(type=evil, topic=evil, value=f"é {evil}")
    path.with_name('bad"<b>').touch()
    page = made_page(*DAY)
    tags = [tag for tag, _ in page.tags]
    assert not {"img", "script", "link", "iframe", "b>"} & set(tags)
    for _, attributes in page.tags:
        assert not {"src", "style", "onerror"} & set(attributes)
        assert attributes.get("href", "#main") == "#main"
        assert not any(name.startswith("on") for name in attributes)
    (policy,) = [
        attrs["content"]
        for tag, attrs in page.tags
        if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    source = Path("page.html").read_text(encoding="utf-8")
    assert html.escape("</script><script>alert(") in source
    assert r"onerror=a>\x1b" in page.text
    assert 'bad"<b>' in page.text
    assert "prefers-color-scheme: dark" in source


def test_a_page_of_nothing_and_a_page_that_cannot_be_written(keep: Keep) -> None:
    keep()
    page = made_page("--date", "2026-03-09")
    assert "There are no reports of that time." in page.text
    result = call(*DAY, "--html", "gone/page.html")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "gone/page.html cannot be written: No such file" in result.stderr


def test_the_page_beside_json(keep: Keep) -> None:
    keep(type="Both")
    result = call(*DAY, "--json", "--html", "page.html")
    assert json.loads(result.stdout)["groups"][0]["type"] == "Both"
    assert "Both" in Path("page.html").read_text()


# -- How it is used -------------------------------------------------------------------


def test_thousands_of_reports_take_seconds(keep: Keep) -> None:
    filler = {f"name{number}": "v" * 60 for number in range(40)}
    for number in range(2000):
        keep(type="KeyError", value=f"user {number}", req_vars=filler, number=number)
    started = time.process_time()
    (group,) = reported()["groups"]
    seconds = time.process_time() - started
    assert group["count"] == 2000
    assert seconds < 3  # a fifth of a second, with nobody else on the machine


def test_help_says_how_it_ends_and_fits() -> None:
    done = program("--help", COLUMNS="60")
    assert "oops-celery report --days 7 --html week.html" in done.stdout
    assert "The exit code is 0 when" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 60


def test_ctrl_c_is_no_traceback(keep: Keep) -> None:
    path = keep()
    for number in range(10_000):
        os.link(path, f"{path}-{number}")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "oops_celery.cli", "report", *DAY],
        env=environment(TERM="xterm", OOPS_REPOSITORY="./oopses"),
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    shown = b""

    def begun() -> bool:
        nonlocal shown
        shown += os.read(ours, 1000)
        return b"Reading reports" in shown

    eventually(begun)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    shown += os.read(ours, 100_000)
    os.close(ours)
    assert (process.returncode, out) == (130, "")
    assert b"Interrupted." in shown
    assert b"Traceback" not in shown
