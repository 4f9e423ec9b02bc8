"""``oops-celery topology``, on a real RabbitMQ."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import amqp
import kombu
import pydot
import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from oops_celery.cli import main
from oops_celery.topology.dot import dot
from oops_celery.topology.graph import Edge, Flow, duration, flow
from oops_celery.topology.graph import Node as Place
from oops_celery.topology.model import Topology
from tests.support import Node, environment
from tests.support.management import management_url

Command = Callable[..., "subprocess.CompletedProcess[str]"]

#: A topology with one of everything; NAME stands for the beginning of all names.
EVERYTHING = """
exchanges:
  - {exchange: NAME.in, type: topic}
  - {exchange: NAME.internal, type: fanout, internal: true}
queues:
  - queue: NAME.a
    x_max_length: 5
    x_dead_letter_exchange: NAME.internal
    bindings: [{exchange: NAME.in, routing_key: "a.#"}]
  - queue: NAME.dead
    bindings: [{exchange: NAME.internal}]
  - queue: NAME.later
    x_message_ttl: 600000
    x_dead_letter_exchange: ""
    x_dead_letter_routing_key: NAME.a
consumers:
  - {consumer: "work:One", queue: NAME.a, consumer_count: 3}
"""

#: All names that a test here may make.
NAMES = (".in", ".internal", ".x", ".a", ".dead", ".later")


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run ``oops-celery topology`` as a program, in a pipe."""

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "oops_celery.cli", "topology", *arguments],
            cwd=tmp_path,
            env=environment(**{"COLUMNS": "", **environ}),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    return run


class Names:
    """Names at the broker that are nobody else's."""

    def __init__(self, node: Node, folder: Path) -> None:
        self.node = node
        self.prefix = f"t{uuid.uuid4().hex[:8]}"
        self._file = folder / "t.yml"

    def write(self, text: str) -> str:
        self._file.write_text(text.replace("NAME", self.prefix))
        return str(self._file)

    def declare(self, text: str) -> None:
        topology = Topology.parse(text.replace("NAME", self.prefix))
        with kombu.Connection(self.node.url) as connection:
            assert topology.declare(connection.channel) == []

    def there(self) -> set[str]:
        """Return the exchanges and queues at the broker, without the prefix."""
        found = set()
        with kombu.Connection(self.node.url) as connection:
            for kind in ("exchange", "queue"):
                for name in NAMES:
                    channel = connection.channel()
                    declare = getattr(channel, f"{kind}_declare")
                    with suppress(amqp.NotFound):
                        arguments = ("direct",) if kind == "exchange" else ()
                        declare(self.prefix + name, *arguments, passive=True)
                        found.add(name)
        return found

    def delete(self) -> None:
        with kombu.Connection(self.node.url) as connection:
            for name in NAMES:
                connection.channel().queue_delete(self.prefix + name)
                connection.channel().exchange_delete(self.prefix + name)


@pytest.fixture
def names(rabbitmq: Node, tmp_path: Path) -> Iterator[Names]:
    mine = Names(rabbitmq, tmp_path)
    yield mine
    mine.delete()


def differences(done: subprocess.CompletedProcess[str]) -> set[tuple[str, ...]]:
    found = json.loads(done.stdout)
    assert found["in_step"] is not bool(found["differences"])
    order = ("what", "kind", "name", "argument", "file", "broker")
    return {tuple(each[key] for key in order) for each in found["differences"]}


# -- diff -----------------------------------------------------------------------------


def test_diff_names_all_that_is_missing_and_makes_nothing(
    names: Names, command: Command
) -> None:
    file = names.write(EVERYTHING)
    done = command("diff", "--file", file, "--json", RABBITMQ_URL=names.node.url)
    assert done.returncode == 1, done.stderr
    missing = {(kind, name) for what, kind, name, *_ in differences(done)}
    assert missing == {
        ("exchange", f"{names.prefix}.in"),
        ("exchange", f"{names.prefix}.internal"),
        ("queue", f"{names.prefix}.a"),
        ("queue", f"{names.prefix}.dead"),
        ("queue", f"{names.prefix}.later"),
    }
    assert names.there() == set()


