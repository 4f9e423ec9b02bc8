"""What a report looks like on the wire. No broker."""

from __future__ import annotations

import copy
import datetime
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from hashlib import md5
from typing import Any

import kombu.serialization
import pytest
from bson import codec_options
from hypothesis import given
from hypothesis import strategies as st
from oops_amqp import anybson

from oops_celery import wire
from tests.support.reports import (
    STRANGE,
    bson_values,
    reports,
)


def as_oops_amqp(report: dict, inherit_id: bool = False) -> tuple[str, bytes]:
    """What oops_amqp.Publisher makes of a report (its lines, without the sending)."""
    report = dict(report)
    if not inherit_id or not report.get("id"):
        report.pop("id", None)
        report["id"] = f"OOPS-{md5(anybson.dumps(report)).hexdigest()}"
    return report["id"], anybson.dumps(report)


def test_the_id_of_a_known_report() -> None:
    assert wire.encode({"k": 1}).id == "OOPS-f9082d518031065d1e948548a66a4a05"


@given(report=reports, own_id=st.none() | st.just("") | st.text(alphabet="OPS-123"))
def test_id_and_bytes_are_those_of_oops_amqp(report: dict, own_id: str | None) -> None:
    """Either side can be exchanged for the old one."""
    if own_id is not None:
        report = {"a": 1, "id": own_id, **report}
    for inherit_id in (False, True):
        expected_id, expected_body = as_oops_amqp(report, inherit_id)
        encoded = wire.encode(report, inherit_id)
        assert encoded.body == expected_body
        assert encoded.id == expected_id
        assert encoded.task_id == expected_id


@given(report=reports)
def test_a_report_comes_back_as_it_was(report: dict) -> None:
    encoded = wire.encode(report)
    back = wire.decode(encoded.body)
    assert back.pop("id") == encoded.id
    # BSON holds milliseconds; encoding again compares just what it holds.
    assert wire.encode(back).body == encoded.body


@pytest.mark.parametrize("name", STRANGE)
def test_what_bson_cannot_hold_goes_out_as_text(name: str) -> None:
    """An error report is never lost because of what is in it."""
    report = {"type": "ValueError", **STRANGE[name], "last": "kept"}
    before = list(report.items())
    encoded = wire.encode(report)
    assert re.fullmatch("OOPS-[0-9a-f]{32}", encoded.id)
    back = wire.decode(encoded.body)
    assert back["type"] == "ValueError"
    assert back["last"] == "kept"
    assert back["id"] == encoded.id
    assert all(a is b for pair in zip(before, report.items()) for a, b in zip(*pair))


def test_only_the_value_that_bson_cannot_hold_is_replaced() -> None:
    moment = datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)
    report = {"n": 1, "t": moment, "b": b"\x00\xff", "l": [1.5, {2}, {"s": {3}}]}
    back = wire.decode(wire.encode(report).body)
    assert back["n"] == 1
    assert back["t"] == moment
    assert back["b"] == b"\x00\xff"
    assert back["l"] == [1.5, "{2}", {"s": "{3}"}]


def test_keys_that_become_the_same_text_are_all_kept() -> None:
    back = wire.decode(wire.encode({"v": {1: "int", "1": "str", "x": {9}}}).body)
    assert sorted(back["v"].values()) == ["int", "str", "{9}"]


def test_a_report_in_the_callers_hands_is_unchanged() -> None:
    report = {"id": "mine", "req_vars": {"a": "b"}, "v": {1: {2}}}
    before = copy.deepcopy(report)
    wire.encode(report)
    wire.encode(report, inherit_id=True)
    assert report == before


def test_an_id_that_amqp_cannot_carry_stays_in_the_report() -> None:
    long_id = "OOPS-" + "x" * 300
    encoded = wire.encode({"id": long_id}, inherit_id=True)
    assert encoded.id == long_id
    assert len(encoded.task_id) <= wire.MAX_TASK_ID
    assert wire.decode(encoded.body)["id"] == long_id


whole = wire.encode({"type": "ValueError", "req_vars": {"a": "b"}}).body


