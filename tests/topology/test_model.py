"""What a topology file says, and what is wrong with one. No broker."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path

import kombu
import pytest
import yaml
from celery.app.amqp import Queues
from hypothesis import example, given
from hypothesis import strategies as st

from oops_celery.errors import TopologyError
from oops_celery.topology.model import (
    ConsumerEntry,
    Exchange,
    Problem,
    Queue,
    Refusal,
    Topology,
)
from oops_celery.topology.schema import QUEUE_ARGUMENTS
from tests.support import PACKAGED
from tests.support.dispatching import DISPATCHER

#: What YAML can say, in the places and under the keys of a topology.
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers().map(lambda n: n**40)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.dates()
    | st.datetimes()
    | st.sampled_from(["quorum", "amq.q", "a:b", "", "fanout", "at-least-once"])
)
names = ["exchange", "queue", "consumer", "type", "bindings", "arguments", "passive"]
keys = st.sampled_from([*names, *QUEUE_ARGUMENTS])
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(keys | st.text(max_size=3) | st.integers(), inner)
    ),
    max_leaves=12,
)
files = st.dictionaries(
    st.sampled_from(["queues", "exchanges", "consumers", "startup_handler", "no"]),
    values | st.lists(st.dictionaries(keys, values), max_size=4),
)
indented = st.lists(
    st.tuples(
        st.sampled_from(["", " ", "  ", "    "]),
        st.sampled_from(["- ", "queues:", "queue: q", "<<: *a", "&a ", "{", "}"])
        | st.sampled_from(["bindings:", "[*a]", "x_expires: 1", "? ", "!!int ", "#"]),
    ).map("".join),
    max_size=12,
).map("\n".join)


def problems(text: str | bytes) -> list[Problem]:
    """Return all that is found in a file, good or bad."""
    try:
        return list(Topology.parse(text).warnings)
    except TopologyError as error:
        return list(error.problems)


def the_problem(text: str | bytes) -> Problem:
    (found,) = problems(text)
    return found


def mistake(text: str | bytes) -> str:
    """Return the one mistake of a file, as a person sees it."""
    found = the_problem(text)
    assert found.fatal, found
    return str(found)


def warning(text: str | bytes) -> str:
    """Return the one warning of a file, as a person sees it."""
    found = the_problem(text)
    assert not found.fatal, found
    return str(found)


def queue(text: str) -> Queue:
    """Return the one queue of a file, given the keys of its entry."""
    (only,) = Topology.parse(f"queues: [{{queue: q, {text}}}]").queues
    return only


def bindings(of: Queue) -> list[tuple[str, str]]:
    return [(each.exchange.name, each.routing_key) for each in of.bindings]


class TestWhatIsRead:
    def test_the_dispatchers_example_loads_whole(self) -> None:
        """The dispatcher's own example is a good topology: nothing of it is lost."""
        topology = Topology.parse(DISPATCHER)

        assert [each.name for each in topology.queues] == [
            "notify_mat_job",
            "notify_apsalar_job",
        ]
        assert [each.passive for each in topology.queues] == [True, False]
        assert [bindings(each) for each in topology.queues] == [
            [("notify", "transaction.*"), ("notify", "click.*")]
        ] * 2
        assert topology.consumers == (
            ConsumerEntry("workers.module:Consumer", "test_queue", 1, 2),
            ConsumerEntry("workers.module_2:Consumer", "test_queue_2", 2, 10),
        )
        assert topology.startup_handler == "workers.startup:startup"
        assert topology.exchanges == ()
        assert topology.warnings == ()

    def test_what_is_not_said_has_the_dispatchers_defaults(self) -> None:
        """A queue is durable and shared; a consumer is one, and gets one at a time."""
        topology = Topology.parse(
            "queues: [{queue: q}]\nconsumers: [{consumer: 'a:B', queue: q}]"
        )

        (only,) = topology.queues
        flags = (only.durable, only.auto_delete, only.exclusive, only.passive)
        assert flags == (True, False, False, False)
        assert topology.consumers == (ConsumerEntry("a:B", "q", 1, 1),)

    def test_an_exchange_has_all_its_properties(self) -> None:
        """Each key of an exchange reaches the kombu exchange."""
        (made,) = Topology.parse(
            "exchanges: [{exchange: e, type: topic, durable: false, auto_delete: true,"
            " internal: true, passive: true, arguments: {alternate-exchange: f}}]"
        ).exchanges

        assert (made.name, made.type) == ("e", "topic")
        flags = (made.durable, made.auto_delete, made.internal, made.passive)
        assert flags == (False, True, True, True)
        assert made.arguments == {"alternate-exchange": "f"}

    def test_an_exchange_is_direct_and_durable_unless_it_says_otherwise(self) -> None:
        """An exchange with only a name is a durable direct one."""
        (made,) = Topology.parse("exchanges: [{exchange: e}]").exchanges

        assert (made.name, made.type, made.durable) == ("e", "direct", True)
        assert [made.auto_delete, made.internal, made.passive] == [False] * 3

    @pytest.mark.parametrize(
        "kind", ["direct", "fanout", "topic", "headers", "x-random"]
    )
    def test_exchange_types(self, kind: str) -> None:
        """AMQP's four types are taken, and any that a plugin adds."""
        (made,) = Topology.parse(
            f"exchanges: [{{exchange: e, type: {kind}}}]"
        ).exchanges

        assert made.type == kind

    def test_every_number_is_as_it_was_written(self) -> None:
        """A hundred thousand TTLs, each another one: none is rounded or converted."""
        numbers = list(range(100_001))
        text = "".join(
            f"- {{queue: q{n}, x_message_ttl: {n}, x_dead_letter_exchange: ''}}\n"
            for n in numbers
        )
        start = time.process_time()
        topology = Topology.parse("queues:\n" + text)
        seconds = time.process_time() - start

        arguments = [each.queue_arguments for each in topology.queues]
        assert [each["x-message-ttl"] for each in arguments] == numbers
        assert {type(each["x-message-ttl"]) for each in arguments} == {int}
        assert seconds < 60 or not yaml.__with_libyaml__
        assert gc.isenabled()

    def test_every_argument_goes_by_rabbitmqs_name(self) -> None:
        """All that RabbitMQ 3.10 to 4.3 knows is taken, under its name there."""
        values = {
            "x_queue_type": "quorum",
            "x_message_ttl": 1,
            "x_expires": 2,
            "x_max_length": 3,
            "x_max_length_bytes": 4,
            "x_overflow": "reject-publish",
            "x_dead_letter_exchange": "",
            "x_dead_letter_routing_key": "q",
            "x_dead_letter_strategy": "at-least-once",
            "x_single_active_consumer": True,
            "x_consumer_timeout": 5,
            "x_consumer_disconnected_timeout": 6,
            "x_queue_leader_locator": "balanced",
            "x_max_priority": 255,
            "x_queue_mode": "lazy",
            "x_queue_version": 2,
            "x_queue_master_locator": "min-masters",
            "x_delivery_limit": -1,
            "x_quorum_initial_group_size": 3,
            "x_quorum_target_group_size": 5,
            "x_max_in_memory_length": 7,
            "x_max_in_memory_bytes": 8,
            "x_delayed_retry_type": "failed",
            "x_delayed_retry_min": 9,
            "x_delayed_retry_max": 10,
            "x_max_age": "7D",
            "x_stream_max_segment_size_bytes": 11,
            "x_stream_filter_size_bytes": 16,
            "x_initial_cluster_size": 12,
        }
        assert set(values) == set(QUEUE_ARGUMENTS)
        (made,) = Topology.parse(
            yaml.dump({"queues": [{"queue": "q"} | values]})
        ).queues

        expected = {key.replace("_", "-"): value for key, value in values.items()}
        assert made.queue_arguments == expected

    def test_null_is_not_set(self) -> None:
        """A key with null is a key that is not there, whatever it is."""
        with_null = Topology.parse(
            "startup_handler: null\nconsumers: null\nexchanges: ~\n"
            "queues: [{queue: q, durable: null, x_message_ttl: null, bindings: null}]"
        )

        assert with_null == Topology.parse("queues: [{queue: q}]")
        assert with_null.queues[0].queue_arguments == {}

    def test_zero_and_nothing_are_values(self) -> None:
        """0 is zero, and "" is the default exchange; neither means not set."""
        arguments = queue(
            "x_message_ttl: 0, x_dead_letter_exchange: ''"
        ).queue_arguments

        assert arguments == {"x-message-ttl": 0, "x-dead-letter-exchange": ""}

    def test_merge_keys(self) -> None:
        """YAML's anchors and merge keys save repetition; what is written wins."""
        topology = Topology.parse("""
queues:
  - &first {queue: a, x_max_length: 1, durable: false}
  - &second {<<: *first, queue: b, x_max_length: 2}
  - {<<: *second, queue: c}
""")

        lengths = [each.queue_arguments["x-max-length"] for each in topology.queues]
        assert lengths == [1, 2, 2]
        assert not any(each.durable for each in topology.queues)

    def test_the_default_is_what_the_packaged_file_says(self) -> None:
        """A file to copy and change, and the same as a value, which needs no YAML."""
        file = Topology.load(PACKAGED)
        assert Topology.load() == file
        assert file.warnings == ()

    def test_the_packaged_file_is_the_default(self) -> None:
        """Without a path, the topology is that of the package, and nothing is amiss."""
        topology = Topology.load()

        assert [(each.name, each.type) for each in topology.exchanges] == [
            ("oopses", "fanout"),
            ("oopses.dead", "fanout"),
        ]
        assert topology.dead_letter_target("oopses") == ("oopses.dead", "")
        waits = [
            (each.name, each.queue_arguments["x-message-ttl"])
            for each in topology.retry_queues("oopses")
        ]
        assert waits == [
            ("oopses.retry.1", 10_000),
            ("oopses.retry.2", 60_000),
            ("oopses.retry.3", 600_000),
        ]
        kinds = [each.queue_arguments["x-queue-type"] for each in topology.queues]
        assert kinds == ["quorum"] * 5
        assert topology.warnings == ()

    def test_a_path_is_read(self, tmp_path: Path) -> None:
        """A path may be text or a Path; the topology knows its file."""
        file = tmp_path / "mine.yml"
        file.write_text("queues: [{queue: q}]")

        assert Topology.load(file) == Topology.load(str(file))
        assert Topology.load(file).source == str(file)

    def test_importing_the_package_reads_no_topology(self) -> None:
        """An application that only publishes pays for neither pydantic nor YAML."""
        code = (
            "import sys, oops_celery; "
            "heavy = {'pydantic', 'yaml', 'oops_celery.topology.model'}; "
            "print(heavy & set(sys.modules))"
        )
        out = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True
        )

        assert out.stdout == "set()\n", out.stderr


