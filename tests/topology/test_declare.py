"""What a topology declares on a real RabbitMQ, and what is said when it cannot."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from typing import Any

import amqp
import kombu
import pytest
from amqp import spec

from oops_celery.topology.model import Queue, Refusal, Topology
from tests.support import PACKAGED, eventually


class Session:
    """A connection to the broker, and names that are nobody else's.

    In the texts, NAME stands for the beginning of all names.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        # Without the letter, one in fifty would be a number in YAML.
        self.name = f"t{uuid.uuid4().hex[:8]}"
        self.connection = kombu.Connection(url)
        self.connection.connect()

    def declare(self, text: str) -> list[Refusal]:
        topology = Topology.parse(text.replace("NAME", self.name))
        return topology.declare(self.connection.channel)

    def declared(self, text: str) -> None:
        """Declare what nothing stands against."""
        assert self.declare(text) == []

    def refusal(self, text: str) -> Refusal:
        """Declare what gives one refusal; return that."""
        (refusal,) = self.declare(text)
        return refusal

    def there(self, queue: str) -> bool:
        """Return whether a queue is at the broker."""
        try:
            with self.connection.channel() as channel:
                channel.queue_declare(self.name + queue, passive=True)
        except amqp.NotFound:
            return False
        return True

    def publish(self, exchange: str, routing_key: str = "", **headers: Any) -> None:
        """Publish a message that some queue must take."""
        message = amqp.Message("a report", delivery_mode=2, application_headers=headers)
        with self.connection.channel() as channel:
            channel.basic_publish_confirm(
                message, exchange, routing_key, mandatory=True
            )

    def taken(self, queue: str = "") -> Any:
        """Take the next message of a queue, as soon as there is one."""
        channel = self.connection.channel()
        return eventually(lambda: channel.basic_get(self.name + queue))

    def close(self) -> None:
        """Remove all that a test may have declared."""
        self.connection.close()
        retries = [f".retry.{n}" for n in (1, 2, 3)]
        with kombu.Connection(self.url) as connection:
            for each in ["", ".a", ".b", ".c", ".dead", *retries]:
                connection.channel().queue_delete(self.name + each)
                connection.channel().exchange_delete(self.name + each)


@pytest.fixture
def session(rabbitmq: Any) -> Iterator[Session]:
    session = Session(rabbitmq.url)
    yield session
    session.close()


class TestTheDefaultTopology:
    @pytest.fixture
    def topology(self, session: Session) -> Topology:
        """Declare the packaged one, under our names, with a short pause and limit."""
        text = PACKAGED.read_text()
        text = text.replace("oopses", "NAME").replace("ttl: 10000 ", "ttl: 50 ")
        assert "limit: 20000" in text
        text = text.replace("limit: 20000", "limit: 10")
        session.declared(text)
        return Topology.parse(text.replace("NAME", session.name))

    def test_is_declared_again_and_again(
        self, topology: Topology, session: Session
    ) -> None:
        """Each worker and publisher declares it: the second time changes nothing."""
        assert topology.declare(session.connection.channel) == []
        assert session.there(".retry.3")

    def test_what_is_published_comes_to_the_queue(
        self, topology: Topology, session: Session
    ) -> None:
        """The exchange is a fanout: any routing key will do."""
        session.publish(session.name, "whatever")

        assert session.taken().body == "a report"

    def test_a_retry_comes_back_after_its_pause(
        self, topology: Topology, session: Session
    ) -> None:
        """A message in a waiting room is in the main queue when the TTL is over."""
        first = topology.retry_queues(session.name)[0].name
        session.publish("", first)

        message = session.taken()
        assert message.headers["x-first-death-queue"] == first
        assert message.headers["x-first-death-reason"] == "expired"

    def test_a_rejected_message_is_a_dead_letter(
        self, topology: Topology, session: Session
    ) -> None:
        """What a worker rejects is in the dead letter queue, not lost."""
        session.publish(session.name)
        message = session.taken()
        message.channel.basic_reject(message.delivery_tag, requeue=False)

        message = session.taken(".dead")
        assert message.body == "a report"
        assert message.headers["x-first-death-reason"] == "rejected"

    def test_a_message_that_comes_back_too_often_is_a_dead_letter(
        self, topology: Topology, session: Session
    ) -> None:
        """After so many deliveries, a message that ends its worker is put aside."""
        session.publish(session.name)
        for _ in range(11):
            message = session.taken()
            message.channel.basic_reject(message.delivery_tag, requeue=True)

        message = session.taken(".dead")
        assert message.headers["x-first-death-reason"] == "delivery_limit"


