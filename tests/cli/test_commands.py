"""The commands: what they find, what they print and how they end. No broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result

import oops_celery
from oops_celery.cli import main
from oops_celery.topology.schema import (
    BindingEntry,
    ConsumerSettings,
    ExchangeEntry,
    QueueEntry,
)
from tests.support import PACKAGED, environment, eventually

Write = Callable[[str, str], Path]

WORKERS = """
class Good:
    def consume(self, amqp, msg): ...
    def shutdown(self, exception=None): ...

class Async:
    async def consume(self, amqp, msg): ...
    async def shutdown(self, exception): ...

class Wrapped(Good):
    @staticmethod
    def consume(amqp, msg): ...
    @classmethod
    def shutdown(cls, exception=None): ...

class NoShutdown:
    def consume(self, amqp, msg): ...

NUMBER = 3

class NoConsume:
    consume = "tomorrow"
    def shutdown(self, exception=None): ...

class FewParameters:
    def consume(self, msg): ...
    def shutdown(self): ...

class FewStatic:
    @staticmethod
    def consume(msg): ...
    @classmethod
    def shutdown(cls): ...

class ManyParameters:
    def consume(self, amqp, msg, more): ...
    def shutdown(self, exception, *, why): ...

class Arguments(Good):
    def __init__(self, engine): ...