class TestValues:
    """A topology and what is in it are values: compared, copied, shown."""

    def test_equal_when_they_declare_the_same(self) -> None:
        """Neither the file's name nor its comments and order of keys count."""
        one = Topology.parse("queues: [{queue: q, x_message_ttl: 1}]", "one.yml")
        other = Topology.parse("# !\nqueues: [{x_message_ttl: 1, queue: q}]", "two.yml")

        assert one == other
        assert hash(one) == hash(other)

    def test_queues_that_declare_something_else_are_not_equal(self) -> None:
        """Each thing that goes to the broker makes a difference."""
        entries = [
            "",
            "passive: true",
            "exclusive: true",
            "auto_delete: true",
            "durable: false",
            "x_max_length: 1",
            "bindings: [{exchange: e}]",
            "bindings: [{exchange: f}]",
            "bindings: [{exchange: e, routing_key: k}]",
            "bindings: [{exchange: e, arguments: {x-match: any}}]",
        ]

        for one, other in itertools.product(entries, entries):
            assert (queue(one) == queue(other)) == (one == other)
            assert (queue(one) != queue(other)) == (one != other)

    def test_exchanges_that_declare_something_else_are_not_equal(self) -> None:
        """As with queues; kombu does not see that one is internal or passive."""
        ways: list[dict[str, object]] = [
            {},
            {"type": "fanout"},
            {"durable": False},
            {"auto_delete": True},
            {"internal": True},
            {"passive": True},
            {"arguments": {"alternate-exchange": "f"}},
        ]

        for one, other in itertools.product(ways, ways):
            assert (Exchange("e", **one) == Exchange("e", **other)) == (one == other)

    @pytest.mark.parametrize("another", [copy.copy, pickle.loads])
    def test_a_copy_of_a_queue_is_the_same(self, another: object) -> None:
        """To bind it, kombu copies a queue: nothing of it gets lost."""
        made = queue(
            "exclusive: true, passive: true, x_max_length: 3,"
            " bindings: [{exchange: b}, {exchange: a, routing_key: k}]"
        )
        same = (
            copy.copy(made)
            if another is copy.copy
            else pickle.loads(pickle.dumps(made))
        )

        assert same == made
        assert not same.auto_delete
        assert bindings(same) == [("b", ""), ("a", "k")]

    def test_an_exclusive_queue_may_stay(self) -> None:
        """Exclusive does not imply auto_delete, as kombu has it; both can be said."""
        assert not queue("exclusive: true").auto_delete
        assert queue("exclusive: true, auto_delete: true").auto_delete
        assert not queue("exclusive: true")(kombu.Connection("memory://")).auto_delete

    def test_a_queue_without_bindings_has_no_exchange(self) -> None:
        """There is nothing that kombu could declare or bind beside the queue."""
        assert queue("").exchange is None
        assert list(queue("").bindings) == []

    def test_an_exchange_named_in_a_binding_is_not_declared(self) -> None:
        """It must be there: whoever binds to it does not know what it is like."""
        (binding,) = queue("bindings: [{exchange: e, routing_key: k}]").bindings

        assert binding.exchange.no_declare

    def test_bindings_keep_their_order_and_arguments(self) -> None:
        """They are declared as they are written."""
        names = [f"e{n}" for n in range(20)]
        random.Random(3).shuffle(names)
        listed = ", ".join(
            f"{{exchange: {name}, arguments: {{a: 1}}}}" for name in names
        )
        made = queue(f"bindings: [{listed}]")

        assert [name for name, _ in bindings(made)] == names
        assert {str(each.arguments) for each in made.bindings} == {"{'a': 1}"}

    def test_a_person_can_read_it(self) -> None:
        """The repr of a topology names its file and what is in it, however large."""
        text = "queues: [" + ", ".join(f"{{queue: q{n}}}" for n in range(1000)) + "]"
        shown = repr(Topology.parse(text, "large.yml"))

        assert "large.yml" in shown
        assert "q0, q1" in shown
        assert "1000" in shown
        assert len(shown) < 200

    def test_the_repr_of_a_queue_has_its_bindings_and_arguments(self) -> None:
        """What one wants to know of a queue is in its repr."""
        shown = repr(
            queue("x_max_length: 3, bindings: [{exchange: e, routing_key: k}]")
        )

        assert shown == "<Queue q <- e->k {'x-max-length': 3}>"