class TestWhatIsDeclared:
    @pytest.mark.parametrize("number", [0, 1, 999, 10_001, 2**32, 315_360_000_000])
    @pytest.mark.parametrize("kind", ["classic", "quorum"])
    def test_numbers_are_at_the_broker_as_they_are_written(
        self, session: Session, number: int, kind: str
    ) -> None:
        """The broker says so itself, when the next file has another number."""
        text = f"queues: [{{queue: NAME, x_queue_type: {kind}, x_message_ttl: %d}}]"
        session.declared(text % number)

        refusal = session.refusal(text % 77)
        assert refusal.text.endswith(f"received '77' but current is '{number}'")

    @pytest.mark.parametrize(
        "entry",
        [
            "x_expires: 315360000000",
            "x_max_length: 9223372036854775807",
            "x_max_length_bytes: 0",
            "x_overflow: reject-publish-dlx",
            "x_max_priority: 255",
            "x_queue_mode: lazy",
            "x_queue_version: 2",
            "x_single_active_consumer: true",
            "x_queue_master_locator: min-masters",
            "x_queue_type: quorum, x_delivery_limit: -1",
            "x_queue_type: quorum, x_delivery_limit: 0",
            "x_queue_type: quorum, x_quorum_initial_group_size: 1",
            "x_queue_type: quorum, x_max_in_memory_length: 0",
            "x_queue_type: quorum, x_max_in_memory_bytes: 0",
            "x_queue_type: quorum, x_queue_leader_locator: balanced",
            "x_queue_type: stream, x_max_age: 7D",
            "x_queue_type: stream, x_initial_cluster_size: 1",
            "x_queue_type: stream, x_stream_max_segment_size_bytes: 3000000000",
        ],
    )
    def test_arguments_at_their_limits(self, session: Session, entry: str) -> None:
        """What the schema allows, RabbitMQ takes."""
        session.declared(f"queues: [{{queue: NAME, {entry}}}]")

    def test_zero_and_the_default_exchange_are_sent(self, session: Session) -> None:
        """Neither 0 nor "" is taken for not set."""
        ttl = "x_message_ttl: 0"
        exchange = "x_dead_letter_exchange: ''"
        session.declared(f"queues: [{{queue: NAME, {ttl}, {exchange}}}]")

        refusal = session.refusal(f"queues: [{{queue: NAME, {ttl}}}]")
        assert 'is not set in the file, but "" at the broker' in str(refusal)
        refusal = session.refusal(f"queues: [{{queue: NAME, {exchange}}}]")
        assert "is not set in the file, but 0 at the broker" in str(refusal)

    def test_an_exclusive_queue_outlives_its_consumer(self, session: Session) -> None:
        """Only auto_delete deletes a queue with its last consumer."""
        session.declared("""
queues:
  - {queue: NAME.a, exclusive: true}
  - {queue: NAME.b, exclusive: true, auto_delete: true}
""")
        for queue in (".a", ".b"):
            with session.connection.channel() as channel:
                channel.basic_consume(session.name + queue)

        assert session.there(".a")
        assert not session.there(".b")

    def test_bindings_route(self, session: Session) -> None:
        """Each binding brings messages; the broker's own exchanges can be bound to."""
        session.declared("""
exchanges: [{exchange: NAME, type: topic}]
queues:
  - queue: NAME
    bindings:
      - {exchange: NAME, routing_key: click.*}
      - {exchange: amq.topic, routing_key: "NAME.#"}
""")
        keys = ["click.here", f"{session.name}.there.too"]
        session.publish(session.name, keys[0])
        session.publish("amq.topic", keys[1])

        found = [session.taken().delivery_info["routing_key"] for _ in keys]
        assert found == keys

    def test_a_binding_has_arguments(self, session: Session) -> None:
        """A headers exchange routes by them."""
        session.declared("""
exchanges: [{exchange: NAME, type: headers}]
queues:
  - {queue: NAME, bindings: [{exchange: NAME, arguments: {x-match: all, kind: a}}]}
""")
        session.publish(session.name, kind="a")

        assert session.taken().body == "a report"

    def test_an_exchange_has_arguments(self, session: Session) -> None:
        """What an exchange cannot route goes to its alternate exchange."""
        session.declared("""
exchanges:
  - {exchange: NAME.a, arguments: {alternate-exchange: NAME.b}}
  - {exchange: NAME.b, type: fanout}
queues: [{queue: NAME, bindings: [{exchange: NAME.b}]}]
""")
        session.publish(f"{session.name}.a", "nowhere")

        assert session.taken().body == "a report"

    def test_an_internal_exchange_takes_nothing_from_a_publisher(
        self, session: Session
    ) -> None:
        """Only other exchanges feed it."""
        text = "exchanges: [{exchange: NAME, type: fanout, internal: %s}]"
        session.declared(text % "true")
        session.declared(text % "true")

        with pytest.raises(amqp.AccessRefused, match="internal exchange"):
            session.publish(session.name)
        refusal = session.refusal(text % "false")
        assert "internal is false in the file, but true at the broker" in str(refusal)

    def test_a_bound_queue_declares_the_same(self, session: Session) -> None:
        """A copy is what kombu and Celery declare, bound to a channel of theirs."""
        text = f"""
queues:
  - queue: {session.name}
    exclusive: true
    x_max_length: 7
    bindings: [{{exchange: amq.direct, routing_key: {session.name}}}]
"""
        topology = Topology.parse(text)
        topology.queues[0](session.connection.channel()).declare()

        session.publish("amq.direct", session.name)
        assert session.taken().body == "a report"
        assert topology.declare(session.connection.channel) == []

    def test_a_passive_queue_may_have_any_arguments(self, session: Session) -> None:
        """It is there, and that is enough; its bindings are made."""
        session.declared("queues: [{queue: NAME, x_max_length: 5}]")
        session.declared("""
exchanges: [{exchange: NAME, type: fanout}]
queues: [{queue: NAME, passive: true, bindings: [{exchange: NAME}]}]
""")
        session.publish(session.name)

        assert session.taken().body == "a report"


