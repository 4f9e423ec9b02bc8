"""What a topology declares on a real RabbitMQ, and what is said when it cannot."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import amqp
import kombu
import pytest
from conftest import eventually

import oops_celery
from oops_celery.topology import Queue, Refusal, Topology


@pytest.fixture
def connection(rabbitmq: Any) -> Iterator[kombu.Connection]:
    with kombu.Connection(rabbitmq.url) as connection:
        connection.connect()
        yield connection


@pytest.fixture
def other(rabbitmq: Any) -> Iterator[kombu.Connection]:
    """Another connection to the same broker."""
    with kombu.Connection(rabbitmq.url) as connection:
        connection.connect()
        yield connection


@pytest.fixture
def name(rabbitmq: Any) -> Iterator[str]:
    """Begins each name in a test; what has such a name is gone afterwards."""
    prefix = uuid.uuid4().hex[:8]
    yield prefix
    names = ["", ".a", ".b", ".c", ".dead", *(f".retry.{n}" for n in (1, 2, 3))]
    with kombu.Connection(rabbitmq.url) as connection:
        for each in names:
            connection.channel().queue_delete(prefix + each)
            connection.channel().exchange_delete(prefix + each)


@pytest.fixture
def declare(connection: kombu.Connection, name: str) -> Callable[[str], list[Refusal]]:
    """Declare a file in which NAME begins each name."""

    def declare(text: str) -> list[Refusal]:
        return Topology.parse(text.replace("NAME", name)).declare(connection.channel)

    return declare


def there(connection: kombu.Connection, queue: str) -> bool:
    """Return whether a queue is at the broker."""
    try:
        with connection.channel() as channel:
            channel.queue_declare(queue, passive=True)
    except amqp.NotFound:
        return False
    return True


def publish(connection: kombu.Connection, exchange: str, routing_key: str) -> None:
    """Publish a message that some queue must take."""
    with connection.channel() as channel:
        channel.basic_publish_confirm(
            amqp.Message("a report", delivery_mode=2),
            exchange,
            routing_key,
            mandatory=True,
        )


def taken(connection: kombu.Connection, queue: str) -> Any:
    """Take the next message of a queue, as soon as there is one."""
    channel = connection.channel()
    return eventually(lambda: channel.basic_get(queue))


class TestTheDefaultTopology:
    @pytest.fixture
    def topology(self, connection: kombu.Connection, name: str) -> Topology:
        """Return the packaged one, under names of our own, with a short first pause."""
        text = Path(oops_celery.__file__).with_name("topology.yml").read_text()
        text = text.replace("oopses", name).replace("ttl: 10000 ", "ttl: 50 ")
        topology = Topology.parse(text)
        assert topology.declare(connection.channel) == []
        return topology

    def test_is_declared_again_and_again(
        self, topology: Topology, connection: kombu.Connection, name: str
    ) -> None:
        """Each worker and each publisher declares it: the second time changes nothing."""
        assert topology.declare(connection.channel) == []
        assert there(connection, f"{name}.retry.3")

    def test_what_is_published_comes_to_the_queue(
        self, topology: Topology, connection: kombu.Connection, name: str
    ) -> None:
        """The exchange is a fanout: any routing key will do."""
        publish(connection, name, "whatever")

        assert taken(connection, name).body == "a report"

    def test_a_retry_comes_back_after_its_pause(
        self, topology: Topology, connection: kombu.Connection, name: str
    ) -> None:
        """A message in a waiting room is in the main queue when the TTL is over."""
        assert topology.retry_queues(name)[0].name == f"{name}.retry.1"
        publish(connection, "", f"{name}.retry.1")

        message = taken(connection, name)
        assert message.headers["x-first-death-queue"] == f"{name}.retry.1"
        assert message.headers["x-first-death-reason"] == "expired"

    def test_a_rejected_message_is_a_dead_letter(
        self, topology: Topology, connection: kombu.Connection, name: str
    ) -> None:
        """What a worker rejects is in the dead letter queue, not lost."""
        publish(connection, name, "")
        taken(connection, name).channel.basic_reject(1, requeue=False)

        message = taken(connection, f"{name}.dead")
        assert message.body == "a report"
        assert message.headers["x-first-death-reason"] == "rejected"

    def test_a_message_that_is_never_acknowledged_is_a_dead_letter(
        self, topology: Topology, connection: kombu.Connection, name: str
    ) -> None:
        """After ten more deliveries, a message that kills its worker is put aside."""
        publish(connection, name, "")
        for _ in range(11):
            message = taken(connection, name)
            message.channel.basic_reject(message.delivery_tag, requeue=True)

        dead = taken(connection, f"{name}.dead")
        assert dead.headers["x-first-death-reason"] == "delivery_limit"


class TestWhatIsDeclared:
    @pytest.mark.parametrize("number", [0, 1, 999, 10_001, 2**32, 315_360_000_000])
    @pytest.mark.parametrize("kind", ["classic", "quorum"])
    def test_numbers_are_at_the_broker_as_they_are_written(
        self, declare: Callable[[str], list[Refusal]], number: int, kind: str
    ) -> None:
        """The broker says so itself, when the next file has another number."""
        text = f"queues: [{{queue: NAME, x_queue_type: {kind}, x_message_ttl: %d}}]"
        assert declare(text % number) == []

        (refusal,) = declare(text % (number ^ 1))
        assert refusal.text.endswith(
            f"received '{number ^ 1}' but current is '{number}'"
        )

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
    def test_arguments_at_their_limits(
        self, declare: Callable[[str], list[Refusal]], entry: str
    ) -> None:
        """What the schema allows, RabbitMQ takes."""
        assert declare(f"queues: [{{queue: NAME, {entry}}}]") == []

    def test_zero_and_the_default_exchange_are_sent(
        self, declare: Callable[[str], list[Refusal]]
    ) -> None:
        """Neither 0 nor "" is taken for not set."""
        assert (
            declare(
                "queues: [{queue: NAME, x_message_ttl: 0, x_dead_letter_exchange: ''}]"
            )
            == []
        )

        (refusal,) = declare("queues: [{queue: NAME, x_message_ttl: 0}]")
        assert 'x_dead_letter_exchange is not set in the file, but ""' in str(refusal)

    def test_an_exclusive_queue_outlives_its_consumer(
        self,
        declare: Callable[[str], list[Refusal]],
        connection: kombu.Connection,
        other: kombu.Connection,
        name: str,
    ) -> None:
        """Exclusive alone does not delete it with its last consumer; auto_delete does."""
        assert (
            declare("""
