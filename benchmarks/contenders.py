"""Each contender, run as a program of its own: `python contenders.py NAME SETTINGS`.

It prints what it measured as JSON. Those of oops-amqp run in an environment that has
oops-amqp as pip installs it; so everything else is imported where it is used.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from reports import reports

#: Reports before the clock starts: connections are open, code is loaded.
WARM_UP = 50

Settings = dict[str, Any]


def items_of(at: Settings) -> list[dict[str, Any]]:
    """Return the reports to publish, those of the warm-up first."""
    return list(reports(at["size"], at["count"] + WARM_UP, at["seed"]))


def seconds_for(do: Callable[[Any], Any], items: list[Any]) -> float:
    """Return the seconds for one item."""
    for item in items[:WARM_UP]:
        do(item)
    started = time.perf_counter()
    for item in items[WARM_UP:]:
        do(item)
    return (time.perf_counter() - started) / (len(items) - WARM_UP)


# -- Publishing, one by one -----------------------------------------------------------


def oops_amqp(at: Settings) -> float:
    """oops-amqp's Publisher: unconfirmed, it knows nothing else."""
    import functools

    import amqp
    import oops_amqp

    factory = functools.partial(amqp.Connection, host=at["host"])
    publish = oops_amqp.Publisher(factory, "oopses", "")
    return seconds_for(publish, items_of(at))


def ours(at: Settings) -> float:
    """Our Publisher: confirmed and routed."""
    return _ours(at, confirm=True)


def ours_unconfirmed(at: Settings) -> float:
    """Our Publisher with ``confirm=False``."""
    return _ours(at, confirm=False)


def _ours(at: Settings, confirm: bool) -> float:
    import oops_celery

    publish = oops_celery.Publisher(confirm=confirm)
    assert publish({"first": 1}), "nothing is published"
    return seconds_for(publish, items_of(at))


def oops_amqp_first(at: Settings) -> float:
    """The first report of a process, by oops-amqp."""
    import functools

    import amqp
    import oops_amqp

    factory = functools.partial(amqp.Connection, host=at["host"])
    return _seconds_of_first(oops_amqp.Publisher(factory, "oopses", ""), at)


def ours_first(at: Settings) -> float:
    """The first report of a process: connect, declare, publish, confirm."""
    import oops_celery

    return _seconds_of_first(oops_celery.publisher, at)


def bare_first(at: Settings) -> float:
    """The floor of a first report: connect, publish, confirm."""
    import amqp

    (body,) = bodies({**at, "count": 1 - WARM_UP})

    def publish(_: Any) -> bool:
        connection = amqp.Connection(host=at["host"], confirm_publish=True)
        connection.connect()
        message = amqp.Message(body, delivery_mode=2)
        connection.channel().basic_publish(message, "oopses", "", mandatory=True)
        return True

    return _seconds_of_first(publish, at)


def _seconds_of_first(publish: Callable[[Any], Any], at: Settings) -> float:
    (report,) = reports(at["size"], 1, at["seed"])
    started = time.perf_counter()
    assert publish(report), "nothing is published"
    return time.perf_counter() - started


def bare(at: Settings) -> float:
    """The floor: py-amqp sends bytes that are ready, and waits for the confirm."""
    return _bare(at, confirm=True)


def bare_unconfirmed(at: Settings) -> float:
    """The floor without a confirm."""
    return _bare(at, confirm=False)


def _bare(at: Settings, confirm: bool) -> float:
    import amqp

    connection = amqp.Connection(host=at["host"], confirm_publish=confirm)
    connection.connect()
    channel = connection.channel()

    def publish(body: bytes) -> None:
        message = amqp.Message(body, delivery_mode=2)
        channel.basic_publish(message, "oopses", "", mandatory=confirm)

    return seconds_for(publish, bodies(at))


def bare_encoded(at: Settings) -> float:
    """The floor of what starts with a report: BSON and MD5, then `bare`."""
    import hashlib

    import amqp
    import bson

    connection = amqp.Connection(host=at["host"], confirm_publish=True)
    connection.connect()
    channel = connection.channel()

    def publish(report: dict[str, Any]) -> None:
        body = bson.encode(report)
        hashlib.md5(body).hexdigest()
        message = amqp.Message(body, delivery_mode=2)
        channel.basic_publish(message, "oopses", "", mandatory=True)

    return seconds_for(publish, items_of(at))


