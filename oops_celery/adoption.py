"""Plain AMQP messages, without Celery's headers, become tasks in the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from kombu import Message

from oops_celery import wire
from oops_celery.publishing import TASK_NAME, task_options

if TYPE_CHECKING:
    from oops_celery.celery import App

#: The header that holds a plain message's own headers and properties.
ORIGINAL = "oops-original"

#: What AMQP's basic.deliver tells of a message.
DELIVERY_INFO = (
    "exchange",
    "routing_key",
    "redelivered",
    "delivery_tag",
    "consumer_tag",
)


def is_task(message: Message) -> bool:
    """Tell whether a message says which task it is."""
    return "task" in (message.headers or {})


def body_of(message: Message) -> bytes:
    """Return a message's body as it came; py-amqp gives an empty one as text."""
    body = message.body
    return body if isinstance(body, bytes) else body.encode()


def adopt_report(app: App, message: Message) -> None:
    """Make a report, as oops-amqp sends it, the task that carries it.

    The task's id is the report's id.

    Raises:
        wire.Undecodable: The body is no report.
    """
    body = body_of(message)
    known = wire.peek(body, ("id", "type", "topic", "reporter"))
    task_id = wire.task_id(known.get("id"), body)
    _become(message, task_options(app, TASK_NAME, task_id, wire.summary(known)))


def adopt_message(app: App, message: Message, task_name: str) -> None:
    """Make any message a task of a dispatcher's consumer."""
    body = body_of(message)
    route = message.delivery_info or {}
    text = (
        f"({len(body)} bytes, exchange={route.get('exchange')!r}, "
        f"routing_key={route.get('routing_key')!r})"
    )
    headers = dict(message.headers or {})
    original = {
        "delivery_info": {name: route[name] for name in DELIVERY_INFO if name in route},
        "properties": {
            **(message.properties or {}),
            "application_headers": headers,
            "headers": headers,
        },
    }
    options = task_options(app, task_name, str(uuid4()), text)
    options["content_type"] = wire.ADOPTED_CONTENT_TYPE
    # Its own might mean something to Celery: "callbacks", "eta", "reply_to".
    message.body = wire.ADOPTED_MARK + body
    message.headers = {ORIGINAL: original}
    message.properties = {}
    _become(message, options)


def _become(message: Message, options: dict[str, Any]) -> None:
    message.headers = {**(message.headers or {}), **options.pop("headers")}
    message.content_type = options.pop("content_type")
    message.content_encoding = options.pop("content_encoding")
    message.properties = {**(message.properties or {}), **options}