queues:
  - {queue: NAME.a, exclusive: true}
  - {queue: NAME.b, exclusive: true, auto_delete: true}
""")
            == []
        )
        for queue in (f"{name}.a", f"{name}.b"):
            with connection.channel() as channel:
                channel.basic_consume(queue)

        assert there(connection, f"{name}.a")
        assert not there(connection, f"{name}.b")
        with pytest.raises(amqp.ResourceLocked):
            there(other, f"{name}.a")

    def test_bindings_route(
        self,
        declare: Callable[[str], list[Refusal]],
        connection: kombu.Connection,
        name: str,
    ) -> None:
        """Each binding of a queue brings it messages, also from the broker's exchanges."""
        assert (
            declare("""
exchanges: [{exchange: NAME, type: topic}]
queues:
  - queue: NAME
    bindings:
      - {exchange: NAME, routing_key: click.*}
      - {exchange: amq.topic, routing_key: NAME.#}
""")
            == []
        )
        publish(connection, name, "click.here")
        publish(connection, "amq.topic", f"{name}.there")

        keys = [taken(connection, name).routing_key for _ in range(2)]
        assert keys == ["click.here", f"{name}.there"]

    def test_a_binding_has_arguments(
        self,
        declare: Callable[[str], list[Refusal]],
        connection: kombu.Connection,
        name: str,
    ) -> None:
        """A headers exchange routes by them."""
        assert (
            declare("""
exchanges: [{exchange: NAME, type: headers}]
queues:
  - {queue: NAME, bindings: [{exchange: NAME, arguments: {x-match: all, kind: a}}]}
""")
            == []
        )
        for kind in "ba":
            message = amqp.Message(kind, application_headers={"kind": kind})
            connection.default_channel.basic_publish(message, name)

        assert taken(connection, name).body == "a"

    def test_an_internal_exchange_takes_nothing_from_a_publisher(
        self,
        declare: Callable[[str], list[Refusal]],
        connection: kombu.Connection,
        name: str,
    ) -> None:
        """Only other exchanges feed it."""
        text = "exchanges: [{exchange: NAME, type: fanout, internal: %s}]"
        assert declare(text % "true") == []
        assert declare(text % "true") == []

        with pytest.raises(amqp.AccessRefused, match="internal exchange"):
            publish(connection, name, "")
        (refusal,) = declare(text % "false")
        assert "internal is false in the file, but true at the broker" in str(refusal)

    def test_an_exchange_has_arguments(
        self,
        declare: Callable[[str], list[Refusal]],
        connection: kombu.Connection,
        name: str,
    ) -> None:
        """What an exchange cannot route goes to its alternate exchange."""
        assert (
            declare("""
exchanges:
  - {exchange: NAME.a, arguments: {alternate-exchange: NAME.b}}
  - {exchange: NAME.b, type: fanout}
queues: [{queue: NAME, bindings: [{exchange: NAME.b}]}]
""")
            == []
        )
        publish(connection, f"{name}.a", "nowhere")

        assert taken(connection, name).body == "a report"

    def test_a_bound_queue_declares_the_same(
        self, connection: kombu.Connection, name: str
    ) -> None:
        """kombu and Celery declare a copy, bound to a channel of theirs."""
        text = f"queues: [{{queue: {name}, exclusive: true, x_max_length: 7}}]"
        topology = Topology.parse(text)
        topology.queues[0](connection.channel()).declare()

        assert topology.declare(connection.channel) == []

    def test_a_passive_queue_may_have_any_arguments(
        self,
        declare: Callable[[str], list[Refusal]],
        connection: kombu.Connection,
        name: str,
    ) -> None:
        """It is there, and that is enough; its bindings are made."""
        assert declare("queues: [{queue: NAME, x_max_length: 5}]") == []
        assert (
            declare("""
queues: [{queue: NAME, passive: true, bindings: [{exchange: amq.fanout}]}]
""")
            == []
        )
        publish(connection, "amq.fanout", "")

        assert taken(connection, name).body == "a report"


