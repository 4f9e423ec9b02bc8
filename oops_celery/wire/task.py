"""A report as a Celery task message: its headers, its serializer, its content type."""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu import Message
from kombu.serialization import register

#: The name of the task that a report travels as.
TASK_NAME = "oops_celery.republish"

#: Bytes an AMQP 0-9-1 short string holds: the correlation id, which is the task id.
MAX_TASK_ID = 255

#: AMQP content type of a report. kombu picks the decoder by it.
CONTENT_TYPE = "application/bson"
CONTENT_ENCODING = "binary"
#: kombu's name for the serializer of the republish task.
SERIALIZER = "oops"

#: kombu's name for the serializer of any other message that the worker made a task.
#: The mark before its body is there because kombu decodes no empty body.
ADOPTED = "oops-adopted"
ADOPTED_CONTENT_TYPE = "application/x-oops-adopted"
ADOPTED_MARK = b"\x00"

#: The header that holds a plain message's own headers and properties.
ORIGINAL = "oops-original"

#: The header that says since when a report could not be kept.
FIRST_FAILED_AT = "oops-first-failed-at"


def task_options(
    app: Celery, name: str, task_id: str, argsrepr: str, **more: Any
) -> dict[str, Any]:
    """Return what makes a message a Celery task: headers and properties, by Celery.

    Args:
        app: The app whose message protocol is used.
        name: Name of the task.
        task_id: Id of the task.
        argsrepr: What is shown in place of the arguments.
        more: Other arguments of `celery.app.amqp.AMQP.as_task_v2`.
    """
    message = app.amqp.as_task_v2(
        task_id, name, argsrepr=argsrepr, kwargsrepr="{}", **more
    )
    return {
        # What says nothing would only have to be packed and unpacked, on both ways.
        "headers": {
            key: value
            for key, value in message.headers.items()
            if value is not None and value not in ({}, [None, None])
        },
        "content_type": CONTENT_TYPE,
        "content_encoding": CONTENT_ENCODING,
        "delivery_mode": 2,  # persistent
        **message.properties,
    }


def body_of(message: Message) -> bytes:
    """Return a message's body as it came; py-amqp gives an empty one as text."""
    body = message.body
    return body if isinstance(body, bytes) else body.encode()


def _report_of(task_body: tuple[Any, ...]) -> bytes:
    """Take the report out of Celery's ``(args, kwargs, embed)``."""
    (body,), _, _ = task_body
    return body  # type: ignore[no-any-return]


def _task_body(body: bytes | str) -> tuple[Any, ...]:
    """Make Celery's ``(args, kwargs, embed)`` of a report, without parsing it.

    Celery decodes in the main process too: parsing there would cost twice, and a bad
    body would be lost.
    """
    return (body,), {}, {}


def _adopted_body(marked: bytes) -> tuple[Any, ...]:
    return (marked[len(ADOPTED_MARK) :],), {}, {}


register(SERIALIZER, _report_of, _task_body, CONTENT_TYPE, CONTENT_ENCODING)
register(ADOPTED, None, _adopted_body, ADOPTED_CONTENT_TYPE, CONTENT_ENCODING)
