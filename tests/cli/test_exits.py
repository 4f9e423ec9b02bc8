"""How the commands end: outputs that cannot be written, readers that have gone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from oops_celery.cli import COMMANDS, main
from oops_celery.repository.store import Repository
from tests.support import PACKAGED, environment

NOWHERE = "amqp://guest:guest@127.0.0.1:1/"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database, of the default name."""
    file = tmp_path_factory.mktemp("empty") / "oopses.db"
    repository = Repository(f"sqlite:///{file}")
    repository.upgrade()
    return file


@pytest.fixture
def folder(tmp_path: Path, empty: Path) -> Path:
    (tmp_path / "oopses").mkdir()
    shutil.copy(empty, tmp_path)
    (tmp_path / "t.yml").write_bytes(PACKAGED.read_bytes())
    return tmp_path


def shell(
    folder: Path, command: str, redirection: str, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as a shell does; return what it prints and its own exit code."""
    own = f"{sys.executable} -m oops_celery {command}"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{own} {redirection}"],
        cwd=folder,
        env=environment(RABBITMQ_URL=NOWHERE, **environ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# Each has another way to print: click's help, JSON, rich's text and tables, a log.
PRINTING = [
    "-h",
    "validate -h",
    "--version",
    "schema",
    "validate t.yml",
    "topology show",
    "topology graph --dot",
    "doctor --json",
    "metrics --once",
    "report --json",
]


@pytest.mark.parametrize(
    ("command", "unbuffered"),
    [*((each, "") for each in PRINTING), ("schema", "1"), ("topology show", "1")],
)
def test_a_full_disk_is_one_line(folder: Path, command: str, unbuffered: str) -> None:
    done = shell(folder, command, ">/dev/full", PYTHONUNBUFFERED=unbuffered)
    said = done.stderr.splitlines()
    assert said[-1] == (
        "Error: what it prints cannot be written: No space left on device"
    )
    assert len(said) == 1 + (command == "metrics --once")  # which warns: no broker
    assert done.returncode == 74


@pytest.mark.parametrize("command", ["shwo", "dead show x", "doctor", "validate gone"])
def test_a_full_disk_for_errors_too(folder: Path, command: str) -> None:
    done = shell(folder, command, ">/dev/full 2>&1")
    assert done.returncode not in (0, 120)
    done = shell(folder, command, "2>/dev/full")
    assert done.returncode not in (0, 120)


def without_reader(folder: Path, command: list[str], both: bool) -> tuple[int, str]:
    """Run a command whose output nobody reads; return its exit code, and stderr."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment(RABBITMQ_URL=NOWHERE),
            stdout=write,
            stderr=write if both else subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        os.close(write)
    return done.returncode, done.stderr or ""


@pytest.mark.parametrize("command", PRINTING)
def test_a_reader_that_has_gone_is_no_error(folder: Path, command: str) -> None:
    words = [sys.executable, "-m", "oops_celery", *command.split()]
    code, err = without_reader(folder, words, both=False)
    assert code == 141
    assert len(err.splitlines()) == (command == "metrics --once")  # which warns


@pytest.mark.parametrize("command", ["shwo", "dead show x"])
def test_a_reader_of_the_errors_that_has_gone(folder: Path, command: str) -> None:
    words = [sys.executable, "-m", "oops_celery", *command.split()]
    assert without_reader(folder, words, both=True) == (141, "")


@pytest.mark.parametrize(
    ("command", "code"),
    [("validate t.yml", 0), ("validate gone", 1), ("doctor", 1), ("dead show x", 1)],
)
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_leave_the_exit_code_alone(
    folder: Path, command: str, code: int, closed: str
) -> None:
    done = shell(folder, command, closed)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_as_a_command_of_celerys(folder: Path) -> None:
    celery = str(Path(sys.executable).with_name("celery"))
    command = [celery, "-A", "oops_celery", "oops", "topology", "show"]
    assert without_reader(folder, command, both=False) == (141, "")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 74
    assert len(done.stderr.splitlines()) == 1


# -- The words ------------------------------------------------------------------------


def every_command() -> list[list[str]]:
    found: list[list[str]] = [[]]
    for name in COMMANDS:
        group = main.get_command(main.make_context("x", ["schema"]), name)
        found += [[name], *([name, sub] for sub in getattr(group, "commands", {}))]
    return found


@pytest.mark.parametrize("command", every_command(), ids=" ".join)
def test_each_command_has_help_an_example_and_exit_codes(command: list[str]) -> None:
    short = CliRunner().invoke(main, [*command, "-h"], prog_name="oops-celery")
    assert short.exit_code == 0
    assert "Example" in short.stdout
    assert f"oops-celery {' '.join(command)}" in short.stdout.partition("Example")[2]
    long = CliRunner().invoke(main, [*command, "--help"], prog_name="oops-celery")
    assert long.stdout == short.stdout


def test_the_exit_codes_are_told() -> None:
    text = CliRunner().invoke(main, ["-h"]).stdout
    for code in ("0", "1", "2", "74", "130", "141"):
        assert f" {code}  " in text


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("shwo", "'show'"),
        ("Doctor", "'doctor'"),
        ("dead lst", "'list'"),
        ("topology shwo", "'show'"),
        ("report --jsno", "--json"),
        ("dead list --sinc 2h", "--since"),
        ("flower --prot=5", "--port"),
    ],
)
def test_what_is_misspelt_is_guessed(words: str, meant: str) -> None:
    result = CliRunner().invoke(main, words.split())
    assert (result.exit_code, result.stdout) == (2, "")
    last = result.stderr.splitlines()[-1]
    assert "id you mean" in last
    assert meant in last