class TestWhereMessagesGo:
    TEXT = """
exchanges:
  - {exchange: back, type: direct}
  - {exchange: all, type: fanout}
queues:
  - queue: main
    x_dead_letter_exchange: dead
    x_message_ttl: 7
    bindings: [{exchange: back, routing_key: main}, {exchange: all, routing_key: x}]
  - {queue: slow, x_message_ttl: 300, x_dead_letter_exchange: "",
     x_dead_letter_routing_key: main}
  - {queue: fast, x_message_ttl: 20, x_dead_letter_exchange: back,
     x_dead_letter_routing_key: main}
  - {queue: at once, x_message_ttl: 0, x_dead_letter_exchange: all}
  - {queue: no ttl, x_dead_letter_exchange: "", x_dead_letter_routing_key: main}
  - {queue: other key, x_message_ttl: 1, x_dead_letter_exchange: back,
     x_dead_letter_routing_key: other}
  - {queue: elsewhere, x_message_ttl: 1, x_dead_letter_exchange: not here,
     x_dead_letter_routing_key: main}
  - {queue: discards, x_message_ttl: 1}
  - {queue: itself, x_message_ttl: 1, x_dead_letter_exchange: "",
     x_dead_letter_routing_key: itself}
"""

    def test_retry_queues_lead_back_and_the_shortest_is_first(self) -> None:
        """Through the default exchange, a direct or a fanout one; by their TTL."""
        waiting = Topology.parse(self.TEXT).retry_queues("main")

        assert [each.name for each in waiting] == ["at once", "fast", "slow"]

    def test_a_queue_that_leads_to_itself_is_no_retry_queue(self) -> None:
        """Nor has a queue that the file does not know any."""
        topology = Topology.parse(self.TEXT)

        assert topology.retry_queues("itself") == ()
        assert topology.retry_queues("unknown") == ()

    @pytest.mark.parametrize(
        ("name", "target"),
        [
            ("main", ("dead", "")),
            ("slow", ("", "main")),
            ("fast", ("back", "main")),
            ("discards", None),
            ("unknown", None),
        ],
    )
    def test_dead_letter_target(self, name: str, target: object) -> None:
        """Exchange and routing key as the file has them; None where there is none."""
        assert Topology.parse(self.TEXT).dead_letter_target(name) == target

    def test_a_queue_is_found_by_its_name(self) -> None:
        """A queue of the file is found, another one is None."""
        topology = Topology.parse(self.TEXT)

        assert topology.queue("fast") is topology.queues[2]
        assert topology.queue("unknown") is None