class TestWhatIsRefused:
    def test_a_passive_queue_that_is_missing(
        self,
        declare: Callable[[str], list[Refusal]],
        connection: kombu.Connection,
        name: str,
    ) -> None:
        """One refusal, which says that the file wants it so; nothing is made."""
        (refusal,) = declare(
            "queues: [{queue: NAME, passive: true, bindings: [{exchange: amq.fanout}]}]"
        )

        assert str(refusal) == (
            f"queue {name}: it is not there, and the file says passive: true, so it is"
            " not made; make it first, or remove passive from the file"
        )
        assert (refusal.kind, refusal.name, refusal.code) == ("queue", name, 404)
        assert not there(connection, name)

    def test_a_passive_exchange_that_is_missing(
        self, declare: Callable[[str], list[Refusal]]
    ) -> None:
        """As with a queue; what should be bound to it is not reported again."""
        (refusal,) = declare("""
exchanges: [{exchange: NAME, passive: true}]
queues: [{queue: NAME, bindings: [{exchange: NAME}]}]
""")

        assert (refusal.kind, refusal.code, refusal.passive) == ("exchange", 404, True)

    def test_a_queue_with_other_arguments(
        self, declare: Callable[[str], list[Refusal]], name: str
    ) -> None:
        """406: one line with the queue, the argument, both values and the way out."""
        assert declare("queues: [{queue: NAME, x_message_ttl: 10000}]") == []
        (refusal,) = declare("queues: [{queue: NAME, x_message_ttl: 100}]")

        assert refusal.code == 406
        assert str(refusal) == (
            f"queue {name}: x_message_ttl is 100 in the file, but 10000 at the broker;"
            " change the file, or delete the queue at the broker once it is empty"
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
        self,
        declare: Callable[[str], list[Refusal]],
        before: str,
        after: str,
        said: str,
    ) -> None:
        """RabbitMQ has several ways to say it; a person reads one."""
        assert declare(f"queues: [{{queue: NAME, {before}}}]") == []
        (refusal,) = declare(f"queues: [{{queue: NAME, {after}}}]")

        assert said in str(refusal)

    def test_a_long_name_leaves_no_room_for_the_values(
        self, connection: kombu.Connection
    ) -> None:
        """RabbitMQ cuts its text after 255 bytes; the argument is named all the same."""
        name = uuid.uuid4().hex + "q" * 200
        Topology.parse(f"queues: [{{queue: {name}}}]").declare(connection.channel)
        other = Topology.parse(f"queues: [{{queue: {name}, x_max_length: 1}}]")
        (refusal,) = other.declare(connection.channel)
        connection.channel().queue_delete(name)

        assert "x_max_length is not the same in the file and at the broker" in str(
            refusal
        )

    def test_an_exchange_of_another_type(
        self, declare: Callable[[str], list[Refusal]], name: str
    ) -> None:
        """The exchange, its type, both values."""
        assert declare("exchanges: [{exchange: NAME, type: fanout}]") == []
        (refusal,) = declare("exchanges: [{exchange: NAME, type: topic}]")

        assert str(refusal).startswith(
            f"exchange {name}: type is topic in the file, but fanout at the broker;"
        )

    def test_an_argument_that_the_queue_cannot_have(
        self, declare: Callable[[str], list[Refusal]], name: str
    ) -> None:
        """RabbitMQ's reason is passed on."""
        (refusal,) = declare("queues: [{queue: NAME, x_delivery_limit: 1}]")

        assert refusal.code == 406
        assert str(refusal).startswith(
            f"queue {name}: the broker says: invalid arg 'x-delivery-limit'"
        )

    def test_a_queue_that_another_connection_has(
        self,
        declare: Callable[[str], list[Refusal]],
        other: kombu.Connection,
        name: str,
    ) -> None:
        """405: it says what is in the way."""
        other.channel().queue_declare(name, exclusive=True)
        (refusal,) = declare(
            "queues: [{queue: NAME, bindings: [{exchange: amq.fanout}]}]"
        )

        assert refusal.code == 405
        assert "end the connection that has it, or change exclusive" in str(refusal)

    def test_a_queue_without_the_right(self, connection: kombu.Connection) -> None:
        """403: it says which right is missing, and what else one can do."""
        topology = Topology(queues=(Queue("amq.mine"),))
        (refusal,) = topology.declare(connection.channel)

        assert refusal.code == 403
        assert "give the user the right to configure it, or say passive" in str(refusal)

    def test_a_binding_to_an_exchange_that_is_missing(
        self, declare: Callable[[str], list[Refusal]], name: str
    ) -> None:
        """An exchange named only in a binding must be there: it is never declared."""
        (refusal,) = declare("""
queues: [{queue: NAME, bindings: [{exchange: NAME.a, routing_key: k}]}]
""")

        assert str(refusal) == (
            f"binding {name}.a -> {name} (k): the broker says: no exchange '{name}.a' in"
            " vhost '/'; declare it in the file, or make it at the broker first"
        )

    def test_the_rest_is_declared(
        self,
        declare: Callable[[str], list[Refusal]],
        connection: kombu.Connection,
        name: str,
    ) -> None:
        """A refusal closes the channel; what comes after it gets another one."""
        assert declare("queues: [{queue: NAME.a, x_max_length: 1}]") == []
        refusals = declare("""
exchanges: [{exchange: NAME.c, passive: true}, {exchange: NAME, type: fanout}]
queues:
  - {queue: NAME.a, x_max_length: 2, bindings: [{exchange: NAME}]}
  - {queue: NAME.b, bindings: [{exchange: NAME.dead}, {exchange: NAME}]}
""")

        assert [refusal.code for refusal in refusals] == [404, 406, 404]
        publish(connection, name, "")
        assert taken(connection, f"{name}.a").body == "a report"
        assert taken(connection, f"{name}.b").body == "a report"

    def test_no_channel_stays_open(
        self, declare: Callable[[str], list[Refusal]], connection: kombu.Connection
    ) -> None:
        """Neither after success nor after refusals: a publisher declares for years."""
        before = set(connection.connection.channels)
        declare("queues: [{queue: NAME.a}, {queue: NAME.b, passive: true}]")
        declare("queues: [{queue: NAME.b, passive: true}, {queue: NAME.c}]")

        assert set(connection.connection.channels) == before