def test_the_package_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "oops_celery", "--help"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("Usage: oops-celery [OPTIONS] COMMAND")


# -- What is wrong with the broker -----------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (NOWHERE, "nothing listens there"),
        ("amqp://no-such-host.invalid/", "there is no such host"),
    ],
)
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("show 68c5cd", 1),
        ("topology diff", 2),
        ("topology declare", 2),
        ("trace", 2),
        ("metrics --once", 2),
    ],
)
def test_no_broker_is_said_with_the_way_out(
    folder: Path, command: str, code: int, url: str, expected: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "oops_celery", *command.split()],
        cwd=folder,
        env=environment(RABBITMQ_URL=url),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert expected in done.stderr
    assert "RABBITMQ_URL" in done.stderr
    assert "Errno" not in done.stderr
    assert len(done.stderr.splitlines()) == 1 + (command.startswith("show"))


# -- What cannot be read ---------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        *("dead list", "dead replay --all", "doctor", "flower", "metrics --once"),
        *("report", "resubmit oopses", "show 68c5cd", "topology show", "trace"),
    ],
)
def test_settings_that_cannot_be_used_are_one_line(folder: Path, command: str) -> None:
    done = shell(folder, command, "", OOPS_MAX_RETRIES="many")
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: OOPS_MAX_RETRIES='many' (environment): must be")


def test_files_that_are_no_topology(folder: Path) -> None:
    (folder / "zeros").touch()
    os.truncate(folder / "zeros", 1 << 30)
    os.mkfifo(folder / "pipe")
    for name, expected in (
        ("zeros", "more than 4194304 bytes"),
        ("/dev/zero", "more than 4194304 bytes"),
        ("pipe", "a pipe that nobody writes into"),
        (".", "Is a directory"),
        ("/dev/null", "is empty"),
    ):
        done = shell(folder, f"validate {name}", "")
        assert done.returncode == 1
        assert expected in done.stdout
        assert done.stderr == ""
        done = shell(folder, "topology show", "", OOPS_TOPOLOGY=name)
        assert done.returncode == 2
        assert expected in done.stderr
        assert "Traceback" not in done.stderr
    for command in ("doctor", "flower", "metrics --once"):
        done = shell(folder, command, "", OOPS_TOPOLOGY="gone.yml")
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert done.stderr.splitlines() == [
            "Error: gone.yml: 1 mistake",
            "cannot be read: No such file or directory",
        ]


def test_a_pipe_whose_writer_is_slow(folder: Path) -> None:
    done = shell(folder, "validate <(sleep 4; cat t.yml)", "")
    assert done.returncode == 0, done.stdout


def test_an_interruption_has_one_line(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "oops_celery", "validate", "/dev/stdin"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=environment(),
        text=True,
    )
    assert process.stdin is not None
    # It reads on until this is closed, and this is more than the pipe holds.
    process.stdin.write("#" * 200_000)
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "Interrupted.\n")
