"""A message, as a ``Consumer`` gets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Message:
    """A message, as a consumer gets it.

    Attributes:
        body: The body as it came.
        delivery_info: ``exchange``, ``routing_key``, ``redelivered``, ``delivery_tag``
            and ``consumer_tag`` of AMQP's basic.deliver.
        properties: AMQP's properties under their names (``content_type``,
            ``correlation_id``...); the headers are ``application_headers``, as haigha
            has them, and ``headers``, as pika has them.
    """

    body: bytes
    delivery_info: Mapping[str, Any]
    properties: Mapping[str, Any]

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