class TestWhatIsNotTheTopologysBusiness:
    def test_an_error_of_the_connection_is_raised(
        self, declare: Callable[[str], list[Refusal]]
    ) -> None:
        """RabbitMQ ends the connection over an unknown exchange type: 503."""
        with pytest.raises(amqp.ConnectionError, match="unknown exchange type"):
            declare("exchanges: [{exchange: NAME, type: x-unheard-of}]")

    def test_a_broker_that_is_not_there_is_an_error(self, unused_port: int) -> None:
        """No refusals are made up for it."""
        connection = kombu.Connection(f"amqp://localhost:{unused_port}/")

        with pytest.raises(ConnectionRefusedError):
            Topology.load().declare(connection.channel)

    @pytest.fixture
    def unused_port(self) -> Iterator[int]:
        """Return a port where nobody listens: it is bound, so that nobody can."""
        import socket

        with socket.socket() as taken:
            taken.bind(("localhost", 0))
            yield taken.getsockname()[1]

    def test_a_broker_that_does_not_answer_is_a_timeout(
        self, connection: kombu.Connection, name: str
    ) -> None:
        """It is not waited for a second time, to close the channel."""
        channel = connection.channel()
        connection.connection.transport.sock.settimeout(0.2)
        waits = []

        class Silent:
            """A channel on which nothing is ever answered."""

            def __getattr__(self, name: str) -> Any:
                return getattr(channel, name)

            def queue_declare(self, *args: Any, **kwargs: Any) -> None:
                waits.append("declare")
                channel.wait(amqp.spec.Queue.DeclareOk, timeout=0.2)

            def close(self) -> None:
                waits.append("close")

        with pytest.raises(TimeoutError):
            Topology.parse(f"queues: [{{queue: {name}}}]").declare(Silent)
        assert waits == ["declare"]