def test_diff_tells_every_difference_of_a_queue_with_both_values(
    names: Names, command: Command
) -> None:
    """RabbitMQ itself tells one at a time."""
    names.declare("""
    exchanges: [{exchange: NAME.x, type: direct, durable: false}]
    queues:
      - {queue: NAME.a, x_message_ttl: 5, x_max_priority: 3, x_max_length: 7,
         durable: false, x_dead_letter_exchange: old, x_single_active_consumer: true}
    """)
    file = names.write("""
    exchanges: [{exchange: NAME.x, type: fanout}]
    queues:
      - {queue: NAME.a, x_message_ttl: 6, x_max_length: 7, x_queue_type: quorum,
         x_dead_letter_exchange: new, x_overflow: reject-publish}
    """)
    done = command("diff", "--file", file, "--json", RABBITMQ_URL=names.node.url)
    assert done.returncode == 1, done.stderr
    assert {found[:1] + found[3:] for found in differences(done)} == {
        ("different", "type", "fanout", "direct"),
        ("different", "durable", "true", "false"),
        ("different", "x_message_ttl", "6", "5"),
        ("different", "x_max_priority", "not set", "3"),
        ("different", "x_queue_type", "quorum", "not set"),
        ("different", "x_dead_letter_exchange", "new", "old"),
        ("different", "x_overflow", "reject-publish", "not set"),
        ("different", "x_single_active_consumer", "not set", "true"),
    }
    shown = command("diff", "--file", file, RABBITMQ_URL=names.node.url)
    assert shown.returncode == 1
    assert (
        f"different: queue {names.prefix}.a: x_message_ttl is 6 in the file, but 5 at"
        " the broker\n"
    ) in shown.stdout


def test_diff_leaves_what_it_compares_as_it_is(names: Names, command: Command) -> None:
    """Neither a message is taken, nor a queue or a binding made."""
    names.declare("queues: [{queue: NAME.a, x_max_length: 7}]")
    names.node.publish(f"{names.prefix}.a", b"a message")
    file = names.write(EVERYTHING)
    command("diff", "--file", file, RABBITMQ_URL=names.node.url)
    assert names.there() == {".a"}
    names.declare("queues: [{queue: NAME.a, x_max_length: 7}]")  # no other arguments
    (message,) = names.node.messages(f"{names.prefix}.a")
    assert not message.delivery_info["redelivered"]


def test_diff_of_what_was_declared_is_in_step(names: Names, command: Command) -> None:
    file = names.write(EVERYTHING)
    declared = command("declare", "--file", file, RABBITMQ_URL=names.node.url)
    assert declared.returncode == 0, declared.stderr
    assert "2 exchanges, 3 queues, 2 bindings\n" in declared.stdout
    done = command("diff", "--file", file, RABBITMQ_URL=names.node.url)
    assert done.returncode == 0
    assert done.stdout.endswith(
        ": in step\nBindings were not compared: --management-url says where to ask.\n"
    )


def test_diff_compares_bindings_where_the_management_api_is(
    names: Names, command: Command
) -> None:
    text = """
    exchanges: [{exchange: NAME.x, type: topic}]
    queues:
      - queue: NAME.a
        bindings: [{exchange: NAME.x, routing_key: KEY}, {exchange: NAME.x}]
    """
    names.declare(text.replace("KEY", "old"))
    file = names.write(text.replace("KEY", "new"))
    url = {"RABBITMQ_URL": names.node.url}
    arguments = ("diff", "--file", file, "--json")
    arguments += ("--management-url", management_url(names.node))
    done = command(*arguments, **url)
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["bindings_compared"] is True
    name = f"{names.prefix}.x -> {names.prefix}.a"
    assert {found[:3] for found in differences(done)} == {
        ("missing", "binding", f"{name} (new)"),
        ("extra", "binding", f"{name} (old)"),
    }
    # AMQP alone sees none of it, and says so.
    alone = command("diff", "--file", file, "--json", **url)
    assert alone.returncode == 0
    assert json.loads(alone.stdout)["bindings_compared"] is False
    names.write(text.replace("KEY", "old"))
    assert command(*arguments, **url).returncode == 0


def test_diff_looks_for_exchanges_that_are_only_bound_to(
    names: Names, command: Command
) -> None:
    names.declare("queues: [{queue: NAME.a}]")
    file = names.write("queues: [{queue: NAME.a, bindings: [{exchange: NAME.x}]}]")
    done = command("diff", "--file", file, "--json", RABBITMQ_URL=names.node.url)
    assert {found[:3] for found in differences(done)} == {
        ("missing", "exchange", f"{names.prefix}.x")
    }