class TestMistakes:
    def test_all_of_them_at_once_with_their_lines(self) -> None:
        """Five mistakes in five places: five findings, each where it stands."""
        with pytest.raises(TopologyError) as caught:
            Topology.parse(
                """\
# a comment
exchanges:
  - exchange: e
    type: fan
queues:
  - queue: a
    x_mesage_ttl: 10
  - queue: b
    x_message_ttl: "10"

  - queue: a
consumers:
  - consumer: workers.Consumer
    queue: a
""",
                "mine.yml",
            )

        found = caught.value.problems
        assert [problem.line for problem in found] == [4, 7, 9, 11, 13]
        assert [problem.path for problem in found] == [
            "exchanges[0].type",
            "queues[0]",
            "queues[1].x_message_ttl",
            "queues[2].queue",
            "consumers[0].consumer",
        ]
        header, *lines = str(caught.value).splitlines()
        assert header == "mine.yml: 4 mistakes, 1 warning"
        assert lines == [
            f"{'' if problem.fatal else 'warning: '}{problem}" for problem in found
        ]

    def test_a_mistake_names_the_thing_the_line_and_the_way_out(self) -> None:
        """As a person sees it: where, what, and what it should be."""
        text = "queues:\n  - queue: a\n  - queue: b\n    x_mesage_ttl: 1\n"

        assert warning(text) == (
            "queues[1] (line 4): x_mesage_ttl: unknown key, left out; did you mean"
            " x_message_ttl?"
        )

    @pytest.mark.parametrize(
        ("key", "meant"),
        [
            *((name, key) for key, name in QUEUE_ARGUMENTS.items()),
            ("auto-delete", "auto_delete"),
            ("durabel", "durable"),
            ("binding", "bindings"),
        ],
    )
    def test_a_misspelt_key_is_recognized(self, key: str, meant: str) -> None:
        """RabbitMQ's own spelling, with hyphens, is the likeliest slip."""
        text = f"queues: [{{queue: q, {key}: 1}}]"

        said = f"{key}: unknown key, left out; did you mean {meant}?"
        assert warning(text).endswith(said)

    def test_an_unknown_key_is_one_even_without_a_value(self) -> None:
        """Null means not set, but only for keys that there are."""
        assert "zzz: unknown key" in warning("queues: [{queue: q, zzz: null}]")

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("queues:\n- queue: q\n  bindings:\n    exchange: e\n", 3),
            ("queues:\n- queue: q\n  durable:\n    [\n    1]\n", 3),
            ("queues:\n- &a\n  queue: q\n- <<: *a\n  queue:\n    9\n", 5),
            ("queues:\n- &a\n  queue: q\n  durable: 9\n- <<: *a\n  queue: p\n", 4),
            ("queues:\n-\n  durable: true\n", 3),
            ("\n\nqueues: 1\n", 3),
        ],
    )
    def test_the_line_is_that_of_the_key(self, text: str, line: int) -> None:
        """Not that of its value; nor that of what it replaces by a merge key."""
        assert {problem.line for problem in problems(text)} == {line}

    def test_an_unrecognizable_key_gets_the_list_of_keys(self) -> None:
        """Where nothing is similar, all that there is is shown."""
        text = "queues: [{queue: q, bindings: [{exchange: e, zzz: 1}]}]"

        assert warning(text) == (
            "queues[0].bindings[0] (line 1): zzz: unknown key, left out;"
            " known are exchange, routing_key, arguments"
        )

    @pytest.mark.parametrize(
        ("entry", "said"),
        [
            (
                "x_max_length: '2'",
                "'2' is text, not a whole number; write it as a plain",
            ),
            ("x_max_length: true", "true is a truth value, not a whole number"),
            ("x_max_length: 1.5", "1.5 is a decimal number, not a whole number"),
            ("x_max_length: 1.0", "1.0 is a decimal number, not a whole number"),
            ("x_max_length: false", "false is no value for it; remove it"),
            ("x_max_length: -1", "-1 is too small; the least is 0"),
            ("x_max_length: [1]", "[1] is a list, not a whole number"),
            ("x_max_length: 2001-01-01", "is a date, not a whole number"),
            (
                "durable: 'false'",
                "'false' is text, which amqp-dispatcher took for true",
            ),
            ("durable: 2", "2 is a number, not true or false"),
            ("x_dead_letter_exchange: 5", "5 is a number, not text; put it in quotes"),
            (
                "x_dead_letter_exchange: no",
                "false is no value for it; remove it (amqp-dispatcher left it out)",
            ),
            ("x_message_ttl: 315360000001", "too large; the most is 315360000000"),
            ("x_expires: 0", "0: RabbitMQ refuses it; remove it (amqp-dispatcher left"),
            ("x_max_priority: 256", "256 is too large; the most is 255"),
            ("x_queue_version: 3", "3 is too large; the most is 2"),
            ("x_max_length: 9223372036854775808", "is too large; the most is 9223372"),
            (f"x_max_length: {'9' * 4000}", "is too large; the most is 9223372"),
            ("x_quorum_initial_group_size: 0", "0 is too small; the least is 1"),
            ("x_overflow: drophead", "drop-head, reject-publish, reject-publish-dlx"),
            ("x_overflow: drophead", "did you mean drop-head?"),
            ("x_queue_type: lazy", "is not one of classic, quorum, stream"),
            ("x_dead_letter_strategy: 3", "not one of at-most-once, at-least-once"),
            ("x_queue_mode: lasy", "not one of default, lazy; did you mean lazy?"),
            ("x_max_age: 7d", "'7d' is no age; write a number and one of Y, M, D, h"),
            ("x_max_age: 0D", "'0D' is no age"),
            ("bindings: {exchange: e}", "is a mapping, not a list; begin each entry"),
            ("bindings: [e]", "'e' is text, not a mapping (key: value)"),
            ("bindings: [{}]", "exchange: missing"),
            (
                "bindings: [{exchange: ''}]",
                "is the default exchange, which each queue is",
            ),
            (f"bindings: [{{exchange: {'é' * 128}}}]", "has 256 bytes; AMQP takes at"),
            (f"bindings: [{{exchange: e, routing_key: {'k' * 256}}}]", "has 256 bytes"),
        ],
    )
    def test_a_value_that_cannot_be(self, entry: str, said: str) -> None:
        """The message has the value, what it is, and what would do."""
        text = f"queues:\n- queue: q\n  x_dead_letter_exchange: ''\n  {entry}"
        if entry.startswith("x_dead_letter_exchange"):
            text = f"queues:\n- queue: q\n  x_max_length: 1\n  {entry}"
        found = the_problem(text)

        assert found.fatal
        assert said in str(found)
        assert found.line in (2, 4)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("exchanges: [{exchange: e, type: topik}]", "did you mean topic?"),
            (
                "exchanges: [{exchange: e, type: topik}]",
                "direct, fanout, topic, headers",
            ),
            (
                "exchanges: [{exchange: amq.topic}]",
                "names that begin with amq. are the",
            ),
            ("queues: [{queue: amq.q}]", "names that begin with amq. are the broker's"),
            ("queues: [{queue: ''}]", "queues[0].queue (line 1): is empty"),
            (
                f"queues: [{{queue: {'q' * 256}}}]",
                "has 256 bytes; AMQP takes at most 255",
            ),
            (f"exchanges: [{{exchange: {'é' * 128}}}]", "has 256 bytes; AMQP takes"),
            (
                "queues: [{queue: q}, {queue: q, durable: false}]",
                "'q' is queues[0] already, and differs; remove one",
            ),
            (
                "exchanges: [{exchange: e}, {exchange: e}]",
                "'e' is exchanges[0] already",
            ),
            ("queues: [{durable: true}]", "queue: missing; it is needed here"),
            ("queues: [{queue: null}]", "queue: missing; it is needed here"),
            ("queues: [q]", "queues[0] (line 1): 'q' is text, not a mapping"),
            ("queues: [null]", "queues[0] (line 1): null is nothing, not a mapping"),
            ("queues: {queue: q}", "queues (line 1): {'queue': 'q'} is a mapping, not"),
            ("consumers: [{consumer: 'a:B'}]", "queue: missing; it is needed here"),
            (
                "consumers: [{consumer: a.B, queue: q}]",
                "not of the form package.module:",
            ),
            (
                "consumers: [{consumer: 'a:', queue: q}]",
                "not of the form package.module",
            ),
            ("consumers: [{consumer: 'a:B:C', queue: q}]", "not of the form"),
            ("consumers: [{consumer: 'a b:C', queue: q}]", "not of the form"),
            (
                "{queues: [{queue: q}], startup_handler: go}",
                "startup_handler (line 1):",
            ),
            (
                "consumers: [{consumer: 'a:B', queue: q, consumer_count: 0}]",
                "consumers[0].consumer_count (line 1): 0: nothing would ever be",
            ),
            (
                "consumers: [{consumer: a.b.C, queue: q}]",
                "'a.b.C' is not of the form package.module:name; did you mean a.b:C?",
            ),
            (
                "consumers: [{consumer: 'a:B', queue: q, prefetch_count: 65536}]",
                "65536 is too large; the most is 65535",
            ),
        ],
    )
    def test_an_entry_that_cannot_be(self, text: str, said: str) -> None:
        """Names, duplicates, and what is missing."""
        assert said in mistake(text)

    @pytest.mark.parametrize("kind", ["quorum", "stream"])
    @pytest.mark.parametrize(
        "entry", ["exclusive: true", "auto_delete: true", "durable: false"]
    )
    def test_what_rabbitmq_refuses_for_replicated_queues(
        self, kind: str, entry: str
    ) -> None:
        """A quorum queue or a stream is durable and shared, or RabbitMQ refuses it."""
        said = mistake(f"queues: [{{queue: q, x_queue_type: {kind}, {entry}}}]")

        assert f"RabbitMQ refuses it for a {kind} queue" in said
        assert queue(f"x_queue_type: classic, {entry}")
        assert queue(f"x_queue_type: {kind}, {entry}, passive: true")

    def test_a_key_that_stands_there_twice(self) -> None:
        """YAML takes the second one, in silence."""
        text = "queues:\n  - queue: q\n    durable: false\n    durable: true\n"

        assert warning(text) == (
            "queues[0] (line 4): durable: stands here twice; the last one counts"
        )
        assert Topology.parse(text).queues[0].durable

    @pytest.mark.parametrize(
        ("written", "number"), [("010", 8), ("0x10", 16), ("1:30", 90), ("0b11", 3)]
    )
    def test_a_number_that_is_not_what_it_looks_like(
        self, written: str, number: int
    ) -> None:
        """It is what amqp-dispatcher sent, and a line says so."""
        text = f"queues:\n- queue: q\n  x_max_length: {written}\n"

        assert warning(text) == f"line 3: {written} is the number {number}; write it so"
        (queue,) = Topology.parse(text).queues
        assert queue.queue_arguments == {"x-max-length": number}

    @pytest.mark.parametrize(
        ("written", "meant"),
        [("'true'", True), ("'Yes'", True), ("1", True), ("0", False)],
    )
    def test_a_truth_as_amqp_dispatcher_took_it(
        self, written: str, meant: bool
    ) -> None:
        """Text was true, and numbers counted."""
        assert queue(f"auto_delete: {written}").auto_delete is meant
        assert not problems(f"queues: [{{queue: q, auto_delete: {written}}}]")

    def test_a_huge_number_is_none(self) -> None:
        """Python would not even write it."""
        text = f"queues: [{{queue: q, x_max_length: 0x{'f' * 5000}}}]"
        assert any("a huge number is too large" in str(each) for each in problems(text))

    @pytest.mark.parametrize("key", ["x_max_length", "x_max_length_bytes"])
    def test_a_limit_of_0_is_none_no_more(self, key: str) -> None:
        """It meant no limit, and drops everything."""
        said = warning(f"queues: [{{queue: q, {key}: 0}}]")
        assert "0: every message is dropped; amqp-dispatcher took 0 for no" in said

    def test_a_queue_that_is_there_twice_has_all_bindings(self) -> None:
        """The broker takes the same declaration twice."""
        text = """
queues:
- {queue: q, x_max_length: 5, bindings: [{exchange: a}, {exchange: b}]}
- {queue: p}
- {queue: q, x_max_length: 5, bindings: [{exchange: b}, {exchange: c}]}
"""
        assert warning(text) == (
            "queues[2].queue (line 5): 'q' is queues[0] too; its bindings are added"
        )
        q, p = Topology.parse(text).queues
        assert [each for each, _ in bindings(q)] == ["a", "b", "c"]
        assert p.name == "p"

    def test_twelve_unknown_keys_and_two_anchors(self) -> None:
        """Homes of anchors, versions, remarks: amqp-dispatcher left them out."""
        text = """\
version: 3
description: what we run
x-queue: &queue
  durable: true
x-consumer: &consumer
  prefetch_count: 5
owner: {team: a}
queues:
- <<: *queue
  queue: q
  team: a
  arguments: {x: 1}
  x-max-length: 5
  x_ha_policy: all
  bindings:
  - {exchange: amq.direct, routing_key: a, comment: b}
consumers:
- <<: *consumer
  consumer: a:B
  queue: q
  concurrency: 3
  2: two
"""
        found = Topology.parse(text)
        # A key that is no text has the line of its entry.
        lines = [1, 2, 3, 5, 7, 11, 12, 13, 14, 16, 18, 21]
        assert [problem.line for problem in found.warnings] == lines
        assert not any(problem.fatal for problem in found.warnings)
        assert all("left out" in problem.text for problem in found.warnings)
        assert found.consumers[0].prefetch_count == 5
        assert found.queues[0].durable

    @pytest.mark.parametrize("value", ["2001-01-01", "!!set {a}", "[!!set {a}]"])
    def test_arguments_that_amqp_cannot_send(self, value: str) -> None:
        """What py-amqp could not encode is found before anything is declared."""
        text = f"exchanges: [{{exchange: e, arguments: {{a: {value}}}}}]"

        assert "exchanges[0].arguments (line 1): " in mistake(text)

    @pytest.mark.parametrize(
        "arguments",
        ["{1: 2}", "{a: {1: 2}}", "{a: 9223372036854775808}", "{a: &a [*a]}"],
    )
    def test_arguments_that_no_table_can_hold(self, arguments: str) -> None:
        """Keys are text, numbers have 64 bits, and nothing contains itself."""
        text = f"exchanges: [{{exchange: e, arguments: {arguments}}}]"

        assert "exchanges[0].arguments" in mistake(text)

    def test_a_table_fits_into_a_frame(self) -> None:
        """RabbitMQ ends the connection over a method of more than 131,072 bytes."""
        text = "exchanges: [{exchange: e, arguments: {a: %s}}]"

        assert Topology.parse(text % ("x" * 65_000))
        assert "is too large" in mistake(text % ("x" * 66_000))

    def test_aliases_do_not_make_it_too_deep(self) -> None:
        """A flat file can say what is thousands of levels deep."""
        lists = ["a0: &a0 [x]"]
        lists += [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 3000)]
        lists += ["exchanges: [{exchange: e, arguments: {a: *a2999}}]"]
        merges = ["a0: &a0 {x: 1}"]
        merges += [f"a{n}: &a{n} {{<<: *a{n - 1}}}" for n in range(1, 3000)]
        merges += ["<<: *a2999"]

        assert any("is too large" in each.text for each in problems("\n".join(lists)))
        assert "nested too deep" in mistake("\n".join(merges))

    def test_a_name_of_255_bytes_is_good(self) -> None:
        """The limit itself is allowed."""
        name = "q" * 255
        assert Topology.parse(f"queues: [{{queue: {name}}}]").queue(name)

    def test_warnings_are_listed_with_the_mistakes(self) -> None:
        """One sees all that there is to see at once, and which is which."""
        with pytest.raises(TopologyError) as caught:
            Topology.parse("queues:\n- {queue: a, x_message_ttl: 1}\n- {queue: a}")

        header, warning, fatal = str(caught.value).splitlines()
        assert header == "<string>: 1 mistake, 1 warning"
        assert warning.startswith("warning: queues[0].x_message_ttl (line 2): ")
        assert fatal.startswith("queues[1].queue (line 3): ")

    def test_the_error_survives_pickling(self) -> None:
        """It may come from a child process."""
        with pytest.raises(TopologyError) as caught:
            Topology.parse("queues: 3")
        again = pickle.loads(pickle.dumps(caught.value))

        assert str(again) == str(caught.value)
        assert isinstance(again, ValueError)

    def test_what_is_shown_stays_short(self) -> None:
        """Aliases that multiply to a billion values give a line, not a full disk."""
        levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        for n in range(1, 9):
            levels.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]")
        text = "\n".join([*levels, "queues: [{queue: *a8}]"])

        assert all(len(str(problem)) < 300 for problem in problems(text))