class TestWhatIsRefused:
    def test_a_passive_queue_that_is_missing(self, session: Session) -> None:
        """One refusal, which says that the file wants it so; nothing is made."""
        refusal = session.refusal(
            "queues: [{queue: NAME, passive: true, bindings: [{exchange: amq.fanout}]}]"
        )

        assert str(refusal) == (
            f"queue {session.name}: it is not there, and the file says passive: true,"
            " so it is not made; make it first, or remove passive from the file"
        )
        assert refusal.code == 404
        assert refusal.name == session.name
        assert not session.there("")

    def test_a_passive_exchange_that_is_missing(self, session: Session) -> None:
        """As with a queue; what should be bound to it is not reported again."""
        refusal = session.refusal("""
exchanges: [{exchange: NAME, passive: true}]
queues: [{queue: NAME, bindings: [{exchange: NAME}]}]
""")

        assert (refusal.kind, refusal.code, refusal.passive) == ("exchange", 404, True)

    def test_a_queue_with_other_arguments(self, session: Session) -> None:
        """406: one line with the queue, the argument, both values and the way out."""
        session.declared("queues: [{queue: NAME, x_message_ttl: 10000}]")
        refusal = session.refusal("queues: [{queue: NAME, x_message_ttl: 100}]")

        assert refusal.code == 406
        assert str(refusal) == (
            f"queue {session.name}: x_message_ttl is 100 in the file, but 10000 at the"
            " broker; change the file, or delete the queue at the broker once it is"
            " empty"
        )

    @pytest.mark.parametrize(
        ("before", "after", "said"),
        [
            (
                "",
                "x_max_length: 3",
                "x_max_length is 3 in the file, but not set at the",
            ),
            (
                "x_max_length: 3",
                "",
                "x_max_length is not set in the file, but 3 at the",
            ),
            ("", "durable: false", "durable is false in the file, but true at the"),
            ("", "auto_delete: true", "auto_delete is true in the file, but false at"),
            (
                "x_single_active_consumer: true",
                "x_single_active_consumer: false",
                "x_single_active_consumer is false in the file, but true at the broker",
            ),
            (
                "x_dead_letter_exchange: it's",
                "x_dead_letter_exchange: ''",
                'x_dead_letter_exchange is "" in the file, but it\'s at the broker',
            ),
            (
                "",
                "x_queue_type: quorum",
                "x_queue_type is quorum in the file, but not set at the broker",
            ),
        ],
    )
    def test_each_way_in_which_a_queue_can_differ(
        self, session: Session, before: str, after: str, said: str
    ) -> None:
        """RabbitMQ has several ways to say it; a person reads one."""
        session.declared(f"queues: [{{queue: NAME, {before}}}]")
        refusal = session.refusal(f"queues: [{{queue: NAME, {after}}}]")

        assert said in str(refusal)

    def test_a_long_name_leaves_no_room_for_the_values(self, session: Session) -> None:
        """RabbitMQ cuts its text after 255 bytes; the argument is still named."""
        name = "NAME" + "q" * 200
        session.declared(f"queues: [{{queue: {name}, exclusive: true}}]")
        refusal = session.refusal(
            f"queues: [{{queue: {name}, exclusive: true, x_max_length: 1}}]"
        )

        assert "x_max_length is not the same in the file and at the" in str(refusal)

    def test_an_exchange_of_another_type(self, session: Session) -> None:
        """The exchange, its type, both values."""
        session.declared("exchanges: [{exchange: NAME, type: fanout}]")
        refusal = session.refusal("exchanges: [{exchange: NAME, type: topic}]")

        assert str(refusal).startswith(
            f"exchange {session.name}: type is topic in the file, but fanout at the"
        )

    def test_an_argument_that_the_queue_cannot_have(self, session: Session) -> None:
        """RabbitMQ's reason is passed on."""
        refusal = session.refusal("queues: [{queue: NAME, x_delivery_limit: 1}]")

        assert refusal.code == 406
        assert str(refusal).startswith(
            f"queue {session.name}: the broker says: invalid arg 'x-delivery-limit'"
        )

    def test_a_queue_that_another_connection_has(
        self, session: Session, rabbitmq: Any
    ) -> None:
        """405: it says what is in the way; its bindings are not reported again."""
        with kombu.Connection(rabbitmq.url) as other:
            other.channel().queue_declare(session.name, exclusive=True)
            refusal = session.refusal(
                "queues: [{queue: NAME, bindings: [{exchange: amq.fanout}]}]"
            )

        assert refusal.code == 405
        assert "end the connection that has it, or change exclusive" in str(refusal)

    def test_a_queue_without_the_right(self, session: Session) -> None:
        """403: it says which right is missing, and what else one can do."""
        topology = Topology(queues=(Queue("amq.mine"),))
        (refusal,) = topology.declare(session.connection.channel)

        assert refusal.code == 403
        assert "give the user the right to configure it, or say" in str(refusal)

    def test_a_binding_to_an_exchange_that_is_missing(self, session: Session) -> None:
        """An exchange named only in a binding must be there: it is never declared."""
        refusal = session.refusal("""
queues: [{queue: NAME, bindings: [{exchange: NAME.a, routing_key: k}]}]
""")

        name = session.name
        assert str(refusal) == (
            f"binding {name}.a -> {name} (k): the broker says: no exchange '{name}.a'"
            " in vhost '/'; declare it in the file, or make it at the broker first"
        )

    def test_the_rest_is_declared(self, session: Session) -> None:
        """A refusal closes the channel; what comes after it gets another one."""
        session.declared("queues: [{queue: NAME.a, x_max_length: 1}]")
        refusals = session.declare("""
exchanges: [{exchange: NAME.c, passive: true}, {exchange: NAME, type: fanout}]
queues:
  - {queue: NAME.a, x_max_length: 2, bindings: [{exchange: NAME}]}
  - {queue: NAME.b, bindings: [{exchange: NAME.dead}, {exchange: NAME}]}
""")

        assert [refusal.code for refusal in refusals] == [404, 406, 404]
        session.publish(session.name)
        assert session.taken(".a").body == "a report"
        assert session.taken(".b").body == "a report"

    def test_no_channel_stays_open(self, session: Session) -> None:
        """Neither after success nor after refusals: a publisher declares for years."""
        before = set(session.connection.connection.channels)
        session.declared("queues: [{queue: NAME.a}]")
        session.refusal("queues: [{queue: NAME.a}, {queue: NAME.b, passive: true}]")
        session.refusal("queues: [{queue: NAME.b, passive: true}, {queue: NAME.a}]")

        assert set(session.connection.connection.channels) == before