def test_diff_without_the_right_to_configure_cannot_tell(
    names: Names, command: Command
) -> None:
    names.declare("queues: [{queue: NAME.a}]")
    file = names.write("queues: [{queue: NAME.a}]")
    names.node.ctl("add_user", names.prefix, "s3cr3t")
    names.node.ctl("set_permissions", names.prefix, "^$", ".*", ".*")
    url = f"amqp://{names.prefix}:s3cr3t@{names.node.host}/"
    done = command("diff", "--file", file, RABBITMQ_URL=url)
    assert done.returncode == 2
    assert f"unknown: queue {names.prefix}.a: cannot be compared" in done.stdout
    refused = command("declare", "--file", file, "--json", RABBITMQ_URL=url)
    assert refused.returncode == 1
    (refusal,) = json.loads(refused.stdout)["refusals"]
    assert refusal["code"] == 403
    assert "give the user the right to configure it" in refusal["text"]
    assert "s3cr3t" not in done.stdout + done.stderr + refused.stdout


@pytest.mark.parametrize("subcommand", ["diff", "declare"])
def test_without_a_broker_that_cannot_be_told(
    command: Command, subcommand: str
) -> None:
    done = command(subcommand, RABBITMQ_URL="amqp://u:s3cr3t@127.0.0.1:1/")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: amqp://**@127.0.0.1:1/: ")
    assert "nothing listens there; start RabbitMQ" in done.stderr


def test_a_broker_that_says_nothing_is_waited_for_only_so_long(
    command: Command,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        start = time.monotonic()
        done = command("diff", RABBITMQ_URL=f"amqp://127.0.0.1:{port}/")
    assert done.returncode == 2
    assert "no answer within 3 s" in done.stderr
    assert time.monotonic() - start < 60  # 3 s, and Python's own on a busy machine


def test_diff_with_a_wrong_management_url_cannot_tell(
    names: Names, command: Command
) -> None:
    names.declare("queues: [{queue: NAME.a}]")
    file = names.write("queues: [{queue: NAME.a}]")
    for url, why in (
        ("localhost:15672", "must be http://host:15672"),
        ("http://u:s3cr3t@127.0.0.1:1", "http://127.0.0.1:1: [Errno 111]"),
    ):
        done = command(
            *("diff", "--file", file, "--management-url", url),
            RABBITMQ_URL=names.node.url,
        )
        assert done.returncode == 2
        assert why in done.stderr
        assert "s3cr3t" not in done.stderr


def test_ctrl_c_is_not_a_traceback(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        port = silent.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "oops_celery.cli", "topology", "diff"],
            cwd=tmp_path,
            env=environment(RABBITMQ_URL=f"amqp://127.0.0.1:{port}/"),
            stderr=subprocess.PIPE,
            text=True,
        )
        silent.accept()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "Interrupted.\n")


# -- declare --------------------------------------------------------------------------


def test_declare_says_what_the_broker_refused_and_declares_the_rest(
    names: Names, command: Command
) -> None:
    names.declare("queues: [{queue: NAME.a, x_max_length: 7}]")
    file = names.write(EVERYTHING)
    done = command("declare", "--file", file, RABBITMQ_URL=names.node.url)
    assert done.returncode == 1
    assert f"refused: queue {names.prefix}.a: x_dead_letter_exchange is" in (
        done.stdout
    )
    assert done.stdout.endswith("; 1 refused\n")
    assert names.there() == {".in", ".internal", ".a", ".dead", ".later"}


# -- show -----------------------------------------------------------------------------