class TestWarnings:
    """What RabbitMQ loses messages by, or a newer one denies: told, not refused."""

    @pytest.mark.parametrize(
        ("text", "path", "said"),
        [
            (
                "{exchanges: [{exchange: dlx}],"
                " queues: [{queue: q, x_dead_letter_exchange: dlx}]}",
                "queues[0].x_dead_letter_exchange",
                "no queue of this file is bound to 'dlx'",
            ),
            (
                "queues: [{queue: q, x_dead_letter_exchange: dlx}]",
                "queues[0].x_dead_letter_exchange",
                "'dlx' is not declared in this file",
            ),
            (
                "queues: [{queue: q, x_dead_letter_exchange: '',"
                " x_dead_letter_routing_key: p}]",
                "queues[0].x_dead_letter_routing_key",
                "'p' is no queue of this file",
            ),
            (
                "queues: [{queue: q, x_message_ttl: 1}]",
                "queues[0].x_message_ttl",
                "expired messages are discarded",
            ),
            (
                "queues: [{queue: q, x_dead_letter_routing_key: q}]",
                "queues[0].x_dead_letter_routing_key",
                "has no x_dead_letter_exchange",
            ),
            (
                "queues: [{queue: q, x_queue_type: quorum, x_dead_letter_exchange: '',"
                " x_dead_letter_strategy: at-least-once}]",
                "queues[0].x_dead_letter_strategy",
                "needs x_queue_type: quorum and x_overflow: reject-publish",
            ),
            (
                "queues: [{queue: q, x_overflow: reject-publish,"
                " x_dead_letter_exchange: '', x_dead_letter_strategy: at-least-once}]",
                "queues[0].x_dead_letter_strategy",
                "needs x_queue_type: quorum and x_overflow: reject-publish",
            ),
            (
                "queues: [{queue: q, x_queue_master_locator: client-local}]",
                "queues[0].x_queue_master_locator",
                "RabbitMQ 4.3 denies it (queue_master_locator)",
            ),
            (
                "queues: [{queue: q, durable: false, auto_delete: true}]",
                "queues[0].durable",
                "(transient_nonexcl_queues)",
            ),
            (
                "queues: [{queue: q, x_queue_version: 1}]",
                "queues[0].x_queue_version",
                "RabbitMQ 4.3 refuses it",
            ),
        ],
    )
    def test_what_loses_messages(self, text: str, path: str, said: str) -> None:
        """It loads, with a warning that names the key and what will happen."""
        (warning,) = Topology.parse(text).warnings

        assert (warning.path, warning.line, warning.fatal) == (path, 1, False)
        assert said in warning.text

    @pytest.mark.parametrize(
        "text",
        [
            "{exchanges: [{exchange: dlx}], queues: [{queue: q, x_message_ttl: 1,"
            " x_dead_letter_exchange: dlx}, {queue: p, bindings: [{exchange: dlx}]}]}",
            "{exchanges: [{exchange: dlx, passive: true}],"
            " queues: [{queue: q, x_dead_letter_exchange: dlx}]}",
            "queues: [{queue: q, x_dead_letter_exchange: amq.fanout}]",
            "queues: [{queue: q, x_dead_letter_exchange: '',"
            " x_dead_letter_routing_key: q}]",
            "queues: [{queue: q, x_queue_type: quorum, x_overflow: reject-publish,"
            " x_dead_letter_exchange: '', x_dead_letter_strategy: at-least-once}]",
        ],
    )
    def test_what_loses_none(self, text: str) -> None:
        """Dead letters that arrive somewhere, or may well do, give no warning."""
        assert Topology.parse(text).warnings == ()

    def test_a_misspelt_key_is_not_reported_as_missing_too(self) -> None:
        """One slip gives one finding."""
        text = "queues: [{queue: q, x_message_ttl: 1, x_dead_leter_exchange: ''}]"

        assert "did you mean x_dead_letter_exchange?" in warning(text)


