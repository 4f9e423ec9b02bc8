"""One bug is one group, wherever and however it shows; two bugs are two."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
from hypothesis import given

from oops_celery import wire
from oops_celery.repository.fingerprint import fingerprint, innermost
from tests.support.reports import STRANGE, reports

SITE = "/srv/venv/lib/python3.12/site-packages/django/core/handlers/base.py"
DIST = "/usr/lib/python3/dist-packages/requests/api.py"
STDLIB = "/usr/lib/python3.12/json/decoder.py"


def tb(*frames: tuple[str, str]) -> str:
    lines = [f'  File "{file}", line 3, in {name}\n    x()\n' for file, name in frames]
    return "Traceback (most recent call last):\n" + "".join(lines) + "E: x\n"


def report(**more: Any) -> dict[str, Any]:
    frames = tb((SITE, "get_response"), ("/srv/shop/views.py", "cart"), (DIST, "get"))
    return {"type": "E", "topic": "t", "value": "v 1", "tb_text": frames, **more}


def test_ten_bugs_in_ten_functions_are_ten_groups() -> None:
    keys = {
        fingerprint(report(tb_text=tb(("/srv/shop/views.py", f"view_{n}")))).key
        for n in range(10)
    }
    assert len(keys) == 10


def test_one_bug_under_five_topics_with_five_values_is_one() -> None:
    keys = {
        fingerprint(report(topic=f"topic {n}", value=f"{'abcde'[n]} is wrong")).key
        for n in range(5)
    }
    assert len(keys) == 1


def test_another_type_is_another_group() -> None:
    assert fingerprint(report()).key != fingerprint(report(type="F")).key


def test_the_line_does_not_count() -> None:
    moved = report()["tb_text"].replace("line 3", "line 30")
    assert fingerprint(report()).key == fingerprint(report(tb_text=moved)).key


@pytest.mark.parametrize(
    ("frames", "place"),
    [
        ([("/srv/a.py", "f")], "/srv/a.py:f"),
        ([("/srv/a.py", "f"), (SITE, "g")], "/srv/a.py:f"),
        ([("/srv/a.py", "f"), (DIST, "g"), (STDLIB, "h")], "/srv/a.py:f"),
        ([("/srv/a.py", "<lambda>")], "/srv/a.py:<lambda>"),
        ([(SITE, "g"), (STDLIB, "h")], f"{STDLIB}:h"),
        ([("/srv/a.py", "f"), ("<frozen importlib._bootstrap>", "g")], "/srv/a.py:f"),
        (
            [("C:\\app\\a.py", "f"), ("C:\\Python312\\Lib\\json.py", "g")],
            "C:\\app\\a.py:f",
        ),
        ([("/srv/shop/20261127/a.py", "f")], "/srv/shop/<release>/a.py:f"),
        ([("/srv/shop/v1.20.3/a.py", "f")], "/srv/shop/<release>/a.py:f"),
        ([("/srv/shop/5f3e2ab/a.py", "f")], "/srv/shop/<release>/a.py:f"),
        ([("/srv/api/v2/a.py", "f")], "/srv/api/v2/a.py:f"),
        ([], ""),
    ],
)
def test_the_innermost_frame_of_the_application(
    frames: list[tuple[str, str]], place: str
) -> None:
    assert innermost(tb(*frames)) == place


def test_of_a_chain_the_last_exception_counts() -> None:
    try:
        try:
            {}["x"]
        except KeyError as error:
            raise ValueError("no x") from error
    except ValueError:
        text = traceback.format_exc()
    assert innermost(text).endswith(":test_of_a_chain_the_last_exception_counts")
    first, last = tb(("/srv/a.py", "cause")), tb(("/srv/b.py", "last"))
    assert innermost(f"{first}\nDuring ...\n\n{last}") == "/srv/b.py:last"


def test_an_exception_group_has_a_place() -> None:
    text = (
        "  + Exception Group Traceback (most recent call last):\n"
        '  |   File "/srv/a.py", line 3, in f\n'
        "  |     raise ExceptionGroup()\n"
        "  | ExceptionGroup: two (2 sub-exceptions)\n"
    )
    assert innermost(text) == "/srv/a.py:f"


def test_as_oops_formats_it() -> None:
    import oops

    config = oops.Config()
    try:
        raise ValueError("x")
    except ValueError as error:
        made = config.create({"exc_info": (type(error), error, error.__traceback__)})
    place = fingerprint(made).place
    assert place.endswith("test_fingerprint.py:test_as_oops_formats_it")


def test_without_a_traceback_type_topic_and_normalised_value_count() -> None:
    def key(**fields: str) -> str:
        return fingerprint({"type": "E", "topic": "t", "value": "v 1", **fields}).key

    assert key() == key(value="v 2")
    assert len({key(), key(type="F"), key(topic="u"), key(value="w")}) == 4


def test_a_report_may_name_its_own() -> None:
    by_text = fingerprint(report(fingerprint="payment"))
    assert by_text.key == fingerprint({"fingerprint": "payment"}).key
    by_list = fingerprint(report(fingerprint=["payment", 3]))
    assert by_list.key == fingerprint({"fingerprint": ["payment", 3]}).key
    assert len({by_text.key, by_list.key, fingerprint(report()).key}) == 3


@given(reports)
def test_any_report_has_one(anything: dict[str, Any]) -> None:
    assert len(fingerprint(anything).key) == 32


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("field", ["type", "topic", "value", "tb_text", "fingerprint"])
def test_strange_values(strange: str, field: str) -> None:
    value = next(iter(wire.decode(wire.encode(STRANGE[strange]).body).values()))
    found = fingerprint({field: value})
    assert len(found.key) == 32
    assert "\0" not in "".join(found)


def test_a_long_traceback_is_read_in_no_time() -> None:
    long = tb(*[("/srv/a.py", "f")] * 100_000, ("/srv/b.py", "g"))
    assert innermost(long) == "/srv/b.py:g"
