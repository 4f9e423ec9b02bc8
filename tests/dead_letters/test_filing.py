"""A dead letter in the database is the message as it came, whatever that was."""

from __future__ import annotations

from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import bson
import pytest
from amqp.serialization import dumps, loads
from hypothesis import given
from hypothesis import strategies as st

from oops_celery.dead_letters import park
from oops_celery.dead_letters.filing import (
    Filing,
    content_of,
    envelope_of,
    row_of,
)
from oops_celery.dead_letters.letter import Content, read_letter
from oops_celery.dead_letters.letters import Choice, Letters
from oops_celery.repository.store import Repository, stored_together

TIMES = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)).map(
    lambda time: time.replace(microsecond=0)
)
#: What py-amqp reads in a message's headers.
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | TIMES
    | st.decimals(-1000, 1000, places=2)
)
NAMES = st.text(max_size=40)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4)
    ),
    max_leaves=8,
)
HEADERS = st.dictionaries(NAMES, VALUES, max_size=6)


@given(HEADERS, st.binary(max_size=300))
def test_an_envelope_keeps_headers_and_properties(
    headers: dict[str, Any], body: bytes
) -> None:
    (headers,), _ = loads("F", dumps("F", [headers]), 0)  # as they come
    properties = {
        "content_type": "application/bson",
        "delivery_mode": 2,
        "priority": 3,
        "timestamp": datetime(2026, 5, 1),
        "message_id": "é\0",
        "headers": headers,
        "application_headers": headers,
    }
    content = Content(body, headers, properties)
    again = content_of(body, envelope_of(content))
    assert again.headers == headers
    assert again.body == body
    del properties["headers"], properties["application_headers"]
    assert again.properties == properties


@given(HEADERS, st.binary(max_size=300), st.booleans())
def test_any_message_is_a_row(headers: dict[str, Any], body: bytes, ours: bool) -> None:
    if ours:  # the names that are read, with any values
        names = [
            park.REASON,
            park.ATTEMPTS,
            park.PARKED_AT,
            park.QUEUE,
            "id",
            "x-death",
        ]
        headers = dict(zip(names, headers.values(), strict=False))
    content = Content(body, headers, {"correlation_id": "c"})
    row = row_of(read_letter(content, "dead"), content)
    texts = [one for one in row.values() if isinstance(one, str)]
    assert all(text.encode() is not None and "\0" not in text for text in texts)
    assert row["attempts"] is None or abs(row["attempts"]) < 2**63


def test_odd_messages_are_filed(database: str) -> None:
    contents = [
        Content(b"", {}, {}),
        Content(b"\0" * 300_000, {"a\0b": "\0", "big": 2**62}, {}),
        Content(b"\xff", {park.REASON: "a\0\ud800b", "id": "x" * 1000}, {}),
        Content(
            bson.encode(
                {"id": "OOPS-é\0", "type": "E\0", "time": datetime(9999, 1, 1)}
            ),
            {"n": Decimal("1.25"), park.ATTEMPTS: True},
            {"timestamp": datetime(2026, 1, 1)},
        ),
        Content(bson.encode({"id": 5, "time": "never"}), {park.PARKED_AT: "no"}, {}),
        Content(
            b"x", {"x-death": [{"reason": "expired", "queue": "q", "time": 5}]}, {}
        ),
    ]
    filing = Filing(Repository(database))
    for content in contents:
        filing.file(content, "dead")
    with Letters(database) as letters:
        found = letters.choose(Choice())
        assert [one.number for one in found] == [1, 2, 3, 4, 5, 6]
        both = list(letters.contents(found))
    assert [content for _, content in both] == contents
    assert found[2].reason == "a\\x00\\ud800b"
    assert found[3].time == datetime(9999, 1, 1, tzinfo=timezone.utc)
    assert found[5].reason == "dead-lettered by RabbitMQ: expired"
    assert found[5].came_from == "q"


@pytest.mark.parametrize("name", [park.PARKED_AT, "correlation_id", "message_id"])
def test_the_same_message_again_is_filed_once(database: str, name: str) -> None:
    filing = Filing(Repository(database))

    def content(value: str, body: bytes = b"order") -> Content:
        is_header = name == park.PARKED_AT
        return Content(
            body, {name: value} if is_header else {}, {} if is_header else {name: value}
        )

    for _ in range(2):
        with stored_together() as batch:
            filing.file(content("1"), "dead")
            filing.file(content("1"), "dead")
            filing.file(content("1"), "other.dead")  # a copy in another queue
            filing.file(content("2"), "dead")
            filing.file(content("1", b"other"), "dead")
        batch.store()
    with Letters(database) as letters:
        assert letters.counts() == {"dead": 3, "other.dead": 1}


def test_messages_that_nothing_tells_apart_are_all_filed(database: str) -> None:
    filing = Filing(Repository(database))
    for _ in range(3):
        filing.file(Content(b"order", {"a": 1}, {"type": "new"}), "dead")
    with Letters(database) as letters:
        assert letters.counts() == {"dead": 3}


def test_a_number_is_never_given_again(database: str) -> None:
    filing = Filing(Repository(database))
    for number in range(3):
        filing.file(Content(b"order", {"id": f"{number}"}, {}), "dead")
        with Letters(database) as letters:
            found = letters.choose(Choice())
            assert [one.number for one in found] == [number + 1]
            assert letters.remove(found) == found
            assert letters.remove(found) == []
