"""Reports of any values that BSON can hold, and of values that it cannot."""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal

from hypothesis import strategies as st

bson_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=100)
    | st.datetimes(
        min_value=datetime.datetime(1970, 1, 2),
        max_value=datetime.datetime(9999, 1, 1),
        timezones=st.just(datetime.timezone.utc),
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(alphabet="abc_$.é"), inner, max_size=4)
    ),
    max_leaves=12,
)
reports = st.dictionaries(st.text(alphabet="abcdé _"), bson_values, max_size=6)


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def nested(levels: int, kind: type) -> dict:
    inner: object = "the innermost"
    for _ in range(levels):
        inner = {"n": inner} if kind is dict else kind([inner])
    return {"v": inner}


def cycle() -> dict:
    report: dict = {"v": {"list": [1]}}
    report["v"]["list"].append(report["v"])
    return report


STRANGE = {
    "decimal": {"v": Decimal("1.10")},
    "set": {"v": {1}},
    "object": {"v": object()},
    "unprintable": {"v": Unprintable()},
    "big int": {"v": 2**70},
    "very big int": {"v": 10**5000},
    "lone surrogate": {"v": "a\ud800b"},
    "lone surrogate in a key": {"a\ud800b": 1},
    "int key": {"v": {1: "one", "1": "text"}},
    "int key at the top": {1: "one"},
    "None key": {"v": {None: 1}},
    "tuple key": {"v": {(1, 2): 1}},
    "NUL in a key": {"a\0b": 1},
    "cycle": cycle(),
    "5,000 dicts": nested(5000, dict),
    "5,000 lists": nested(5000, list),
    "5,000 tuples": nested(5000, tuple),
    "300 levels": nested(300, dict),
    "uuid": {"v": uuid.UUID(int=5)},
    "date": {"v": datetime.date(2026, 1, 2)},
    "exception": {"v": ValueError("x")},
    "generator": {"v": (x for x in "ab")},
    "type": {"v": int},
}
