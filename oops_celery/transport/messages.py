"""Messages of any kind are received: none may end the connection or the worker.

py-amqp raises an exception in the middle of a frame where a text is not UTF-8, or a
time is after the year 9999 (milliseconds in a header, say). kombu decompresses a body
that says it is compressed: a few bytes may become gigabytes.
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

#: The header of a message whose properties could not be read: why.
UNREADABLE = "oops-unreadable"

#: A frame with a message's properties (AMQP 0-9-1, 4.2.6.1): its type, and the number
#: of bytes before them.
_CONTENT_HEADER = 2
_FIXED_PART = 12
#: The flags that say: of the properties there are the headers alone.
_ONLY_HEADERS = struct.pack(">H", 1 << 13)

logger = logging.getLogger(__name__)


def readable_frames(
    connection: Any, callback: Callable[..., Any], **options: Any
) -> Callable[[Any], bool]:
    """Return py-amqp's handler of frames, given none that it cannot read.

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
    """Return properties that can be read: those given, where they can."""
    try:
        decode_properties_basic(payload, _FIXED_PART)
    except Exception as error:  # of many kinds
        reason = f"{type(error).__name__}: {error}"
        logger.warning("properties of a message cannot be read: %s", reason)
        headers = dumps("F", [{UNREADABLE: reason}])
        return b"".join((payload[:_FIXED_PART], _ONLY_HEADERS, headers))
    return payload


class Message(kombu.transport.pyamqp.Message):
    """A message whose body is as it came, also where it says that it is compressed."""

    def __init__(self, msg: Any, channel: Any = None, **kwargs: Any) -> None:
        headers = msg.properties.pop("application_headers", None) or {}
        super().__init__(msg, channel, **kwargs)
        self.headers = headers
        #: Set for those of a channel that acknowledges many at once.
        self._acknowledger: Acknowledger | None = getattr(channel, "acknowledger", None)
        if self._acknowledger is not None:
            self._acknowledger.came(self.delivery_tag)

    def ack(self, multiple: bool = False) -> None:
        """Acknowledge it."""
        if self._acknowledger is None or self.acknowledged:
            super().ack(multiple)
        else:
            self._acknowledger.acknowledge(self.delivery_tag)
            self._state = "ACK"

    def reject(self, requeue: bool = False) -> None:
        """Reject it; with `requeue` it goes back to its queue."""
        super().reject(requeue)
        if self._acknowledger is not None:
            self._acknowledger.rejected(self.delivery_tag)


def as_they_come(channel: Any, acknowledger: Acknowledger | None = None) -> None:
    """Have a channel give messages of any kind, with their bodies untouched."""
    if isinstance(channel, kombu.transport.pyamqp.Channel):
        channel.auto_decode = False  # a body that says utf-8 may hold anything
        channel.Message = Message
        channel.acknowledger = acknowledger
