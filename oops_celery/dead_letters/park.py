"""Park messages that nobody could take among the dead letters, with the reason."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from oops_celery.errors import Refused
from oops_celery.wire.task import FIRST_FAILED_AT, body_of

if TYPE_CHECKING:
    from kombu import Message

    from oops_celery.celery import App
    from oops_celery.transport.sender import Sender

#: Headers of a parked message.
REASON = "oops-reason"
ATTEMPTS = "oops-attempts"
TRACEBACK = "oops-traceback"
QUEUE = "oops-queue"
PARKED_AT = "oops-parked-at"
PARKED_BY = "oops-parked-by"

#: Most characters of a reason and of a traceback. All headers of a message share one
#: AMQP frame, of 128 KiB by default.
MAX_REASON = 1000
MAX_TRACEBACK = 16_000

#: Headers that RabbitMQ adds. It silently drops a message that it saw dead-lettered in
#: a circle, which it knows by ``x-death``.
BROKER_HEADERS = (
    "x-death",
    "x-first-death-",
    "x-last-death-",
    "x-delivery-count",
    "x-acquired-count",
)

#: Headers that make RabbitMQ copy a message to more queues
#: (https://www.rabbitmq.com/docs/sender-selected): those have their copies already.
COPY_HEADERS = ("CC", "BCC")

#: Properties (AMQP 0-9-1, class basic) that a message keeps when it is sent again. Not
#: its expiration, nor its user id, which must be the connection's.
KEPT_PROPERTIES = (
    "content_type",
    "content_encoding",
    "correlation_id",
    "reply_to",
    "priority",
    "message_id",
    "timestamp",
    "type",
    "app_id",
)


def now() -> str:
    """Return the time in UTC, as ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def without_broker_headers(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the sender's own headers, for sending the message again."""
    return {
        key: value
        for key, value in (headers or {}).items()
        if not str(key).startswith(BROKER_HEADERS) and key not in COPY_HEADERS
    }


def kept_properties(properties: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the properties for sending a message again."""
    had = properties or {}
    return {name: had[name] for name in KEPT_PROPERTIES if had.get(name) is not None}


def resend_options(
    headers: Mapping[str, Any] | None, properties: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the arguments of `Sender.send`, beside the body, for sending it again."""
    return {
        "headers": without_broker_headers(headers),
        "delivery_mode": 2,  # persistent
        "content_type": "application/octet-stream",
        **kept_properties(properties),
    }


def park(
    app: App,
    queue: str,
    body: bytes,
    reason: str,
    *,
    headers: Mapping[str, Any],
    properties: Mapping[str, Any],
    attempts: int = 1,
    error: BaseException | None = None,
) -> None:
    """Park a message, unchanged. The broker has confirmed it when this returns.

    Args:
        app: Has the sender and the topology.
        queue: The queue that it came from.
        body: The body as it came.
        reason: Why, in one line.
        headers: The headers as they came.
        properties: The properties as they came, and the content type.
        attempts: How often it was tried.
        error: The error of the last attempt.

    Raises:
        SendError: It is not parked; the message must go back to its queue.
    """
    target = app.topology.dead_letter_target(queue)
    if target is None:
        raise Refused(f"queue {queue!r} has no x_dead_letter_exchange in the topology")
    send(
        app.sender,
        target,
        queue,
        body,
        reason,
        headers=headers,
        properties=properties,
        attempts=attempts,
        error=error,
    )


def send(
    sender: Sender,
    target: tuple[str, str],
    queue: str,
    body: bytes,
    reason: str,
    *,
    headers: Mapping[str, Any] | None,
    properties: Mapping[str, Any] | None,
    attempts: int = 1,
    error: BaseException | None = None,
) -> None:
    """Send a dead letter, like `park`, to an exchange with a routing key."""
    options = resend_options(headers, properties)
    options["headers"] = {
        FIRST_FAILED_AT: now(),
        **options["headers"],
        REASON: reason[:MAX_REASON],
        ATTEMPTS: attempts,
        TRACEBACK: _shortened(format_traceback(error)),
        QUEUE: queue,
        PARKED_AT: now(),
        PARKED_BY: f"{socket.gethostname()}:{os.getpid()}",
    }
    exchange, routing_key = target
    sender.send(body, exchange=exchange, routing_key=routing_key, **options)


def park_message(
    app: App, queue: str, message: Message, reason: str, error: BaseException | None
) -> None:
    """Park a message as the broker delivered it; see `park`. It is not acknowledged."""
    park(
        app,
        queue,
        body_of(message),
        reason,
        headers=message.headers,
        properties={
            **(message.properties or {}),
            "content_type": message.content_type,
            "content_encoding": message.content_encoding,
        },
        error=error,
    )


def _shortened(text: str) -> str:
    """Return a traceback that fits: its first frames, and the error at its end."""
    if len(text) <= MAX_TRACEBACK:
        return text
    half = MAX_TRACEBACK // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters]\n{text[-half:]}"


def format_traceback(error: BaseException | None) -> str:
    """Return an error's traceback as text; empty for no error."""
    if error is None:
        return ""
    return "".join(traceback.format_exception(error))
