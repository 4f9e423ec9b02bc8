"""A message, as a ``Consumer`` gets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Message:
    """A message, as a consumer gets it.

    Two are equal when their bodies and properties are.

    Attributes:
        body: The body as it came.
        delivery_info: ``exchange``, ``routing_key``, ``redelivered``, ``delivery_tag``
            and ``consumer_tag`` of AMQP's basic.deliver.
        properties: AMQP's properties under their names (``content_type``,
            ``correlation_id``...); the headers are ``application_headers``, as haigha
            has them, and ``headers``, as pika has them.
        return_info: None: a returned message is not consumed.
    """

    body: bytes = b""
    delivery_info: Mapping[str, Any] = field(default_factory=dict, compare=False)
    properties: Mapping[str, Any] = field(default_factory=dict)
    return_info: None = field(default=None, compare=False)

    @property
    def raw_message(self) -> RawMessage:
        """The message as amqp-dispatcher 1.x hands it on, for reading."""
        return RawMessage(self)

    @property
    def text(self) -> str:
        """The body as text, in its ``content_encoding`` or UTF-8.

        What is no text in it becomes U+FFFD.
        """
        encoding = self.properties.get("content_encoding") or "utf-8"
        try:
            return self.body.decode(encoding, "replace")
        except (LookupError, ValueError):  # "binary", say; "idna" cannot replace
            return self.body.decode("utf-8", "replace")

    def __len__(self) -> int:
        return len(self.body)

    def __bool__(self) -> bool:
        return True


class RawMessage:
    """aio-pika's names for what a message has: ``delivery_tag``, ``headers``...

    It is answered by the proxy alone.

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


#: aio-pika's names of properties; None where a message has them not.
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