@pytest.mark.parametrize(
    "body",
    [b"", b"garbage", b"\xff\xff\xff\x7f\x00", whole[:-1], whole[:20], whole + b"\0"]
    + [b"\x05\x00\x00\x00\x01", b"\x08\x00\x00\x00\x01a\x00\x00", pickle.dumps({})],
)
def test_a_body_that_is_no_report_is_undecodable(body: bytes) -> None:
    with pytest.raises(wire.Undecodable, match="not a BSON document"):
        wire.decode(body)


@given(st.binary(max_size=200))
def test_no_bytes_give_another_error(body: bytes) -> None:
    try:
        wire.decode(body)
    except wire.Undecodable:
        pass


@given(st.integers(0, len(whole) - 1), st.integers(0, 255))
def test_a_flipped_byte_gives_no_other_error(place: int, value: int) -> None:
    try:
        wire.decode(whole[:place] + bytes([value]) + whole[place + 1 :])
    except wire.Undecodable:
        pass


@given(report=reports, more=st.dictionaries(st.sampled_from(["type", "id"]), st.text()))
def test_a_peek_finds_what_decoding_finds(report: dict, more: dict) -> None:
    body = anybson.dumps({**report, **more})
    names = ("type", "id", *report)
    expected = {
        name: value
        for name, value in wire.decode(body).items()
        if name in names and isinstance(value, str)
    }
    assert wire.peek(body, names) == expected


@given(st.integers(0, len(whole) - 1), st.integers(0, 255))
def test_a_peek_at_broken_bytes_gives_no_other_error(place: int, value: int) -> None:
    try:
        wire.peek(whole[:place] + bytes([value]) + whole[place + 1 :], ("type",))
    except wire.Undecodable:
        pass


def test_a_peek_knows_every_type_of_bson() -> None:
    """All that PyMongo can write is walked over, to the element behind it."""
    import bson

    every = {
        "double": 1.5,
        "string": "s",
        "document": {"a": {}},
        "array": [1, "x"],
        "binary": b"abc",
        "object id": bson.ObjectId(),
        "bool": True,
        "date": datetime.datetime(2026, 1, 1),
        "null": None,
        "regex": re.compile("a+b", re.I),
        "pointer": bson.DBRef("c", 5),
        "code": bson.Code("f()"),
        "scope": bson.Code("f()", {"x": 1}),
        "int32": 5,
        "timestamp": bson.timestamp.Timestamp(1, 2),
        "int64": 2**40,
        "decimal": bson.decimal128.Decimal128("1.5"),
        "min": bson.min_key.MinKey(),
        "max": bson.max_key.MaxKey(),
        "id": "found",
    }
    assert wire.peek(bson.encode(every), ("id",)) == {"id": "found"}


@pytest.mark.parametrize("year", [1, 1969, 2026, 9999])
def test_a_peek_at_a_time(year: int) -> None:
    time = datetime.datetime(year, 2, 3, 4, 5, 6, 789000, datetime.timezone.utc)
    body = wire.encode({"a": {"time": 5}, "time": time}).body
    assert wire.peek_time(body, "time") == time
    assert wire.peek_time(body, "a") is wire.peek_time(body, "gone") is None


@pytest.mark.skipif(
    not hasattr(codec_options, "DatetimeConversion"), reason="PyMongo before 4.3"
)
def test_a_peek_at_a_time_that_no_calendar_has() -> None:
    body = b"\x13\0\0\0\x09time\0" + b"\xff" * 7 + b"\x7f\0"
    assert wire.decode(body)
    assert wire.peek_time(body, "time") is None


def test_the_serializer_never_parses() -> None:
    """Celery decodes in the main process too: that must cost nothing and never fail."""
    for body in (b"garbage", whole):
        loaded = kombu.serialization.loads(
            body, wire.CONTENT_TYPE, wire.CONTENT_ENCODING, accept=[wire.CONTENT_TYPE]
        )
        assert loaded == ((body,), {}, {})
        content_type, encoding, data = kombu.serialization.dumps(
            loaded, serializer="oops"
        )
        assert (content_type, encoding) == ("application/bson", "binary")
        assert data is loaded[0][0]


