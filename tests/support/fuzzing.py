"""Messages that no program should send, from a seed."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from random import Random

import amqp
import bson

from oops_celery import wire

#: Headers that mean something to Celery, to kombu, to RabbitMQ or to us.
HEADERS = (
    *("task", "id", "lang", "root_id", "parent_id", "group", "group_index", "shadow"),
    *("retries", "eta", "expires", "timelimit", "soft_time_limit", "time_limit"),
    *("stamps", "stamped_headers", "callbacks", "errbacks", "chain", "chord", "link"),
    *("reply_to", "correlation_id", "argsrepr", "kwargsrepr", "origin", "args"),
    *("kwargs", "ignore_result", "replaced_task_nesting", "hostname", "properties"),
    *("delivery_info", "headers", "get", "update", "_children", "__class__", "utc"),
    *("compression", "called_directly", "is_eager", "loglevel", "x-death", "CC"),
    *("x-delivery-count", "oops-first-failed-at", "oops-original", "oops-reason"),
)

TEXTS = (
    *("", "oops_celery.republish", "celery.map", "celery.backend_cleanup", "a-task"),
    *("workers:Consumer", "2001-01-01T00:00:00", "2999-01-01T00:00:00+00:00", "gzip"),
    *("9999-12-31T23:59:59.999999-23:59", "yesterday", "\x1b[2J\x07", "a\nb", "bzip2"),
    *("é\u202e", "x" * 300, "application/json", "application/bson", "1e999", "None"),
)

CONTENT_TYPES = (
    *("application/bson", "application/json", "application/x-python-serialize"),
    *("application/x-oops-adopted", "application/x-yaml", "application/x-msgpack"),
    *("text/plain", "application/data", "", "\x1b]0;title\x07"),
)
CONTENT_ENCODINGS = ("binary", "utf-8", "utf-16", "no-such", "", "punycode", "idna")


def short(text: bytes) -> bytes:
    text = text[:255]
    return bytes([len(text)]) + text


def long(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


def text_of(random: Random) -> bytes:
    return random.choice(
        [
            random.choice(TEXTS).encode(),
            random.randbytes(random.randrange(6)),
            b"\xff\xfe",
            b"\xed\xa0\x80",  # half of a pair
        ]
    )


def field(random: Random, depth: int = 0) -> bytes:
    """Return any field of a table, as RabbitMQ's AMQP 0-9-1 errata have them."""
    number = random.choice([0, 1, -1, 2**31, -(2**31), 2**63 - 1, -(2**63)])
    kinds: list[Callable[[], bytes]] = [
        lambda: b"V",
        lambda: b"t" + bytes([random.choice([0, 1, 7])]),
        lambda: b"b" + struct.pack(">b", random.randrange(-128, 128)),
        lambda: b"B" + random.randbytes(1),
        lambda: b"s" + random.randbytes(2),
        lambda: b"u" + random.randbytes(2),
        lambda: b"I" + random.randbytes(4),
        lambda: b"i" + random.randbytes(4),
        lambda: b"l" + struct.pack(">q", number),
        lambda: b"f" + random.randbytes(4),
        lambda: b"d" + random.randbytes(8),
        lambda: b"D" + random.randbytes(5),
        lambda: b"T" + struct.pack(">Q", random.choice([0, 1 << 31, 1 << 41, 1 << 63])),
        lambda: b"S" + long(text_of(random)),
        lambda: b"x" + long(text_of(random)),
    ]
    if depth < 3:
        kinds += [
            lambda: (
                b"A"
                + long(
                    b"".join(
                        field(random, depth + 1) for _ in range(random.randrange(4))
                    )
                )
            ),
            lambda: b"F" + table(random, depth + 1),
        ]
    # Texts, and numbers that are none too strange, get further.
    if random.random() < 0.4:
        return b"S" + long(random.choice(TEXTS).encode())
    return random.choice(kinds)()