def test_show_tells_all_of_a_file(names: Names, command: Command) -> None:
    file = names.write(EVERYTHING)
    found = json.loads(command("show", "--file", file, "--json").stdout)
    name = names.prefix
    assert [each["name"] for each in found["exchanges"]] == [
        f"{name}.in",
        f"{name}.internal",
    ]
    first, dead, later = found["queues"]
    assert first["dead_letters"] == {
        "exchange": f"{name}.internal",
        "routing_key": "",
    }
    assert first["bindings"] == [
        {"exchange": f"{name}.in", "routing_key": "a.#", "arguments": {}}
    ]
    assert dead["dead_letters"] is None
    assert later["arguments"]["x-message-ttl"] == 600_000
    assert found["consumers"] == [
        {
            "consumer": "work:One",
            "queue": f"{name}.a",
            "consumer_count": 3,
            "prefetch_count": 1,
            "prefork": False,
        }
    ]
    shown = command("show", "--file", file).stdout
    assert re.search(rf"{name}\.later +10 min +queue {name}\.a\b", shown)
    assert re.search(rf"{name}\.a +{name}\.internal +{name}\.in a\.#", shown)
    assert re.search(rf"work:One +{name}\.a +3 +1\b", shown)
    assert f"exchange {name}.internal: internal\n" in shown
    assert f"queue {name}.a: x-max-length=5\n" in shown
    assert f"└── after 10 min: queue {name}.a (see above)\n" in shown


def test_show_fits_where_columns_says_how_wide_it_is(command: Command) -> None:
    shown = command("show", COLUMNS="60").stdout
    assert max(map(len, shown.splitlines())) <= 60
    for word in ("10 min", "oopses.dead", "given up", "x-delivery-limit=20000"):
        assert word in shown
    plain = command("show", PYTHONIOENCODING="ascii")
    assert plain.returncode == 0, plain.stderr
    assert "`-- given up: exchange oopses.dead" in plain.stdout


def test_control_characters_of_a_file_are_shown_not_sent(
    names: Names, command: Command
) -> None:
    names.write(
        'queues: [{queue: "a\\e[2Jb\\nc", x_dead_letter_exchange: "\\e[31m"}]\n'
    )
    for subcommand in (["show"], ["graph"], ["graph", "--dot"]):
        done = command(*subcommand, "--file", "t.yml")
        assert done.returncode == 0, done.stderr
        said = done.stdout.replace("#92;", "\\").replace("\\\\", "\\")
        assert "a\\x1b[2Jb\\nc" in said
        assert all(char.isprintable() or char == "\n" for char in done.stdout)


@pytest.mark.parametrize("subcommand", ["show", "diff", "declare", "graph"])
def test_a_file_that_cannot_be_used_has_an_exit_code_of_its_own(
    names: Names, command: Command, subcommand: str
) -> None:
    names.write("queues: [{queue: a, x_overflow: drophead}]")
    done = command(subcommand, "--file", "t.yml")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean drop-head?" in done.stderr


def test_the_file_of_the_settings_is_used(command: Command) -> None:
    gone = command("diff", OOPS_TOPOLOGY="gone\x1b.yml")
    assert gone.returncode == 2
    assert "gone\\x1b.yml" in gone.stderr


@pytest.mark.parametrize("subcommand", ["show", "diff", "declare", "graph", ""])
def test_help_shows_an_example_and_the_exit_codes(subcommand: str) -> None:
    arguments = ["topology", *filter(None, [subcommand]), "--help"]
    done = CliRunner().invoke(main, arguments, terminal_width=60)
    assert done.exit_code == 0
    assert f"  oops-celery topology {subcommand}" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 60
    if subcommand:
        assert "exit code is 0" in " ".join(done.stdout.split())


# -- graph ----------------------------------------------------------------------------


def test_the_graph_has_the_way_of_a_report_and_where_it_dies() -> None:
    graph = flow(Topology.load(), "oopses", "oopses")
    ways = {(edge.source.name, edge.target.name, edge.dies) for edge in graph.edges}
    assert ways == {
        ("programs", "oopses", False),
        ("oopses", "oopses", False),
        ("oopses", "worker", False),
        ("worker", "oopses.retry.1", True),
        ("worker", "oopses.retry.2", True),
        ("worker", "oopses.retry.3", True),
        ("oopses.retry.1", "oopses", True),
        ("oopses.retry.2", "oopses", True),
        ("oopses.retry.3", "oopses", True),
        ("worker", "oopses.dead", True),
        ("oopses", "oopses.dead", True),
        ("oopses.dead", "oopses.dead", False),
    }
    assert [node.name for node in graph.roots()] == ["programs"]


