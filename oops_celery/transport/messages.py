"""Receive any message: none may end the connection or the worker.

py-amqp raises in the middle of a frame if a text is not UTF-8, or a time is after the
year 9999 (milliseconds in a header, for example). kombu decompresses a body that says
it is compressed: a few bytes may become gigabytes.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from typing import Any

import kombu.transport.pyamqp
from amqp.method_framing import frame_handler
from amqp.serialization import decode_properties_basic, dumps

from oops_celery.transport.acknowledger import Acknowledger
from oops_celery.wire.task import UNREADABLE

#: Type of the frame with a message's properties (AMQP 0-9-1, 4.2.6.1), and the number
#: of bytes before them.
_CONTENT_HEADER = 2
_FIXED_PART = 12
#: The property flags of a message that has headers only.
_ONLY_HEADERS = struct.pack(">H", 1 << 13)

logger = logging.getLogger(__name__)


def readable_frames(
    connection: Any, callback: Callable[..., Any], **options: Any
) -> Callable[[Any], bool]:
    """Return py-amqp's frame handler, which then gets only readable frames.

    Properties that it cannot read are replaced by the header `UNREADABLE`.
    """
    handle = frame_handler(connection, callback, **options)

    def on_frame(frame: tuple[int, int, bytes]) -> bool:
        try:
            return handle(frame)  # type: ignore[no-any-return]
        except Exception:
            kind, channel, payload = frame
            readable = _readable(payload) if kind == _CONTENT_HEADER else payload
            if readable is payload:
                raise
        return handle((kind, channel, readable))  # type: ignore[no-any-return]

    return on_frame


def _readable(payload: bytes) -> bytes:
    """Return the given properties if they can be read, else replacements."""
    try:
        decode_properties_basic(payload, _FIXED_PART)
    except Exception as error:  # many kinds of errors
        reason = f"{type(error).__name__}: {error}"
        logger.warning("properties of a message cannot be read: %s", reason)
        headers = dumps("F", [{UNREADABLE: reason}])
        return b"".join((payload[:_FIXED_PART], _ONLY_HEADERS, headers))
    return payload


class Message(kombu.transport.pyamqp.Message):
    """A message whose body stays as it came, even if it says it is compressed."""

    def __init__(self, msg: Any, channel: Any = None, **kwargs: Any) -> None:
        headers = msg.properties.pop("application_headers", None) or {}
        super().__init__(msg, channel, **kwargs)
        self.headers = headers
        #: Set if its channel acknowledges many messages at once.
        self._acknowledger: Acknowledger | None = getattr(channel, "acknowledger", None)
        if self._acknowledger is not None:
            self._acknowledger.came(self.delivery_tag)

    def ack(self, multiple: bool = False) -> None:
        """Acknowledge the message."""
        if self._acknowledger is None or self.acknowledged:
            super().ack(multiple)
        else:
            self._acknowledger.acknowledge(self.delivery_tag)
            self._state = "ACK"

    def reject(self, requeue: bool = False) -> None:
        """Reject the message; with `requeue` it goes back to its queue."""
        super().reject(requeue)
        if self._acknowledger is not None:
            self._acknowledger.rejected(self.delivery_tag)


def as_they_come(channel: Any, acknowledger: Acknowledger | None = None) -> None:
    """Make a channel deliver messages of any kind, with untouched bodies."""
    if isinstance(channel, kombu.transport.pyamqp.Channel):
        channel.auto_decode = False  # a body that says utf-8 may contain any bytes
        channel.Message = Message
        channel.acknowledger = acknowledger
