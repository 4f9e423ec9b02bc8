"""Reports as web applications make them, of three sizes, the same in each program.

Only the standard library: the programs of oops-amqp run in an environment of their own.
"""

from __future__ import annotations

import datetime
import random
import string
import traceback
from collections.abc import Iterator
from typing import Any

#: Bytes of a report in BSON, about.
SIZES = {"3 KB": 3_000, "32 KB": 32_000, "256 KB": 256_000}

#: Different reports of a size; each is used again with another number.
VARIANTS = 20

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)


def reports(size: str, count: int, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Yield reports, no two the same.

    Args:
        size: A key of `SIZES`.
        count: How many.
        seed: Reports of different seeds are different.
    """
    rng = random.Random(f"{size} {seed}")
    variants = [_report(rng, SIZES[size]) for _ in range(VARIANTS)]
    for number in range(count):
        yield {**variants[number % VARIANTS], "number": number, "seed": seed}


def _report(rng: random.Random, size: int) -> dict[str, Any]:
    start = START + datetime.timedelta(seconds=rng.randrange(10**7))
    report: dict[str, Any] = {
        **_failure(rng),
        "time": start,
        "duration": rng.random(),
        "reporter": "shop",
        "topic": "shop.views:checkout",
        "url": f"https://shop.example/{_word(rng)}?page={rng.randrange(99)}",
        "branch_nick": "main",
        "revno": str(rng.randrange(10**5)),
        "username": f"{_word(rng)}, {rng.randrange(10**6)}",
        "req_vars": {_word(rng).upper(): _text(rng) for _ in range(12)},
        "timeline": [],
    }
    at = 0
    filled = sum(len(str(value)) for value in report.values())
    while filled < size:
        end = at + rng.randrange(30)
        statement = f"SELECT {_text(rng)} FROM {_word(rng)} WHERE id = {at}"
        report["timeline"].append([at, end, "SQL-main", statement, _word(rng)])
        filled += len(statement) + 80  # and what BSON has around it
        at = end
    return report


def _failure(rng: random.Random) -> dict[str, Any]:
    """Return what `oops` tells of a real exception."""
    try:
        _deeper(rng, rng.randrange(3, 6))
    except KeyError as error:
        return {
            "type": "KeyError",
            "value": str(error),
            "tb_text": "".join(traceback.format_exception(error)),
        }
    raise AssertionError


def _deeper(rng: random.Random, levels: int) -> None:
    if not levels:
        raise KeyError(_word(rng))
    _deeper(rng, levels - 1)


def _word(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randrange(4, 12)))


def _text(rng: random.Random) -> str:
    return " ".join(_word(rng) for _ in range(rng.randrange(3, 9)))