class TestWhatTheConnectionDoes:
    def test_a_refusal_that_ends_the_connection_is_one_of_many(
        self, session: Session
    ) -> None:
        """RabbitMQ ends the connection over an unknown exchange type: 503."""
        refusal = session.refusal(
            "exchanges: [{exchange: NAME, type: x-unheard-of}]\n"
            "queues: [{queue: NAME.q, bindings: [{exchange: NAME}]}]"
        )
        assert (refusal.kind, refusal.code) == ("exchange", 503)
        assert "unknown exchange type" in str(refusal)
        assert session.there(".q")

    def test_a_broker_that_is_not_there_is_an_error(self) -> None:
        """No refusals are made up for it."""
        with socket.socket() as nobody_listens:
            nobody_listens.bind(("localhost", 0))
            port = nobody_listens.getsockname()[1]
            connection = kombu.Connection(f"amqp://localhost:{port}/")

            with pytest.raises(ConnectionRefusedError):
                Topology.load().declare(connection.channel)

    def test_a_broker_that_does_not_answer_is_a_timeout(self, session: Session) -> None:
        """It is not waited for once more, to close the channel."""
        channel = session.connection.channel()
        calls = []

        class Silent:
            """A channel on which the broker answers nothing."""

            prepare_queue_arguments = channel.prepare_queue_arguments

            def queue_declare(self, **_: Any) -> None:
                calls.append("queue_declare")
                channel.wait(spec.Queue.DeclareOk, timeout=0.1)

            def close(self) -> None:
                calls.append("close")

        with pytest.raises(TimeoutError):
            Topology.parse("queues: [{queue: q}]").declare(Silent)
        assert calls == ["queue_declare"]