def bodies(at: Settings) -> list[bytes]:
    """Return the reports as they are on the wire."""
    from oops_celery import wire

    return [wire.encode(report).body for report in items_of(at)]


# -- Publishing many ------------------------------------------------------------------


def ours_many(at: Settings) -> float:
    """`publish_many`: each confirmed, many confirms in flight."""
    import oops_celery

    publisher = oops_celery.Publisher()
    items = items_of(at)
    assert all(publisher.publish_many(items[:WARM_UP]))
    started = time.perf_counter()
    done = sum(map(len, publisher.publish_many(items[WARM_UP:])))
    seconds = time.perf_counter() - started
    assert done == at["count"], "some were not published"
    return seconds / done


def bare_many(at: Settings) -> float:
    """The floor: a loop of py-amqp with confirms in flight."""
    import amqp

    connection = amqp.Connection(host=at["host"])
    connection.connect()
    channel = connection.channel()
    channel.confirm_select()
    confirmed = 0

    def on_ack(tag: int, _: bool) -> None:
        nonlocal confirmed
        confirmed = max(confirmed, tag)

    channel.events["basic_ack"].add(on_ack)
    items = bodies(at)[WARM_UP:]
    started = time.perf_counter()
    for sent, body in enumerate(items):
        message = amqp.Message(body, delivery_mode=2)
        channel.basic_publish(message, "oopses", "", mandatory=True)
        while sent - confirmed > 1000:
            connection.drain_events(timeout=5)
    while confirmed < len(items):
        connection.drain_events(timeout=5)
    return (time.perf_counter() - started) / len(items)


def oops_amqp_resubmit(at: Settings) -> float:
    """A fallback repository goes to the broker: datedir2amqp's way."""
    import functools

    import amqp
    import oops_amqp
    from oops_datedir_repo import DateDirRepo

    factory = functools.partial(amqp.Connection, host=at["host"])
    publish = oops_amqp.Publisher(factory, "oopses", "", inherit_id=True)
    started = time.perf_counter()
    DateDirRepo(at["folder"], inherit_id=True).republish(publish)
    return (time.perf_counter() - started) / at["count"]


# -- Receiving ------------------------------------------------------------------------


def oops_amqp_receiver(at: Settings) -> float:
    """oops-amqp's Receiver into a DateDirRepo; ends with the sentinel."""
    import functools

    import amqp
    import oops
    import oops_amqp
    from oops_datedir_repo import DateDirRepo

    config = oops.Config()
    config.publisher = DateDirRepo(at["folder"], inherit_id=True).publish
    factory = functools.partial(amqp.Connection, host=at["host"])
    receiver = oops_amqp.Receiver(config, factory, "oopses")
    receiver.sentinel = b"end"
    receiver.run_forever()
    return 0.0


def bare_receiver(at: Settings) -> float:
    """The limit of receiving: py-amqp, the fast bson, our folder, and nothing else.

    No retries, no parking, no events, and where its process dies, nobody goes on.
    """
    import amqp

    from oops_celery import settings
    from oops_celery.receiving.receive import receive
    from oops_celery.repository.config import load_config

    config = load_config(settings.Settings(repository=at["folder"]))
    connection = amqp.Connection(host=at["host"])
    connection.connect()
    channel = connection.channel()
    channel.auto_decode = False
    channel.basic_qos(0, 64, False)

    def on_message(message: Any) -> None:
        receive(config, message.body)
        channel.basic_ack(message.delivery_tag)

    channel.basic_consume("oopses", callback=on_message)
    try:
        while True:
            connection.drain_events(timeout=2)
    except TimeoutError:
        return 0.0


CONTENDERS: dict[str, Callable[[Settings], float]] = {
    one.__name__: one
    for one in (
        oops_amqp,
        oops_amqp_first,
        ours,
        ours_first,
        bare_first,
        ours_unconfirmed,
        bare,
        bare_unconfirmed,
        bare_encoded,
        ours_many,
        bare_many,
        oops_amqp_resubmit,
        oops_amqp_receiver,
        bare_receiver,
    )
}

if __name__ == "__main__":
    print(json.dumps(CONTENDERS[sys.argv[1]](json.loads(sys.argv[2]))))