def startup(): ...
def needs_config(config): ...
constant = 5
"""

CONSUMER = "consumers: [{{consumer: '{}', queue: a}}]"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a file into the current folder, which has a module `workers`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    before = set(sys.modules)

    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    write_file("workers.py", WORKERS)
    yield write_file
    for name in set(sys.modules) - before:
        path = getattr(sys.modules[name], "__file__", None) or ""
        if path.startswith(str(tmp_path)):
            del sys.modules[name]


def call(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="oops-celery", env=environ)


def program(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "oops_celery.cli", *arguments],
        env=environment(**environ),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def checked(file: str = "t.yml") -> dict[str, Any]:
    """Validate with --json; return the object, where the exit code agrees with it."""
    result = call("validate", "--json", file)
    assert "Traceback" not in result.output
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["file"] == file
    assert found["ok"] is not any(problem["fatal"] for problem in found["problems"])
    assert result.exit_code == (0 if found["ok"] else 1)
    return found


def found(file: str = "t.yml") -> list[tuple[str, int | None, str]]:
    return [(p["path"], p["line"], p["text"]) for p in checked(file)["problems"]]


# -- What is found --------------------------------------------------------------------


def test_a_good_file_is_ok(write: Write) -> None:
    write(
        "t.yml",
        """
        startup_handler: workers:startup
        consumers:
          - {consumer: "workers:Good", queue: a}
          - {consumer: "workers:Async", queue: a}
          - {consumer: "workers:Wrapped", queue: a}
        """,
    )
    assert checked() == {"file": "t.yml", "ok": True, "problems": []}
    result = call("validate", "t.yml")
    assert (result.exit_code, result.stdout) == (0, "t.yml: no mistakes\n")


def test_the_packaged_topology_is_ok(write: Write) -> None:
    path = PACKAGED
    assert checked(str(path))["problems"] == []


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("gone:Consumer", "there is no module gone in the current folder"),
        ("gone.deep:Consumer", "there is no module gone.deep in the current folder"),
        ("workers.gone:Consumer", "there is no module workers.gone in the current"),
        ("needy:Consumer", "needy needs the module not_installed, which is not there"),
        ("workers:Goood", "module workers has no Goood; did you mean Good?"),
        ("workers:NUMBER", "NUMBER is of type int; it must be a class"),
        ("workers:NoConsume", "NoConsume has no method consume; write def consume("),
        ("workers:Arguments", "Arguments is made without arguments"),
        ("leaves:Consumer", "importing leaves calls sys.exit('bye'); it must not"),
        ("raises:Consumer", "raises ValueError: no luck (raises.py, line 2)"),
        ("cancelled:Consumer", "importing cancelled raises CancelledError"),
        ("mute:Consumer", "importing mute raises Mute (mute.py, line 3)"),
        ("broken:Consumer", "syntax (broken.py, line 1)"),
        ("lazy:Consumer", "Consumer raises RuntimeError: not now (lazy.py, line 1)"),
    ],
)
def test_a_consumer_that_is_of_no_use_is_one_finding(
    write: Write, target: str, expected: str
) -> None:
    write("needy.py", "import not_installed")
    write("leaves.py", "import sys; sys.exit('bye')")
    write("raises.py", "\nraise ValueError('no luck')")
    write("cancelled.py", "import asyncio; raise asyncio.CancelledError")
    write("mute.py", "class Mute(Exception):\n  def __str__(self): 1 / 0\nraise Mute")
    write("broken.py", "x = = 1")
    write("lazy.py", "def __getattr__(name): raise RuntimeError('not now')")
    write("t.yml", f"consumers:\n- queue: a\n  consumer: {target}\n")
    ((path, line, text),) = found()
    assert (path, line) == ("consumers[0].consumer", 3)
    assert expected in text
    assert "<frozen" not in text  # Python's own importer is no place to look
    shown = call("validate", "t.yml")
    assert shown.exit_code == 1
    assert shown.stdout == (
        f"mistake: consumers[0].consumer (line 3): {text}\nt.yml: 1 mistake\n"
    )


@pytest.mark.parametrize("name", ["FewParameters", "FewStatic", "ManyParameters"])
def test_both_methods_take_what_they_are_called_with(write: Write, name: str) -> None:
    write("t.yml", CONSUMER.format(f"workers:{name}"))
    assert [text for _, _, text in found()] == [
        f"{name}.consume is called with 2 arguments;"
        " write def consume(self, amqp, msg)",
        f"{name}.shutdown is called with 1 arguments;"
        " write def shutdown(self, exception=None)",
    ]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("gone:startup", "there is no module gone in the current folder"),
        ("workers:startip", "module workers has no startip; did you mean startup?"),
        ("workers:constant", "constant is of type int; it must be a function"),
        ("workers:needs_config", "called without arguments; write def needs_config()"),
    ],
)
def test_a_startup_handler_that_cannot_be_called(
    write: Write, target: str, expected: str
) -> None:
    write("t.yml", f"queues: [{{queue: a}}]\nstartup_handler: {target}\n")
    ((path, line, text),) = found()
    assert (path, line) == ("startup_handler", 2)
    assert expected in text


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("consumers: [{consumer: 'workers:Good'}]", "consumers[0]", "queue: missing"),
        (
            "consumers: [{consumer: 'workers:Good', queue: a, prefetch_count: '2'}]",
            "consumers[0].prefetch_count",
            "'2' is text, not a whole number",
        ),
        (
            "consumers: [{consumer: 'workers:Good', queue: a, consumer_count: 1.5}]",
            "consumers[0].consumer_count",
            "1.5 is a decimal number, not a whole number",
        ),
        ("consumers: [workers]", "consumers[0]", "not a mapping"),
        ("consumers: workers", "consumers", "not a list"),
        (CONSUMER.format("workers"), "consumers[0].consumer", "package.module:name"),
        ("consumers: [{consumer: 5, queue: a}]", "consumers[0].consumer", "not text"),
        ("queues: [{queue: a", "", "bad YAML"),
        ("", "", "is empty"),
        ("- queue: a", "", "is a list, not a mapping"),
    ],
)
def test_a_mistake_of_the_file(
    write: Write, text: str, path: str, expected: str
) -> None:
    write("t.yml", text)
    ((where, _, what),) = found()
    assert where == path
    assert expected in what
    shown = call("validate", "t.yml").stdout
    assert shown.startswith("mistake: ")
    assert what in shown


def test_a_file_that_cannot_be_read(write: Write, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    ((_, _, binary),) = found("binary")
    assert "not readable as YAML" in binary
    assert found("gone.yml") == [
        ("", None, "cannot be read: No such file or directory")
    ]
    assert found(".") == [("", None, "cannot be read: Is a directory")]


def test_all_is_found_at_once_in_the_order_of_the_lines(write: Write) -> None:
    write("leaves.py", "import sys; sys.exit()")
    write(
        "t.yml",
        """\
        startup_handler: gone:startup
        queues:
          - {queue: a, x_mesage_ttl: 5}
          - {queue: b, x_message_ttl: 5}
        consumers:
          - {consumer: "workers:Good"}
          - {consumer: "workers:NoShutdown", queue: a, prefetch_count: "2"}
          - {consumer: "workers", queue: a}
          - {consumer: "leaves:One", queue: a}
          - {consumer: "leaves:Two", queue: a}
        """,
    )
    assert [(path, line) for path, line, _ in found()] == [
        ("startup_handler", 1),
        ("queues[0]", 3),
        ("queues[1].x_message_ttl", 4),
        ("consumers[0]", 6),
        ("consumers[1].prefetch_count", 7),
        ("consumers[2].consumer", 8),
        ("consumers[3].consumer", 9),
        ("consumers[4].consumer", 10),
    ]
    shown = call("validate", "t.yml").stdout
    assert shown.endswith("t.yml: 6 mistakes, 2 warnings\n")


def test_a_module_runs_once_even_where_it_fails(write: Write) -> None:
    write("counts.py", "open('ran', 'a').write('x'); raise OSError")
    entry = "{consumer: 'counts:C', queue: a}"
    write("t.yml", f"consumers: [{entry}, {entry}]")
    assert len(found()) == 2
    assert Path("ran").read_text() == "x"


def test_a_warning_alone_is_shown_and_is_not_fatal(write: Write) -> None:
    write("t.yml", "queues: [{queue: a, x_message_ttl: 5}]")
    (problem,) = checked()["problems"]
    assert problem["fatal"] is False
    result = call("validate", "t.yml")
    assert result.exit_code == 0
    assert result.stdout.startswith("warning: queues[0].x_message_ttl (line 1): ")
    assert result.stdout.endswith("t.yml: no mistakes, 1 warning\n")


# -- What is printed ------------------------------------------------------------------


def test_what_modules_print_leaves_the_json_alone(write: Write) -> None:
    write(
        "noisy.py",
        """
        import atexit, logging, os, subprocess, sys
        print("by print")
        sys.__stdout__.write("by file ")
        os.write(1, b"by descriptor ")
        subprocess.run(["echo", "by program"])
        logging.basicConfig(stream=sys.stdout)
        atexit.register(print, "by exit")
        atexit.register(logging.warning, "by log")
        from workers import Good
        """,
    )
    write("t.yml", CONSUMER.format("noisy:Good"))
    done = program("validate", "--json", "t.yml", PYTHONUNBUFFERED="")
    assert json.loads(done.stdout) == {"file": "t.yml", "ok": True, "problems": []}
    for way in ("print", "file", "descriptor", "program", "exit", "log"):
        assert way in done.stderr
    assert program("validate", "t.yml").stdout == "t.yml: no mistakes\n"


def test_in_a_pipe_each_finding_is_one_line(write: Write) -> None:
    write("t.yml", CONSUMER.format("gone" * 30 + ":C"))
    done = program("validate", "t.yml")
    assert done.returncode == 1
    first, last = done.stdout.splitlines()
    assert first.endswith("in the current folder or on PYTHONPATH")
    assert last == "t.yml: 1 mistake"
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_where_columns_is_set_lines_are_that_short(write: Write) -> None:
    target = "gone" * 30 + ":C"
    write("t.yml", CONSUMER.format(target) + "\nqueues: [{queue: a, durabel: 1}]")
    shown = program("validate", "t.yml", COLUMNS="60").stdout
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 60
    assert not any(line != line.rstrip() for line in lines)
    one_line = program("validate", "t.yml").stdout
    assert len(lines) > len(one_line.splitlines())
    assert "".join(shown.split()) == "".join(one_line.split())


def test_control_characters_are_shown_not_sent(write: Write) -> None:
    write("raises.py", r"raise ValueError('\x1b[2J\a \u202egnp.exe \x9b1m')")
    write("t\x1b]0;x.yml", CONSUMER.format("raises:C"))
    result = call("validate", "t\x1b]0;x.yml")
    assert r"\x1b[2J\x07 \u202egnp.exe \x9b1m" in result.stdout
    assert r"t\x1b]0;x.yml: 1 mistake" in result.stdout
    assert all(char.isprintable() or char == "\n" for char in result.stdout)
    assert found("t\x1b]0;x.yml")


def test_text_that_the_terminal_cannot_encode_is_escaped(write: Write) -> None:
    write("t.yml", CONSUMER.format("größe:C"))
    done = program("validate", "t.yml", PYTHONIOENCODING="ascii")
    assert r"there is no module gr\xf6\xdfe" in done.stdout
    assert done.stderr == ""


def test_text_that_looks_like_markup_is_shown_as_it_is(write: Write) -> None:
    write("raises.py", "raise ValueError('[red]a[/] :smile:')")
    write("t.yml", CONSUMER.format("raises:C"))
    assert "ValueError: [red]a[/] :smile:" in call("validate", "t.yml").stdout


def test_a_file_that_can_be_read_only_once(write: Write) -> None:
    write("t.yml", CONSUMER.format("gone:C"))
    os.mkfifo("pipe")
    with subprocess.Popen("cat t.yml > pipe", shell=True):
        done = program("validate", "pipe")
    assert "there is no module gone" in done.stdout


# -- How it is used -------------------------------------------------------------------


def test_wrong_usage_has_an_exit_code_of_its_own(write: Write) -> None:
    for arguments in (["validate"], ["validate", "--jsno", "t.yml"], ["valdate"]):
        result = call(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "Usage: oops-celery" in result.stderr


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ((), "  oops-celery validate topology.yml\n"),
        (("validate",), "  oops-celery validate --json topology.yml | jq .problems\n"),
        (("schema",), "  # yaml-language-server: $schema=topology.schema.json\n"),
    ],
)
def test_help_shows_an_example(command: tuple[str, ...], expected: str) -> None:
    done = program(*command, "--help", COLUMNS="60")
    assert done.returncode == 0
    assert expected in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 60
    assert "\b" not in done.stdout


def test_help_of_validate_warns_that_code_is_run() -> None:
    text = " ".join(call("validate", "--help").stdout.split())
    assert "the code of their modules runs" in text


def test_version() -> None:
    assert (
        call("--version").stdout == f"oops-celery, version {oops_celery.__version__}\n"
    )


def test_all_commands_are_listed_and_importing_them_is_light() -> None:
    check = (
        "import sys, oops_celery.cli as cli\n"
        "cli.main(['--help'], standalone_mode=False)\n"
        "print({'celery', 'pydantic', 'rich', 'kombu'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True
    )
    assert "  validate    Check a topology file" in done.stdout
    assert "  schema      Print the JSON Schema" in done.stdout
    assert done.stdout.endswith("set()\n")


def test_it_is_a_command_of_celerys(write: Write) -> None:
    write("t.yml", CONSUMER.format("gone:C"))
    # As celery.commands plug-ins are added: under the name that the group itself has.
    assert main.name == "oops"
    celery = click.Group("celery", commands=[main])
    result = CliRunner().invoke(celery, ["oops", "validate", "t.yml"])
    assert result.exit_code == 1
    assert "there is no module gone" in result.stdout


def test_ctrl_c_is_not_a_traceback(write: Write) -> None:
    write("slow.py", "open('importing', 'w'); import time; time.sleep(60)")
    write("t.yml", CONSUMER.format("slow:C"))
    process = subprocess.Popen(
        [sys.executable, "-m", "oops_celery.cli", "validate", "--json", "t.yml"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        eventually(Path("importing").exists)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (130, "", "Interrupted.\n")


# -- The schema -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    result = call("schema")
    assert result.exit_code == 0
    loaded: dict[str, Any] = json.loads(result.stdout)
    return loaded


def test_the_schema_has_every_key_with_a_description(schema: dict[str, Any]) -> None:
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    models = (ExchangeEntry, QueueEntry, ConsumerSettings, BindingEntry)
    assert set(schema["$defs"]) == {model.__name__ for model in models}
    for model in models:
        properties = schema["$defs"][model.__name__]["properties"]
        assert set(properties) == set(model.model_fields)
        for key, value in properties.items():
            assert len(value["description"]) > len(key)


def test_the_schema_allows_what_the_packaged_topology_says(
    schema: dict[str, Any],
) -> None:
    kinds = {"string": str, "integer": int, "boolean": bool, "array": list}
    file = yaml.safe_load(PACKAGED.read_text())
    for section, entries in file.items():
        name = schema["properties"][section]["items"]["$ref"].rpartition("/")[2]
        for entry in entries:
            assert set(schema["$defs"][name]["required"]) <= set(entry)
            for key, value in entry.items():
                allowed = schema["$defs"][name]["properties"][key]
                kind = allowed["type"]
                kind = kind if isinstance(kind, str) else kind[0]
                assert isinstance(value, kinds[kind])
                assert value in allowed.get("enum", [value])


def test_the_schema_refuses_what_validate_refuses(schema: dict[str, Any]) -> None:
    assert schema["additionalProperties"] is False
    queue = schema["$defs"]["QueueEntry"]
    assert queue["additionalProperties"] is False
    assert queue["required"] == ["queue"]
    assert queue["properties"]["queue"]["type"] == "string"
    # null means not set.
    kind = queue["properties"]["x_queue_type"]
    assert kind["enum"] == ["classic", "quorum", "stream", None]
    assert queue["properties"]["durable"]["type"] == ["boolean", "null"]
    assert queue["properties"]["x_expires"]["minimum"] == 1
