"""Publishing many messages with many confirms in flight, instead of one by one."""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import amqp
from amqp.exceptions import ChannelError
from kombu.transport.pyamqp import Channel

from oops_celery.errors import Refused, SendError, Unavailable
from oops_celery.transport.link import Link, forget_inherited
from oops_celery.transport.sender import Sender

#: Messages that are on their way at once. More are not faster, and it is what the
#: memory of a broken connection's messages costs.
WINDOW = 1000


def send_many(
    sender: Sender,
    messages: Iterable[tuple[bytes, Mapping[str, Any]]],
    window: int = WINDOW,
) -> Iterator[SendError | None]:
    """Publish messages, each confirmed by the broker and routed to a queue.

    A lost connection is replaced once, and what was not confirmed is sent again: the
    broker may then have a message twice. When it cannot be replaced, no further message
    is tried.

    Args:
        sender: Opens the connection; its timeout is how long a confirm may take.
        messages: Bodies, each with what `kombu.Producer.publish` takes; a
            ``correlation_id`` is needed. Taken one by one, as far as the window allows.
        window: Messages on their way at once.

    Yields:
        For each message, in order: None, or why it was not taken.
    """
    pipeline = _Pipeline(sender)
    messages = iter(messages)
    try:
        if sender.confirm:  # the first by itself: its queue may not have a leader yet
            for body, options in itertools.islice(messages, 1):
                yield pipeline.send_alone(body, options)
        for body, options in messages:
            pipeline.send(_Sent(body, options))
            while pipeline.in_flight >= window:
                pipeline.wait()
            yield from pipeline.finished()
        while pipeline.in_flight:
            pipeline.wait()
        yield from pipeline.finished()
    except BaseException:
        pipeline.abandon()
        raise
    pipeline.close()


class _Sent:
    """A message on its way."""

    def __init__(self, body: bytes, options: Mapping[str, Any]) -> None:
        self.body = body
        self.options = options
        self.finished = False
        self.error: SendError | None = None

    def finish(self, error: SendError | None) -> None:
        self.finished = True
        self.error = error


class _Pipeline:
    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._link: Link | None = None
        self._channel: Any = None
        #: All that were sent and not yet told of, in their order.
        self._order: deque[_Sent] = deque()
        #: Those that the broker has not confirmed, by delivery tag.
        self._unconfirmed: dict[int, _Sent] = {}
        self._tag = 0
        #: Correlation ids of messages that no queue took.
        self._returned: defaultdict[str, list[Exception]] = defaultdict(list)
        #: Why nothing more is sent.
        self._failure: SendError | None = None
        self._replaced = False

    @property
    def in_flight(self) -> int:
        return len(self._unconfirmed)

    def send(self, sent: _Sent) -> None:
        self._order.append(sent)
        if self._failure is not None:
            sent.finish(self._failure)
            return
        # Confirms count the messages of a channel from 1 (RabbitMQ's confirms).
        self._tag += 1
        self._unconfirmed[self._tag] = sent
        self._guarded(lambda: self._publish(sent))

    def send_alone(self, body: bytes, options: Mapping[str, Any]) -> SendError | None:
        """Send a message, and wait until the broker has it, or has refused it."""
        try:
            self._sender.send(body, **options)
        except Refused as error:
            return error
        except Unavailable as error:
            self._fail(error)
            return error
        return None

    def wait(self) -> None:
        """Wait for the broker to say something."""
        self._guarded(
            lambda: self._channel.connection.drain_events(timeout=self._sender.timeout)
        )

    def finished(self) -> Iterator[SendError | None]:
        while self._order and self._order[0].finished:
            yield self._order.popleft().error

    def close(self) -> None:
        if self._link is not None:
            if self._channel is not None:
                with suppress(Exception):
                    self._channel.close()
            self._sender.put(self._link)

    def abandon(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            self._sender.discard(link)

    def _guarded(self, step: Any) -> None:
        forget_inherited()
        try:
            if self._link is None:
                self._open()
            step()
        except ChannelError as error:  # 404, 403: so it would be for all others
            self._fail(Refused(str(error)))
        except Exception as error:  # sockets, TLS, py-amqp: all kinds
            self._replace(error)

    def _open(self) -> None:
        self._link = link = self._sender.take() or self._sender.open()
        if not link.is_amqp:
            return
        self._channel = channel = Channel(link.raw)
        channel.open()
        channel.confirm_select()
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        channel.events["basic_return"].add(self._on_return)

    def _publish_all(self, messages: list[_Sent]) -> None:
        for sent in messages:
            self._publish(sent)

    def _publish(self, sent: _Sent) -> None:
        if self._link is not None and not self._link.is_amqp:  # no confirms
            self._link.publish(sent.body, self._sender.timeout, **sent.options)
            self._on_ack(self._tag, True)
            return
        options = dict(sent.options)
        route = options.pop("exchange"), options.pop("routing_key")
        message = self._channel.prepare_message(
            sent.body,
            priority=options.pop("priority", None),
            content_type=options.pop("content_type"),
            content_encoding=options.pop("content_encoding", None),
            headers=options.pop("headers"),
            properties=options,
        )
        # The class's own: the instance's waits for the confirm.
        amqp.Channel.basic_publish(self._channel, message, *route, mandatory=True)

    def _replace(self, error: Exception) -> None:
        """Go on with a new connection, if this was not one already."""
        reason = error
        if not isinstance(reason, Unavailable):
            reason = Unavailable(repr(error))
            reason.__cause__ = error
        self.abandon()
        if self._replaced or isinstance(error, Unavailable):
            self._fail(reason)
            return
        self._replaced = True
        self._sender.drop_idle()
        again = [sent for sent in self._order if not sent.finished]
        self._unconfirmed = dict(enumerate(again, 1))
        self._tag = len(again)
        self._returned.clear()
        self._guarded(lambda: self._publish_all(again))

    def _fail(self, error: SendError) -> None:
        self._failure = error
        for sent in self._unconfirmed.values():
            sent.finish(error)
        self._unconfirmed.clear()
        self.abandon()

    def _on_ack(self, tag: int, multiple: bool) -> None:
        self._replaced = False  # this connection works
        for sent in self._confirmed(tag, multiple):
            returned = self._returned.get(sent.options["correlation_id"])
            error = Refused(f"no queue took it: {returned.pop()}") if returned else None
            sent.finish(error)

    def _on_nack(self, tag: int, multiple: bool) -> None:
        for sent in self._confirmed(tag, multiple):
            sent.finish(Refused("the queue did not take it: nacked by the broker"))

    def _on_return(self, error: Exception, *about: Any) -> None:
        self._returned[about[-1].properties["correlation_id"]].append(error)

    def _confirmed(self, tag: int, multiple: bool) -> list[_Sent]:
        if not multiple:
            return [self._unconfirmed.pop(tag)]
        tags = []
        for one in self._unconfirmed:  # in order
            if one > tag:
                break
            tags.append(one)
        return [self._unconfirmed.pop(one) for one in tags]
