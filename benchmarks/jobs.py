"""Consumers for `benchmarks.dispatching`, as amqp-dispatcher has them.

They need nothing but Python: they run in other environments too.
"""

import asyncio
import itertools
import json
import os
import time

COUNT = int(os.environ["COUNT"])
SECONDS = float(os.environ["SECONDS"])
numbers = itertools.count(1)
times = {}
waits = []


def done(body):
    """Note when the first tenth was done, and all; and how long each one took."""
    number = next(numbers)
    if SECONDS == 0:
        waits.append(time.time() - float(body))
    if number == max(COUNT // 10, 1):
        times["from"] = time.time()
    if number == COUNT:
        times.update(
            to=time.time(), median=sorted(waits)[len(waits) // 2] if waits else 0
        )
        with open("result.tmp", "w") as file:
            json.dump(times, file)
        os.rename("result.tmp", "result.json")


class Consumer:
    """Does nothing, or waits, and answers."""

    def consume(self, amqp, msg):
        """Consume a message."""
        if SECONDS:
            time.sleep(SECONDS)  # that of gevent, where it is patched
        amqp.ack()
        done(msg.body)

    def shutdown(self, exception=None):
        """End."""


class Async:
    """The same, as a coroutine."""

    async def consume(self, amqp, msg):
        """Consume a message."""
        if SECONDS:
            await asyncio.sleep(SECONDS)
        await amqp.ack()
        done(msg.body)

    async def shutdown(self, exception=None):
        """End."""
