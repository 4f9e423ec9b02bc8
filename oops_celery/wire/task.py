"""A report as a Celery task message: its headers and its content type.

No kombu is imported: commands that read the database need none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery
    from kombu import Message

#: The name of the task that carries a report.
TASK_NAME = "oops_celery.republish"

#: The name of the task that files a dead letter in the database.
FILE_DEAD_LETTER = "oops_celery.file_dead_letter"

#: Bytes of an AMQP 0-9-1 short string, such as the correlation id (the task id).
MAX_TASK_ID = 255

#: AMQP content type of a report; kombu chooses the decoder by it.
CONTENT_TYPE = "application/bson"
CONTENT_ENCODING = "binary"
#: kombu's name for the serializer of the republish task.
SERIALIZER = "oops"

#: kombu's name for the serializer of other messages that the worker turned into tasks.
#: A mark stands before the body because kombu decodes no empty body.
ADOPTED = "oops-adopted"
ADOPTED_CONTENT_TYPE = "application/x-oops-adopted"
ADOPTED_MARK = b"\x00"

#: The header with a plain message's own headers and properties.
ORIGINAL = "oops-original"

#: The header with the reason why a message's properties could not be read.
UNREADABLE = "oops-unreadable"

#: The header with the time of a report's first refusal.
FIRST_FAILED_AT = "oops-first-failed-at"


def task_options(
    app: Celery, name: str, task_id: str, argsrepr: str, **more: Any
) -> dict[str, Any]:
    """Return the headers and properties that make a message a Celery task.

    Args:
        app: The app whose message protocol is used.
        name: Name of the task.
        task_id: Id of the task.
        argsrepr: The text shown in place of the arguments.
        more: Other arguments of `celery.app.amqp.AMQP.as_task_v2`.
    """
    message = app.amqp.as_task_v2(
        task_id, name, argsrepr=argsrepr, kwargsrepr="{}", **more
    )
    return {
        # Leave out empty headers: they would only be packed and unpacked.
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
    """Return a message's body as bytes; py-amqp gives an empty body as text."""
    body = message.body
    return body if isinstance(body, bytes) else body.encode()