def table(random: Random, depth: int = 0) -> bytes:
    """Return any table."""
    pairs = [
        short(
            random.choice(HEADERS).encode()
            if random.random() < 0.8
            else text_of(random)
        )
        + field(random, depth)
        for _ in range(random.randrange(5))
    ]
    if depth == 0 and random.random() < 0.6:
        task = random.choice([b"oops_celery.republish"] * 4 + [text_of(random)])
        pairs.append(short(b"task") + b"S" + long(task))
    if depth == 0 and random.random() < 0.6:
        pairs.append(short(b"id") + b"S" + long(b"id-%d" % random.randrange(10**9)))
    return long(b"".join(pairs))


class RawMessage(amqp.Message):
    """A message whose properties are any bytes that AMQP can have."""

    def __init__(self, body: bytes, random: Random) -> None:
        super().__init__(body)
        self._random = random

    def _serialize_properties(self) -> bytes:
        random = self._random
        flags, values = 0, list[bytes]()

        def put(bit: int, chance: float, value: Callable[[], bytes]) -> None:
            nonlocal flags
            if random.random() < chance:
                flags |= 1 << bit
                values.append(value())

        content_type = random.choice(CONTENT_TYPES[:1] * 8 + CONTENT_TYPES)
        put(15, 0.8, lambda: short(content_type.encode()))
        put(14, 0.5, lambda: short(random.choice(CONTENT_ENCODINGS).encode()))
        put(13, 0.9, lambda: table(random))
        put(12, 1, lambda: b"\x02")
        put(11, 0.2, lambda: random.randbytes(1))
        for bit in (10, 9):  # correlation id, reply to
            put(bit, 0.2, lambda: short(text_of(random)))
        for bit in (7, 5, 3):  # message id, type, app id
            put(bit, 0.1, lambda: short(text_of(random)))
        put(6, 0.1, lambda: random.randbytes(8))
        return struct.pack(">H", flags) + b"".join(values)


def report(random: Random) -> bytes:
    """Return a report, no two alike."""
    return wire.encode(
        {
            "type": random.choice(["ValueError", "\x1b[31mError\x07", 5]),
            "topic": random.choice(["t", "https://u:p@h/?q=1", None]),
            "n": random.getrandbits(60),
            "req_vars": {"a": random.choice(TEXTS)},
            **({"id": random.choice(TEXTS)} if random.random() < 0.2 else {}),
        },
        inherit_id=random.random() < 0.5,
    ).body


def mutated(body: bytes, random: Random) -> bytes:
    """Return a body with some bytes changed, taken out, or put in."""
    changed = bytearray(body)
    for _ in range(random.randrange(1, 4)):
        place = random.randrange(len(changed) + 1)
        instead = random.choice([b"", random.randbytes(1), random.randbytes(4)])
        changed[place : place + random.choice([0, 1, 4])] = instead
    if random.random() < 0.5 and len(changed) >= 4:
        changed[:4] = struct.pack("<i", len(changed))  # so that a look goes further
    return bytes(changed)


def nested(random: Random, levels: int) -> bytes:
    """Return a BSON document of many levels."""
    size, parts = 5, []
    for _ in range(levels):
        size += 8
        name = random.choice("abcdefgh").encode()
        parts.append(struct.pack("<i", size) + b"\x03" + name + b"\x00")
    return b"".join(reversed(parts)) + b"\x05\0\0\0\0" + b"\0" * levels


def body(random: Random) -> bytes:
    """Return any body."""
    return random.choice(
        [
            lambda: report(random),
            lambda: report(random),
            lambda: mutated(report(random), random),
            lambda: mutated(report(random), random),
            lambda: b"",
            lambda: random.randbytes(random.randrange(1, 200)),
            lambda: pickle.dumps(((), {"a": random.random()}, {})),
            lambda: json.dumps([[random.random()], {}, {"callbacks": ["x"]}]).encode(),
            lambda: json.dumps(
                {"task": "x", "id": "y", "args": [], "kwargs": {}}
            ).encode(),
            lambda: nested(random, random.choice([50, 500, 5000])),
            lambda: bson.encode({str(random.getrandbits(60)): "x"}),
            lambda: b"\x1b[2J\x1b]0;title\x07",
            lambda: b"!!python/object/apply:os.system [true]",
        ]
    )()


def message(random: Random) -> amqp.Message:
    """Return any message."""
    return RawMessage(body(random), random)