class TestUnreadableFiles:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "is empty; it should list queues:"),
            ("# only a comment\n", "is empty; it should list queues:"),
            ("queues: [", "bad YAML: "),
            ("queues:\n\t- queue: q", "bad YAML: "),
            ("queues: *nothing", "bad YAML: found undefined alias"),
            ("--- {}\n--- {}", "bad YAML: "),
            ("{[1]: 2}", "bad YAML: "),
            ("[1, 2]", "line 1: [1, 2] is a list, not a mapping (key: value)"),
            ("hello", "line 1: 'hello' is text, not a mapping (key: value)"),
            ("42", "line 1: 42 is a number, not a mapping (key: value)"),
            ("null", "line 1: null is nothing, not a mapping (key: value)"),
            ("{}", "declares nothing; it should list queues:"),
            ("queues: []", "declares nothing; it should list queues:"),
            ("startup_handler: a:b", "declares nothing; it should list queues:"),
            (
                "queues:\n- queue: 2001-99-99",
                "line 2: bad YAML: '2001-99-99' is no time",
            ),
            ("queues: !!int x", "line 1: bad YAML: 'x' is no int"),
            ("queues: !!bool x", "line 1: bad YAML: 'x' is no bool"),
            ("queues: !!timestamp x", "'x' is no timestamp; text goes in quotes"),
            (
                "queues: !!python/object:os.system x",
                "is not for this file; write plain",
            ),
            ("queues: !!python/name:os.system", "is not for this file; write plain"),
            ("queues: !mine x", "the tag !mine is not for this file"),
            ("queues: " + "[" * 200 + "]" * 200, "nested more than 50 levels deep"),
            ("[" * 100_000, "nested more than 50 levels deep"),
            ("- " * 100_000, "nested more than 50 levels deep"),
            ("? " * 100_000, "nested more than 50 levels deep"),
            ("{a: " * 100_000, "nested more than 50 levels deep"),
            ("queues: " + "9" * 5000, "bad YAML: '99999"),
            ("\ud800", "not readable as YAML"),
            (b"\x00\x01\x02", "not readable as YAML: unacceptable character"),
            (b"\x7fELF\x02\x01\x01\x00", "not readable as YAML: "),
            (b"\x89PNG\r\n\x1a\n\x00", "not readable as YAML: "),
            (b"queues: \xff\xfe", "not readable as YAML: "),
        ],
    )
    def test_each_gives_one_clear_mistake(self, text: str | bytes, said: str) -> None:
        """Never a traceback of another kind, and never a crash of the interpreter."""
        assert said in mistake(text)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        """The message has the path and the system's own words."""
        with pytest.raises(TopologyError) as caught:
            Topology.load(tmp_path / "none.yml")

        assert str(caught.value) == (
            f"{tmp_path}/none.yml: 1 mistake\ncannot be read: No such file or directory"
        )

    @pytest.mark.parametrize(
        ("path", "said"),
        [
            ("/", "cannot be read: Is a directory"),
            ("/proc/self/mem", "cannot be read: "),
            ("a\0b", "cannot be read: embedded null byte"),
        ],
    )
    def test_a_file_that_cannot_be_read(self, path: str, said: str) -> None:
        """A folder, a file that gives an error, a path that is none."""
        with pytest.raises(TopologyError, match=said):
            Topology.load(path)

    def test_utf_16_is_read(self) -> None:
        """Windows editors write it, with a byte order mark; YAML 1.1 allows it."""
        text = "queues: [{queue: ünïcode}]".encode("utf-16")

        assert Topology.parse(text).queue("ünïcode")

    @given(st.text() | st.binary())
    @example("queues: [{queue: 1}]")
    def test_any_text_loads_or_is_a_topology_error(self, text: str | bytes) -> None:
        """Nothing but a TopologyError comes out, whatever goes in."""
        problems(text)

    @given(files | values)
    @example({"\r": None, "a\nb": {}})
    def test_any_values_load_or_are_a_topology_error(self, value: object) -> None:
        """What YAML can say but a topology cannot is told in lines, one each."""
        found = problems(yaml.safe_dump(value, allow_unicode=True))

        assert all(len(str(problem).splitlines()) == 1 for problem in found)

    @given(indented)
    @example("queues: &a [*a]")
    @example("&a {queues: *a, exchanges: *a}")
    @example("queues: [&a {queue: q, bindings: [*a]}]")
    @example("queues: [&a {<<: *a}]")
    @example("&a {<<: *a}")
    def test_anchors_and_aliases_load_or_are_a_topology_error(self, text: str) -> None:
        """Not even a file that contains itself keeps us."""
        problems(text)


