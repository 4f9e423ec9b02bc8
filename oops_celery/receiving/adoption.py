"""Turn messages into tasks in the worker, whatever their headers contain."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from kombu import Message

from oops_celery import wire
from oops_celery.transport import messages
from oops_celery.wire.task import (
    FIRST_FAILED_AT,
    ORIGINAL,
    TASK_NAME,
    body_of,
    task_options,
)

if TYPE_CHECKING:
    from oops_celery.celery import App

#: The source of ids; seeded again in each process.
_random = random.Random()
os.register_at_fork(after_in_child=_random.seed)

#: Headers of a report that the task needs; each is one line of text.
LINES = (
    "id",
    "root_id",
    "parent_id",
    "argsrepr",
    "kwargsrepr",
    "origin",
    FIRST_FAILED_AT,
)
#: Most characters of such a header.
MAX_LINE = 1000
#: Larger numbers of retries are invalid: no report is retried so often.
MAX_RETRIES = 2**31

#: Fields of AMQP's basic.deliver.
DELIVERY_INFO = (
    "exchange",
    "routing_key",
    "redelivered",
    "delivery_tag",
    "consumer_tag",
)


def adopt_report(app: App, message: Message) -> None:
    """Turn a report into the task that carries it.

    The task's id is the one that its publisher gave it; else, as for oops-amqp's
    reports, the report's own id. Only the headers that the task needs are kept: others
    could make Celery drop the report ("expires"), hold it ("eta"), or send tasks
    ("chain").

    Raises:
        wire.Undecodable: The body is not a report. Not raised for a message with our
        task
            headers: its body is decoded later, in the pool.
    """
    known = _known(message.headers or {})
    if "id" in known:
        options: dict[str, Any] = {
            "headers": {"lang": "py", "task": TASK_NAME, **known},
            "content_type": wire.CONTENT_TYPE,
            "content_encoding": wire.CONTENT_ENCODING,
        }
    else:
        body = body_of(message)
        about = wire.peek(body, ("id", "type", "topic", "reporter"))
        task_id = about.get("id")
        task_id = wire.task_id(task_id if _is_line(task_id) else None, body)
        options = task_options(app, TASK_NAME, task_id, wire.summary(about))
        options["headers"].update(known)
    if not isinstance(message, messages.Message) and "eta" in message.headers:
        options["headers"]["eta"] = message.headers["eta"]  # a retry; see retries.py
    message.headers = {}
    _become(message, options)


def _known(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the valid headers that a task needs."""
    if headers.get("task") != TASK_NAME:
        return {}
    known = {name: headers[name] for name in LINES if _is_line(headers.get(name))}
    if len(known.get("id", "").encode()) > wire.MAX_TASK_ID:
        del known["id"]
    retries = headers.get("retries")
    if isinstance(retries, int) and 0 <= retries < MAX_RETRIES:
        known["retries"] = retries
    return known


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_LINE and value.isprintable()


def adopt_message(app: App, message: Message, task_name: str, **more: Any) -> None:
    """Turn any message into a task; `more` is what it needs to know beside that."""
    body = body_of(message)
    route = message.delivery_info or {}
    text = (
        f"({len(body)} bytes, exchange={route.get('exchange')!r}, "
        f"routing_key={route.get('routing_key')!r})"
    )
    headers = dict(message.headers or {})
    original = {
        **more,
        "delivery_info": {name: route[name] for name in DELIVERY_INFO if name in route},
        "properties": {
            **(message.properties or {}),
            "application_headers": headers,
            "headers": headers,
        },
    }
    task_id = _new_id()
    options = dict(_options(app, task_name))
    about = {"id": task_id, "root_id": task_id, "argsrepr": text}
    options["headers"] = {**options["headers"], **about}
    options["correlation_id"] = task_id
    # Its own headers might mean something to Celery: "callbacks", "eta", "reply_to".
    message.body = wire.ADOPTED_MARK + body
    message.headers = {ORIGINAL: original}
    message.properties = {}
    _become(message, options)


@cache
def _options(app: App, task_name: str) -> dict[str, Any]:
    """Return the options that tasks of a name share; Celery makes them slowly."""
    options = task_options(app, task_name, "", "")
    return {**options, "content_type": wire.ADOPTED_CONTENT_TYPE}


def _new_id() -> str:
    """Return a UUID (version 4), six times as fast as `uuid.uuid4`."""
    digits = f"{_random.getrandbits(128):032x}"
    variant = "89ab"[int(digits[16], 16) % 4]
    first, second = digits[:8], digits[8:12]
    return f"{first}-{second}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def _become(message: Message, options: dict[str, Any]) -> None:
    message.headers = {**(message.headers or {}), **options.pop("headers")}
    message.content_type = options.pop("content_type")
    message.content_encoding = options.pop("content_encoding")
    message.properties = {**(message.properties or {}), **options}
