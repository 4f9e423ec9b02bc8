"""Running a dispatcher's Consumer class, without a broker."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest
from celery.exceptions import Reject

from oops_celery.dispatcher.instances import Instances, Kind
from oops_celery.dispatcher.message import Message
from oops_celery.dispatcher.proxy import Answer, Proxy
from oops_celery.errors import AlreadyAnswered, ConsumerFailed


def message(body: bytes = b"hello", **properties: Any) -> Message:
    return Message(body, {"exchange": "", "routing_key": "q"}, properties)


class Broker:
    """Takes what is published."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, dict[str, Any]]] = []

    def __call__(self, body: bytes, **options: Any) -> None:
        self.sent.append((body, options))


def consume(consumer: type, *bodies: bytes) -> Instances:
    instances = Instances(Kind(lambda: consumer, "tests:Consumer"))
    for body in bodies or (b"hello",):
        instances.consume(message(body), Broker())
    return instances


@pytest.mark.parametrize(
    ("body", "properties", "text"),
    [
        (b"plain", {}, "plain"),
        ("grün".encode(), {"content_encoding": "utf-8"}, "grün"),
        ("grün".encode("latin-1"), {"content_encoding": "latin-1"}, "grün"),
        (b"\xff", {}, "\ufffd"),
        (b"abc", {"content_encoding": "binary"}, "abc"),
        (b"", {}, ""),
    ],
)
def test_the_text_of_a_message(
    body: bytes, properties: dict[str, Any], text: str
) -> None:
    assert message(body, **properties).text == text
    assert len(message(body)) == len(body)
    assert message(body)  # also an empty one is a message


def test_an_instance_is_used_again() -> None:
    made = []

    class Consumer:
        def __init__(self) -> None:
            made.append(self)

        def consume(self, amqp: Proxy, msg: Message) -> None:
            pass

        def shutdown(self, exception: BaseException | None = None) -> None:
            made.append(("shutdown", exception))

    instances = consume(Consumer, b"1", b"2", b"3")
    assert len(made) == 1
    instances.close()
    assert made[1:] == [("shutdown", None)]
    instances.close()
    assert len(made) == 2


@pytest.mark.parametrize(
    ("answer", "requeue"),
    [
        (Proxy.nack, True),
        (Proxy.reject, True),
        (lambda amqp: amqp.reject(requeue=True), True),
        (lambda amqp: amqp.reject(requeue=False), False),
        (lambda amqp: amqp.reject(False), False),
    ],
)
def test_a_rejected_message(answer: Any, requeue: bool) -> None:
    class Consumer:
        def consume(self, amqp: Proxy, msg: Message) -> None:
            assert not amqp.has_responded_to_message
            answer(amqp)
            assert amqp.has_responded_to_message

    with pytest.raises(Reject) as caught:
        consume(Consumer)
    assert caught.value.requeue is requeue


class Failing:
    """Fails, after the answer that the body names, if any."""

    events: ClassVar[list[Any]] = []

    def consume(self, amqp: Proxy, msg: Message) -> None:
        if msg.body:
            getattr(amqp, msg.text)()
        raise LookupError("no such thing")

    def shutdown(self, exception: BaseException | None = None) -> None:
        self.events.append(exception)
        raise OSError("and no way out")


def test_a_failure_without_an_answer_goes_back() -> None:
    Failing.events.clear()
    with pytest.raises(Reject, match="LookupError: no such thing") as caught:
        consume(Failing, b"")
    assert caught.value.requeue is True
    (error,) = Failing.events
    assert isinstance(error, LookupError)


def test_an_answer_stands_when_the_consumer_fails() -> None:
    with pytest.raises(ConsumerFailed, match="LookupError: no such thing"):
        consume(Failing, b"ack")
    with pytest.raises(Reject) as caught:
        consume(Failing, b"nack")
    assert caught.value.requeue is True


def test_an_error_that_cannot_be_said() -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    class Consumer(Failing):
        def consume(self, amqp: Proxy, msg: Message) -> None:
            raise Unspeakable

    with pytest.raises(Reject, match="Unspeakable"):
        consume(Consumer)


def test_a_consumer_that_cannot_be_made() -> None:
    class Consumer:
        def __init__(self) -> None:
            raise OSError("no database")

    with pytest.raises(Reject, match="OSError: no database") as caught:
        consume(Consumer)
    assert caught.value.requeue is True


def test_a_second_answer_is_an_error() -> None:
    amqp = Proxy(Broker())
    amqp.ack()
    for again in (amqp.ack, amqp.nack, amqp.reject):
        with pytest.raises(AlreadyAnswered, match="Already responded"):
            again()
    assert amqp.answer is Answer.ACK


def test_publishing() -> None:
    broker = Broker()
    amqp = Proxy(broker)
    amqp.publish("exchange", "key", {"a": 1}, "grün")
    amqp.publish("exchange", "key", None, b"\xff")
    amqp.publish("exchange", "key", {}, bytearray(b"\xff"))
    amqp.publish(exchange_name="e", routing_key="k", body=b"{}", content_type="a/b")
    (text, about), (binary, other), (third, _), (_, typed) = broker.sent
    assert text == "grün".encode()
    assert (about["exchange"], about["routing_key"]) == ("exchange", "key")
    # As amqp-dispatcher sent it: kombu's consumers may not accept a content type.
    assert about["plain"] == {"application_headers": {"a": 1}, "delivery_mode": 2}
    assert binary == third == b"\xff"
    assert other["plain"]["application_headers"] == {}
    assert (typed["exchange"], typed["plain"]["content_type"]) == ("e", "a/b")
    with pytest.raises(TypeError, match="knows no property contenttype"):
        amqp.publish("exchange", "key", {}, b"", contenttype="a/b")
    with pytest.raises(TypeError, match="needs one of exchange and exchange_name"):
        amqp.publish(routing_key="key", body=b"")
    with pytest.raises(TypeError, match="body must be bytes or text, not dict"):
        amqp.publish("exchange", "key", {}, {"a": 1})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="headers must be a dict, not str"):
        amqp.publish("exchange", "key", "a", b"")  # type: ignore[arg-type]


def test_every_call_may_be_awaited() -> None:
    loops = set()

    class Consumer:
        async def consume(self, amqp: Proxy, msg: Message) -> None:
            await asyncio.sleep(0)
            loops.add(asyncio.get_running_loop())
            await amqp.publish("exchange", "key", {}, msg.body)
            await amqp.ack()

        async def shutdown(self, exception: BaseException | None = None) -> None:
            loops.add(asyncio.get_running_loop())

    instances = consume(Consumer, b"1", b"2")
    instances.close()
    (loop,) = loops
    assert loop.is_running()  # it outlives them


def test_what_is_published_may_be_a_task_of_asyncio() -> None:
    """As amqp-dispatcher's calls are coroutines."""
    sent: list[bytes] = []

    class Consumer:
        async def consume(self, amqp: Proxy, msg: Message) -> None:
            await asyncio.create_task(amqp.publish("x", "", {}, msg.body))
            await asyncio.gather(amqp.publish("x", "", {}, b"2"), amqp.ack())

        async def shutdown(self, exception: BaseException | None = None) -> None:
            pass

    instances = Instances(Kind(lambda: Consumer, "Consumer"))
    instances.consume(Message(b"1", {}, {}), lambda body, **_: sent.append(body))
    assert sent == [b"1", b"2"]