def refusal(text: str, kind: str = "queue") -> str:
    return str(Refusal(kind, "q", 406, f"PRECONDITION_FAILED - {text}"))


class TestRefusals:
    """What a broker's words become."""

    @pytest.mark.parametrize(
        ("argument", "values", "line"),
        [
            (
                "x-message-ttl",
                "received the value '100' of type 'signedint' but current is none",
                "x_message_ttl is 100 in the file, but not set at the broker",
            ),
            (
                "x-message-ttl",
                "received none but current is the value '10' of type 'signedint'",
                "x_message_ttl is not set in the file, but 10 at the broker",
            ),
            (
                "x-message-ttl",
                "received '1' but current is '2'",
                "x_message_ttl is 1 in the file, but 2 at the broker",
            ),
            (
                "auto_delete",
                "received 'true' but current is 'false'",
                "auto_delete is true in the file, but false at the broker",
            ),
            (
                "x-dead-letter-exchange",
                "received '' but current is 'it's'",
                'x_dead_letter_exchange is "" in the file, but it\'s at the broker',
            ),
            (
                "x-max-length",
                "received the va",
                "x_max_length is not the same in the file and at the broker",
            ),
        ],
    )
    def test_an_argument_that_differs(
        self, argument: str, values: str, line: str
    ) -> None:
        """Queue, argument, both values (where they are not cut off), the way out."""
        said = refusal(
            f"inequivalent arg '{argument}' for queue 'q' in vhost '/': {values}"
        )
        assert said == (
            f"queue q: {line}; change the file,"
            " or delete the queue at the broker once it is empty"
        )

    def test_an_argument_that_rabbitmq_does_not_take(self) -> None:
        """What cannot be taken apart is passed on in RabbitMQ's words."""
        text = "invalid arg 'x-max-age' for queue 'q' in vhost '/': invalid_max_age"

        assert refusal(text) == f"queue q: the broker says: {text}; change the file"

    def test_an_exchange_is_not_emptied(self) -> None:
        """An exchange holds no messages; what goes with it are its bindings."""
        text = (
            "inequivalent arg 'alternate-exchange' for exchange 'q' in vhost '/':"
            " received 'a' but current is 'b'"
        )
        assert refusal(text, "exchange") == (
            "exchange q: alternate-exchange is a in the file, but b at the broker;"
            " change the file, or delete the exchange at the broker with its bindings"
        )

    @pytest.mark.parametrize(
        ("kind", "code", "way_out"),
        [
            ("queue", 403, "give the user the right to configure it"),
            ("binding", 403, "the user needs to write to the queue and to read from"),
            ("queue", 405, "end the connection that has it"),
            ("binding", 404, "declare it in the file, or make it at the broker first"),
        ],
    )
    def test_others_have_the_brokers_words_and_a_way_out(
        self, kind: str, code: int, way_out: str
    ) -> None:
        """In one line."""
        line = str(Refusal(kind, "q", code, "NO - because"))

        assert line.startswith(f"{kind} q: the broker says: because; {way_out}")
        assert "\n" not in line


