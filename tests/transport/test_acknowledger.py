"""Many messages are acknowledged with one frame, and none that is still at work."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from oops_celery.transport.acknowledger import Acknowledger


class Broker:
    """A channel, and what the broker makes of it (AMQP 0-9-1, basic.ack)."""

    def __init__(self) -> None:
        self.unacknowledged: set[int] = set()
        self.acknowledged: set[int] = set()
        self.frames = 0

    def basic_ack(self, tag: int, multiple: bool = False) -> None:
        self.frames += 1
        assert tag in self.unacknowledged  # else: PRECONDITION_FAILED
        tags = {one for one in self.unacknowledged if one <= tag} if multiple else {tag}
        self.acknowledged |= tags
        self.unacknowledged -= tags


def given_messages(count: int) -> tuple[Broker, Acknowledger]:
    broker = Broker()
    acknowledger = Acknowledger(broker)
    for tag in range(1, count + 1):
        broker.unacknowledged.add(tag)
        acknowledger.came(tag)
    return broker, acknowledger


def test_one_is_acknowledged_at_once() -> None:
    broker, acknowledger = given_messages(3)
    acknowledger.acknowledge(2)
    assert broker.acknowledged == {2}


def test_a_batch_takes_one_frame() -> None:
    broker, acknowledger = given_messages(40)
    with acknowledger.together():
        for tag in range(1, 33):
            acknowledger.acknowledge(tag)
        assert broker.frames == 0
    assert broker.acknowledged == set(range(1, 33))
    assert broker.frames == 1


def test_those_behind_one_at_work_do_not_wait_for_it() -> None:
    broker, acknowledger = given_messages(4)
    with acknowledger.together():
        acknowledger.acknowledge(4)
        acknowledger.acknowledge(3)
    assert broker.acknowledged == {3, 4}
    acknowledger.acknowledge(1)
    with acknowledger.together():
        acknowledger.acknowledge(2)
    assert broker.unacknowledged == set()


def test_what_is_acknowledged_arrives_although_something_fails() -> None:
    broker, acknowledger = given_messages(2)
    try:
        with acknowledger.together():
            acknowledger.acknowledge(1)
            raise OSError
    except OSError:
        pass
    assert broker.acknowledged == {1}


steps = st.lists(
    st.tuples(st.sampled_from(["come", "ack", "reject", "batch"]), st.integers(0, 9)),
    max_size=60,
)


@given(steps)
def test_whatever_the_order_exactly_those_done_with_are_told(
    steps: list[tuple[str, int]],
) -> None:
    broker = Broker()
    acknowledger = Acknowledger(broker)
    at_work: list[int] = []
    acknowledged: set[int] = set()
    tag = 0
    for kind, number in steps:
        if kind == "come":
            for _ in range(number):
                tag += 1
                broker.unacknowledged.add(tag)
                acknowledger.came(tag)
                at_work.append(tag)
            continue
        with acknowledger.together():
            for _ in range(number if kind == "batch" else 1):
                if not at_work:
                    break
                one = at_work.pop(number % len(at_work))
                if kind == "reject":
                    broker.unacknowledged.discard(one)
                    acknowledger.rejected(one)
                else:
                    acknowledged.add(one)
                    acknowledger.acknowledge(one)
        assert broker.acknowledged == acknowledged
        assert broker.unacknowledged == set(at_work)
