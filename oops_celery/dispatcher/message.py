"""The message that a ``Consumer`` gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Message:
    """The message that a consumer gets.

    Messages with equal bodies and properties are equal.

    Attributes:
        body: The body as it came.
        delivery_info: ``exchange``, ``routing_key``, ``redelivered``, ``delivery_tag``
            and ``consumer_tag`` of AMQP's basic.deliver.
        properties: AMQP's properties by name (``content_type``, ``correlation_id``...);
            the headers are ``application_headers``, as in haigha, and ``headers``, as
            in pika.
        return_info: None: returned messages are not consumed.
    """

    body: bytes = b""
    delivery_info: Mapping[str, Any] = field(default_factory=dict, compare=False)
    properties: Mapping[str, Any] = field(default_factory=dict)
    return_info: None = field(default=None, compare=False)

    @property
    def raw_message(self) -> RawMessage:
        """The message as amqp-dispatcher 1.x passes it, for reading."""
        return RawMessage(self)

    @property
    def text(self) -> str:
        """The body as text, in its ``content_encoding`` or UTF-8.

        Bytes that are not text become U+FFFD.
        """
        encoding = self.properties.get("content_encoding") or "utf-8"
        try:
            return self.body.decode(encoding, "replace")
        except (LookupError, ValueError):  # for example "binary"; "idna" cannot replace
            return self.body.decode("utf-8", "replace")

    def __len__(self) -> int:
        return len(self.body)

    def __bool__(self) -> bool:
        return True


class RawMessage:
    """The message with aio-pika's names: ``delivery_tag``, ``headers``...

    Only the proxy can answer it.

    Args:
        message: The message.
    """

    def __init__(self, message: Message) -> None:
        self.body = message.body
        self._message = message

    def __getattr__(self, name: str) -> Any:
        if name in ("ack", "nack", "reject"):
            raise AttributeError(f"call amqp.{name}() instead: it answers the message")
        for known in (self._message.delivery_info, self._message.properties):
            if name in known:
                return known[name]
        if name in ("exchange", "routing_key", "consumer_tag", *_PROPERTIES):
            return None
        raise AttributeError(f"a raw message has no {name}")


#: aio-pika's names of properties; None if a message lacks them.
_PROPERTIES = (
    "app_id",
    "content_encoding",
    "content_type",
    "correlation_id",
    "delivery_mode",
    "expiration",
    "message_id",
    "priority",
    "reply_to",
    "timestamp",
    "type",
    "user_id",
)