class TestVirtualTransports:
    """kombu's stand-ins for a broker, which know no queue arguments."""

    @pytest.fixture(params=["memory", "filesystem"])
    def connection(self, request: pytest.FixtureRequest, tmp_path: Path) -> object:
        """Return a connection to a broker with nothing on it."""
        kombu.Connection("memory://").transport.global_state.clear()
        kombu.Connection("filesystem://").transport.global_state.clear()
        folder = str(tmp_path)
        folders = ("data_folder_in", "data_folder_out", "control_folder")
        options = dict.fromkeys(folders, folder) if request.param != "memory" else {}
        with kombu.Connection(
            f"{request.param}://", transport_options=options
        ) as connection:
            yield connection

    def test_the_default_topology_works_there(
        self, connection: kombu.Connection
    ) -> None:
        """A report published to the exchange is in the queue, as with RabbitMQ."""
        topology = Topology.load()
        assert topology.declare(connection.channel) == []
        assert topology.declare(connection.channel) == []

        connection.Producer().publish({"a": 1}, exchange="oopses", routing_key="")

        message = topology.queue("oopses")(connection).get()
        assert message.payload == {"a": 1}

    def test_what_is_missing_is_refused(self, connection: kombu.Connection) -> None:
        """To bind to an exchange that nobody declared is a refusal, no KeyError."""
        topology = Topology.parse("""
exchanges: [{exchange: passive, passive: true}]
queues:
  - {queue: q, bindings: [{exchange: missing}, {exchange: missing, routing_key: k}]}
""")
        refusals = topology.declare(connection.channel)

        assert [(each.kind, each.name, each.code) for each in refusals] == [
            ("exchange", "passive", 404),
            ("binding", "missing -> q", 404),
            ("binding", "missing -> q (k)", 404),
        ]

    def test_an_exchange_of_another_type_is_refused(
        self, connection: kombu.Connection
    ) -> None:
        """There, kombu has an exception of its own for it."""
        for kind in ("fanout", "direct"):
            topology = Topology.parse(f"exchanges: [{{exchange: e, type: {kind}}}]")
            refusals = topology.declare(connection.channel)

        assert [(each.name, each.code) for each in refusals] == [("e", 406)]

    def test_celerys_default_exchange_is_not_declared(
        self, connection: kombu.Connection
    ) -> None:
        """Celery gives it to each queue that has no exchange; it goes no further."""
        made = queue("bindings: []")
        Queues([made], default_exchange=kombu.Exchange("celery", "direct"))
        assert made.exchange.name == "celery"

        made.declare(channel=connection.channel())
        made(connection).declare()

        state = connection.transport.global_state
        assert list(state.exchanges) == []
        assert list(state.bindings) == []
        assert made == queue("")