def test_graph_is_mermaid_text(command: Command) -> None:
    text = command("graph").stdout
    assert text.startswith("flowchart LR\n")
    ids = dict(re.findall(r'(n\d+)[\[({]+"([^"]+)"', text))
    labels = {name: key for key, name in ids.items()}
    queue = labels["queue oopses<br/>quorum"]
    retry = labels["queue oopses.retry.1<br/>quorum, TTL 10 s"]
    assert f'{retry} -.->|"after 10 s"| {queue}\n' in text
    used = set(re.findall(r"\bn\d+\b", text))
    assert used == set(ids)


def drawn(text: str) -> pydot.Dot:
    """Return what Graphviz would read of a DOT text."""
    graphs = pydot.graph_from_dot_data(text)
    assert graphs is not None, text
    (graph,) = graphs
    return graph


def test_graph_as_dot_has_every_place_and_way(names: Names, command: Command) -> None:
    file = names.write(EVERYTHING.replace("NAME.in,", '"<in> & \\"out\\"",'))
    done = command("graph", "--file", file, "--dot")
    assert done.returncode == 0, done.stderr
    graph = drawn(done.stdout)
    labels = {node.get("label") for node in graph.get_nodes()}
    assert any(r"exchange <in> &amp; \"out\"" in label for label in labels)
    assert any(f"queue {names.prefix}.a" in label for label in labels)
    styles = [edge.get("style") for edge in graph.get_edges()]
    assert styles.count(None) == 3
    assert styles.count("dashed") == 2


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=5, unique=True))
@example(
    [
        '"',
        "\\",
        '\\"',
        "<b>x</b>",
        "a\nb",
        "\u202ertl",
        "\U0001f600",
        "->",
        "a;b",
        "\\N",
    ]
)
def test_no_name_changes_the_graph(texts: list[str]) -> None:
    places = [Place("queue", text, text) for text in texts]
    ways = [Edge(one, other, one.name) for one in places for other in places]
    graph = drawn(dot(Flow(tuple(places), tuple(ways))))
    assert len(graph.get_nodes()) == len(places)
    assert len(graph.get_edges()) == len(ways)


def test_dot_says_what_the_flow_says() -> None:
    graph = flow(Topology.load(), "oopses", "oopses")
    drawing = drawn(dot(graph))
    shapes = {"program": "rounded", "exchange": "hexagon", "worker": "2"}
    assert drawing.get("rankdir") == "LR"
    names = {}
    for node in drawing.get_nodes():
        form = [node.get(key) for key in ("style", "peripheries", "shape")]
        label = node.get("label").strip('"')
        names[node.get_name()] = (label, next(filter(None, form)))
    assert list(names.values()) == [
        (rf"{node.title}\n{node.note}", shapes.get(node.kind, "box"))
        for node in graph.nodes
    ]
    titles = {name: label.split(r"\n")[0] for name, (label, _) in names.items()}
    found = {
        (
            titles[edge.get_source()],
            titles[edge.get_destination()],
            edge.get("label").strip('"'),
            edge.get("style") == "dashed",
        )
        for edge in drawing.get_edges()
    }
    assert found == {
        (edge.source.title, edge.target.title, edge.label, edge.dies)
        for edge in graph.edges
    }


def test_the_option_of_before_says_what_to_do(command: Command) -> None:
    for options in (["--svg", "t.svg"], ["--svg"]):
        done = command("graph", *options)
        assert (done.returncode, done.stdout) == (2, "")
        assert "--dot | dot -Tsvg > topology.svg" in done.stderr


@pytest.mark.parametrize(
    ("milliseconds", "said"),
    [(0, "0 s"), (7, "7 ms"), (1500, "1.5 s"), (10_000, "10 s"), (90_000, "90 s")]
    + [(60_000, "1 min"), (7_200_000, "2 h"), (86_400_000, "1 d")],
)
def test_a_time_is_said_as_a_person_says_it(milliseconds: int, said: str) -> None:
    assert duration(milliseconds) == said


# -- speed ----------------------------------------------------------------------------


def test_each_is_quick(names: Names, command: Command) -> None:
    """In seconds of the processor: the machine has other work too."""
    file = names.write(EVERYTHING)
    for subcommand in ("show", "diff", "graph"):
        before = os.times()
        command(subcommand, "--file", file, RABBITMQ_URL=names.node.url)
        after = os.times()
        used: Any = after.children_user - before.children_user
        used += after.children_system - before.children_system
        assert used < 4