@pytest.mark.parametrize(
    ("entry", "arguments"),
    [
        ("{queue: NAMEq, x_message_ttl: 010}", {"x-message-ttl": 8}),
        ("{queue: NAMEq, x_max_length: 0x10}", {"x-max-length": 16}),
        (
            "{queue: NAMEq, durable: 'true', x_max_length: 1_000}",
            {"x-max-length": 1000},
        ),
        ("{queue: NAMEq, x_ha_policy: all, arguments: {x-expires: 5}}", {}),
        ("{queue: NAMEq, x-message-ttl: 5, description: mine}", {}),
        ("{queue: NAMEq, x_expires: null, x_max_length: 0}", {"x-max-length": 0}),
        (
            "{queue: NAMEq, bindings: [{exchange: amq.topic, routing_key: a, to: b}]}",
            {},
        ),
        ("{queue: NAMEq}, {queue: NAMEq, bindings: [{exchange: amq.fanout}]}", {}),
        ("{queue: NAMEq, x_max_length: 5, x_max_length: 6}", {"x-max-length": 6}),
        ("{<<: *usual, queue: NAMEq}", {"x-max-length": 7}),
    ],
)
def test_what_amqp_dispatcher_took_is_declared(
    session: Session, entry: str, arguments: dict[str, Any]
) -> None:
    """And RabbitMQ has it as the file says."""
    text = f"x-usual: &usual {{x_max_length: 7}}\nversion: 2\nqueues: [{entry}]"
    session.declared(text)
    (queue,) = Topology.parse(text.replace("NAME", session.name)).queues
    assert queue.queue_arguments == arguments
    with session.connection.channel() as channel:  # refused, if it were another one
        channel.queue_declare(
            queue.name, durable=True, auto_delete=False, arguments=arguments
        )