def test_the_summary_tells_type_topic_and_reporter_only() -> None:
    report = {
        "type": "ValueError",
        "value": "secret",
        "topic": "checkout?password=secret",
        "reporter": "shop",
        "req_vars": {"password": "secret"},
        "tb_text": "secret",
        "url": "https://example/?secret",
    }
    assert wire.summary(report) == "(ValueError, topic=checkout, reporter=shop)"


@pytest.mark.parametrize("size", [1, 100])
def test_the_summary_has_no_password_of_a_url(size: int) -> None:
    """Nor a part of it, where the URL is longer than what is shown."""
    report = {"topic": f"https://user:{'s3cr3t' * size}@host/path?a=b"}
    assert wire.summary(report) == "(topic=https://**@host/path)"


class NoTruth:
    """As a NumPy array: neither true nor false."""

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")


def test_a_topic_that_is_no_text_is_left_out() -> None:
    assert wire.summary({"type": "E", "topic": NoTruth(), "reporter": 5}) == "(E)"


@given(st.dictionaries(st.sampled_from(["type", "topic", "reporter"]), bson_values))
def test_a_summary_is_short_and_printable(report: dict) -> None:
    text = wire.summary(report)
    assert text.isprintable()
    assert len(text) < 300


@pytest.mark.slow
def test_the_pure_python_bson_package_does_as_well(tmp_path) -> None:
    """Either library is found, used, and gives the same id for plain reports."""
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--target", tmp_path, "bson"]
        + ["--disable-pip-version-check"],
        check=True,
    )
    program = (
        "from oops_celery import wire; e = wire.encode({'k': 1, 's': {'x': {2}}});"
        "print(wire.BSON_LIBRARY, wire.decode(e.body)['s'], e.id);"
        "print(wire.encode({'k': 1}).id)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("bson {'x': '{2}'} OOPS-")
    assert done.stdout.endswith("\nOOPS-f9082d518031065d1e948548a66a4a05\n")


class Evasive:
    """As Django's request.user is while its database is down: not even to be asked."""

    @property
    def __class__(self) -> type:
        raise OSError("database is down")


class Text(str):
    """A text that runs code of its own."""

    def encode(self, *_: object) -> bytes:
        raise ValueError("no")


class Ending:
    def __str__(self) -> str:
        raise SystemExit


class Undecided(int):
    def __bool__(self) -> bool:
        raise ValueError("neither")


def test_a_value_that_cannot_be_asked_is_replaced_alone() -> None:
    user = Evasive()
    report = {"user": user, "req_vars": {"user": user, "path": "/x"}}
    decoded = wire.decode(wire.encode(report).body)
    assert decoded["user"].startswith("<")
    assert "Evasive" in decoded["user"]
    assert decoded["req_vars"] == {"user": decoded["user"], "path": "/x"}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Text("a\ud800"),
        Ending,
        lambda: [Ending()],
        lambda: {Evasive(): 1},
        lambda: {"a": [Evasive()]},
    ],
)
def test_whatever_a_value_does_there_is_an_id(make: Callable[[], Any]) -> None:
    encoded = wire.encode({"value": make(), "type": make()})
    assert wire.decode(encoded.body)["id"] == encoded.id
    wire.summary({"type": make()})


@pytest.mark.parametrize(
    "make",
    [
        lambda: 5,
        lambda: "a\ud800b",
        lambda: Undecided(7),
        Evasive,
        lambda: b"x",
        lambda: [1],
    ],
)
def test_the_id_that_is_returned_is_the_one_that_is_kept(
    make: Callable[[], Any],
) -> None:
    encoded = wire.encode({"id": make(), "k": 1}, inherit_id=True)
    assert wire.decode(encoded.body)["id"] == encoded.id


def test_keys_that_become_one_are_all_kept() -> None:
    report = {"d": {1: "a", "1": "b", "1 (str)": "c", "1 (int)": "d"}}
    values = wire.decode(wire.encode(report).body)["d"].values()
    assert sorted(values) == ["a", "b", "c", "d"]
