"""Tracebacks of every form: Python's own, zope's, chained, groups, and broken ones."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oops_celery.web.traceback import MOST_FRAMES, read_traceback


def text_of(call: Callable[[], object]) -> str:
    try:
        call()
    except BaseException as error:
        return "".join(traceback.format_exception(error))
    raise AssertionError


def fails() -> None:
    raise KeyError("coffee")


def caused() -> None:
    try:
        fails()
    except KeyError as error:
        raise LookupError("not sold") from error


def test_frames_alone_as_oops_writes_them() -> None:
    try:
        caused()
    except LookupError as error:
        text = "".join(traceback.format_tb(error.__traceback__))
    ((raised,),) = read_traceback(text)
    assert [frame.function for frame in raised.frames] == [
        "test_frames_alone_as_oops_writes_them",
        "caused",
    ]
    assert raised.frames[1].code[0] == 'raise LookupError("not sold") from error'
    assert raised.heading == ""


def test_causes_are_chained_the_last_one_first() -> None:
    (last,), (first,) = read_traceback(text_of(caused))
    assert last.heading == "LookupError: not sold"
    assert last.relation == "cause"
    assert first.heading == "KeyError: 'coffee'"
    assert first.frames[-1].function == "fails"


def test_an_exception_while_another_is_handled() -> None:
    def handle() -> None:
        try:
            fails()
        except KeyError:
            raise OSError("no log")  # noqa: B904

    (last,), (first,) = read_traceback(text_of(handle))
    assert (last.heading, last.relation) == ("OSError: no log", "context")
    assert first.heading == "KeyError: 'coffee'"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups are new there")
def test_the_members_of_a_group() -> None:
    def several() -> None:
        errors = []
        for call in (fails, caused, lambda: int("x")):
            try:
                call()
            except Exception as error:
                error.add_note(f"note {len(errors)}")
                errors.append(error)
        raise ExceptionGroup("several", errors)  # noqa: F821

    (block,) = read_traceback(text_of(several))
    assert block[0].depth == 0
    assert block[0].heading.startswith("ExceptionGroup: several")
    headings = [one.heading for one in block[1:]]
    assert headings == [
        "KeyError: 'coffee'\nnote 0",
        "KeyError: 'coffee'",  # the cause of the next one
        "LookupError: not sold\nnote 1",
        "ValueError: invalid literal for int() with base 10: 'x'\nnote 2",
    ]
    assert all(one.depth == 1 and one.frames for one in block[1:])


def test_zopes_format() -> None:
    text = (
        "Traceback (most recent call last):\n"
        "  Module shop.cart, line 12, in add\n    x = 1\n"
        "   - __traceback_info__: ('a', 1)\n"
        "KeyError: 1\n"
    )
    ((raised,),) = read_traceback(text)
    assert (raised.frames[0].file, raised.frames[0].line) == ("shop.cart", "12")
    assert any("__traceback_info__" in line for line in raised.frames[0].code)
    assert raised.heading == "KeyError: 1"


def test_libraries_are_told_from_the_application() -> None:
    text = "".join(
        f'  File "{file}", line 1, in f\n    x()\n'
        for file in (
            "/srv/app/a.py",
            "/usr/lib/python3.11/site-packages/x.py",
            "/usr/lib/python3.11/json/__init__.py",
            "/srv/app/b.py",
        )
    )
    ((raised,),) = read_traceback(text)
    assert [(own, len(frames)) for own, frames in raised.runs()] == [
        (True, 1),
        (False, 2),
        (True, 1),
    ]


def test_a_recursion_shows_its_ends() -> None:
    text = '  File "/srv/a.py", line 1, in f\n    f()\n' * 5000
    ((raised,),) = read_traceback(text)
    assert sum(len(frames) for _, frames in raised.runs()) == MOST_FRAMES
    assert raised.left_out == 5000 - MOST_FRAMES


def test_a_text_without_frames_is_none() -> None:
    assert read_traceback("it broke\nsomewhere") == []
    assert read_traceback("") == []


_LINES = st.sampled_from(
    [
        "Traceback (most recent call last):",
        "  + Exception Group Traceback (most recent call last):",
        '  |   File "a.py", line 1, in f',
        '  File "a.py", line 1, in f',
        "    x()",
        "  | KeyError: 1",
        "  +-+---------------- 1 ----------------",
        "    +------------------------------------",
        "    | Traceback (most recent call last):",
        "The above exception was the direct cause of the following exception:",
        "+",
        "|",
        "",
        "KeyError: 1",
    ]
)


@given(st.lists(_LINES | st.text(max_size=30), max_size=30))
def test_whatever_it_is_it_is_read(lines: list[str]) -> None:
    for block in read_traceback("\n".join(lines)):
        assert block
        for raised in block:
            assert raised.depth >= 0
            list(raised.runs())
