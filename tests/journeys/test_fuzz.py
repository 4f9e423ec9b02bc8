"""Reports, YAML and settings that nobody would write: answered, and in time. No broker.

What is asked of plain reports, values and URLs stands in test_wire, test_topology and
test_settings.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from hashlib import md5
from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from oops_amqp import anybson

from oops_celery import wire
from oops_celery.broker_url import hide_password
from oops_celery.errors import SettingsError, TopologyError
from oops_celery.settings import broker, load, parse_rabbitmq_url
from oops_celery.topology.document import references
from oops_celery.topology.model import Topology
from tests.support import PACKAGED, fuzzing
from tests.support.dispatching import DISPATCHER
from tests.support.reports import STRANGE, Unprintable, bson_values

# -- The wire -------------------------------------------------------------------------

#: Values that Python has and BSON has not, among those that it has.
anything = st.recursive(
    bson_values
    | st.floats()
    | st.integers()
    | st.complex_numbers()
    | st.text(st.characters())
    | st.frozensets(st.integers(), max_size=2)
    | st.builds(Unprintable)
    | st.sampled_from(sorted(STRANGE)).map(lambda name: [*STRANGE[name].values()]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.none(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text() | st.integers(), anything, max_size=4))
def test_any_report_goes_out_and_comes_back(report: dict[Any, Any]) -> None:
    encoded = wire.encode(report)
    back = wire.decode(encoded.body)
    assert len(back) == len({**report, "id": 0})
    assert back.pop("id") == encoded.id
    # As oops-amqp would have it of what came back: BSON without the id, hashed.
    assert encoded.id == f"OOPS-{md5(anybson.dumps(back)).hexdigest()}"
    assert wire.summary(report).isprintable()


@given(st.integers(0, 2**32))
def test_a_broken_body_is_undecodable_and_nothing_else(seed: int) -> None:
    """To whoever looks into it; and a peek sees whatever decoding would."""
    body = fuzzing.body(Random(seed))
    decoded = None
    with suppress(wire.Undecodable):
        decoded = wire.decode(body)
    names = ("id", "type", "topic", "reporter")
    if decoded is None:
        with suppress(wire.Undecodable):
            wire.peek(body, names)
        return
    texts = {
        name: decoded[name] for name in names if isinstance(decoded.get(name), str)
    }
    assert wire.peek(body, names) == texts
    assert wire.summary(decoded).isprintable()


# -- Topology files -------------------------------------------------------------------

FILES = [PACKAGED.read_text(), DISPATCHER]
PIECES = ["&a ", "*a", "<<: *a", "{", "}", "[", "- ", ": ", "!!int ", "? ", "|", "'"]
PIECES += ["\t", "\x85", "\x1b[2J", "null", "~", "1e999", "0o7", "2001-01-01", "\ud800"]

edits = st.lists(
    st.tuples(st.integers(0, 3000), st.integers(0, 9), st.sampled_from(PIECES)),
    min_size=1,
    max_size=6,
)


@given(text=st.sampled_from(FILES), edits=edits)
def test_a_file_with_slips_of_the_pen_is_a_topology_error(
    text: str, edits: list[tuple[int, int, str]]
) -> None:
    """Told in lines that may be printed to a terminal."""
    for place, length, piece in edits:
        place %= len(text)
        text = text[:place] + piece + text[place + length :]
    references(text)
    try:
        problems = Topology.parse(text).warnings
    except TopologyError as error:
        problems = error.problems
        assert problems
    for problem in problems:
        assert str(problem).isprintable()


def bomb(levels: int, what: str) -> str:
    lines = [f"a0: &a0 {what}"]
    for n in range(1, levels):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]")
    return "\n".join([*lines, f"queues: *a{levels - 1}"])


@pytest.mark.parametrize(
    "text",
    [
        bomb(30, "[x]"),
        bomb(30, "{queue: q}"),
        "a0: &a0 {k: v}\n"
        + "\n".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 60))
        + "\nqueues: [*a59]",
        "queues:\n" + "- {queue: q}\n" * 5000,
        "queues:\n- {queue: q, " + ", ".join(f"k{n}: {n}" for n in range(1000)) + "}",
        "queues: [{queue: " + "x" * 10**6 + "}]",
        "queues: [{queue: q, x_max_length: " + "9" * 4000 + "}]",
        "? " * 40 + "x",
    ],
    ids=[
        "lists",
        "mappings",
        "merges",
        "queues",
        "keys",
        "name",
        "number",
        "keys of keys",
    ],
)
def test_a_file_that_is_meant_to_keep_us_busy_does_not(text: str) -> None:
    started = time.process_time()
    try:
        problems = Topology.parse(text).warnings
    except TopologyError as error:
        problems = error.problems
    references(text)
    assert time.process_time() - started < 10
    assert problems
    assert all(len(str(problem)) < 1000 for problem in problems)


# -- Settings -------------------------------------------------------------------------

names = st.sampled_from(
    ["OOPS_TOPOLOGY", "OOPS_REPOSITORY", "OOPS_CONFIG", "OOPS_EXCHANGE", "OOPS_QUEUE"]
    + ["OOPS_ROUTING_KEY", "OOPS_MAX_RETRIES", "OOPS_PUBLISH_TIMEOUT", "OOPS_MAX_SIZE"]
    + ["OOPS_WORKER_CONCURRENCY", "OOPS_BROKER_HEARTBEAT", "OOPS_BROKER_USE_SSL"]
    + ["OOPS_NO_SUCH", "RABBITMQ_HEARTBEAT", "RABBITMQ_URL"]
)
texts = st.text() | st.integers().map(str) | st.floats().map(str) | st.just("9" * 5000)


@given(st.dictionaries(names, texts))
@example({"OOPS_MAX_RETRIES": "9" * 5000})
def test_no_environment_gives_another_error(environ: dict[str, str]) -> None:
    assert said(lambda: broker(load(environ).celery, environ)).isprintable()


def said(call: Callable[[], object]) -> str:
    """Return what a SettingsError says, if there is one."""
    try:
        call()
    except SettingsError as error:
        return str(error)
    return ""


#: What a password may have that means something in a URL.
around = st.text(alphabet="/?#@[]:%,&=. a5é", max_size=4)


@given(before=around, after=around, rest=st.sampled_from(["h", "h:x", "", "h/v?a=1"]))
@example(before="", after="", rest="")
@example(before="@x?", after="&", rest="h")
def test_a_password_is_in_no_error(before: str, after: str, rest: str) -> None:
    """Nor in what is shown of the URL, however it is broken."""
    for start in ("amqp://u:", "amqps://u:", "amqp:/u:", "amqp:u:", "http://u:", "u:"):
        for url in (f"{start}{before}s3cr3t{after}@{rest}", f"{start}s3cr3t{after}"):
            assert "s3cr3t" not in hide_password(url)
            error = said(partial(parse_rabbitmq_url, url))
            assert "s3cr3t" not in error
            assert error.isprintable()
