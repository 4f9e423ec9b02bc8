"""Run consumers in the worker's own process: in threads, or in its event loop.

A class with a coroutine ``consume`` runs in the one event loop, ``consumer_count``
instances at once; other classes run in as many threads, with an instance each. So a
busy entry needs no processes. The main loop tells Celery about outcomes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import kombu
from celery import signals
from celery.worker.state import revoked

from oops_celery.dispatcher.instances import Kind, Outcome, Place, now
from oops_celery.dispatcher.message import Message
from oops_celery.dispatcher.proxy import Answer
from oops_celery.receiving.event_loop import LOOP
from oops_celery.wire.task import ORIGINAL

if TYPE_CHECKING:
    from oops_celery.dispatcher.request import MessageRequest

logger = logging.getLogger("amqp-dispatcher")


class MainLoopCalls:
    """Calls that threads leave for the worker's main loop, in order.

    Without such a loop (in green pools), they are called at once.

    Args:
        hub: kombu's event loop; None if there is none.
        together: A block in which acknowledgements share frames.
    """

    def __init__(
        self, hub: Any, together: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._together = together
        self._calls: deque[tuple[Callable[[], Any], MessageRequest | None]] = deque()
        self._has_hub = hub is not None
        self._alone = threading.RLock()
        self._woken = False
        if self._has_hub:
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._reader, False)

    def listen(self, hub: Any) -> None:
        """Make the loop call what is told; again after each lost connection."""
        if self._has_hub:
            hub.add_reader(self._reader, self._wake)

    def tell(
        self, call: Callable[[], Any], taken: MessageRequest | None = None
    ) -> None:
        """Leave a call for the main loop.

        Args:
            call: The call.
            taken: Its message is acknowledged first, so that the next one comes
                meanwhile.
        """
        self._calls.append((call, taken))
        if not self._has_hub:
            self.do()
        elif not self._woken:
            self._woken = True
            os.write(self._writer, b"\0")

    def _wake(self) -> None:
        os.read(self._reader, 4096)
        self._woken = False
        self.do()

    def do(self) -> None:
        """Call everything that was told."""
        with self._alone:
            calls = [self._calls.popleft() for _ in range(len(self._calls))]
            try:
                with self._together():
                    for _, request in calls:
                        if request is not None:
                            request.acknowledge()
            finally:
                for call, _ in calls:
                    try:
                        call()
                    except Exception:
                        logger.exception("the end of a message is not told")


class Runner:
    """Runs the messages of an entry."""

    #: Whether it runs them in the worker's own process.
    in_process = True

    def put(self, request: MessageRequest) -> None:
        """Take a message, and run it when its turn comes."""
        raise NotImplementedError

    def ended(self, message: kombu.Message) -> None:
        """Note that a message has its answer."""

    def drop(self) -> None:
        """Drop the messages that wait."""
        raise NotImplementedError

    def close(self) -> None:
        """Shut every instance down after its current message."""

    @property
    def is_closed(self) -> bool:
        """Whether all instances are shut down."""
        return True


class PoolRunner(Runner):
    """Celery's pool, of which an entry has some places.

    Args:
        count: The number of places.
        begin: Hands a message to the pool.
    """

    in_process = False

    def __init__(self, count: int, begin: Callable[[MessageRequest], None]) -> None:
        self._count = count
        self._begin = begin
        self._waiting: deque[MessageRequest] = deque()
        self._at_work: set[int] = set()
        self._beginning = False
        self._lock = threading.RLock()

    def put(self, request: MessageRequest) -> None:
        """Hand a message to the pool when there is a place."""
        with self._lock:
            self._waiting.append(request)
        self._advance()

    def ended(self, message: kombu.Message) -> None:
        """Begin the next one."""
        with self._lock:
            self._at_work.discard(id(message))
        self._advance()

    def drop(self) -> None:
        """Drop the messages that wait."""
        with self._lock:
            self._waiting.clear()

    def _advance(self) -> None:
        with self._lock:
            if self._beginning:  # the solo pool runs a task in place
                return
            self._beginning = True
            try:
                while self._waiting and len(self._at_work) < self._count:
                    request = self._waiting.popleft()
                    self._at_work.add(id(request.message))
                    self._begin(request)
            finally:
                self._beginning = False


class OwnProcessRunner(Runner):
    """Runs messages in the worker's own process.

    Args:
        count: How many at once.
        kind: The class.
        publish: Sends the messages that consumers publish.
        told: Tells the main loop about outcomes.
    """

    def __init__(
        self, count: int, kind: Kind, publish: Callable[..., None], told: MainLoopCalls
    ) -> None:
        self.count = count
        self.kind = kind
        self._publish = publish
        self._told = told

    async def work(self, place: Place, request: MessageRequest) -> None:
        """Consume a message, and tell its outcome."""
        if request.id in revoked:
            self._told.tell(request.revoked)
            return
        self._told.tell(partial(request.on_accepted, os.getpid(), time.monotonic()))
        outcome = await self._consumed(place, request)
        taken = request if outcome.answer is Answer.ACK else None
        self._told.tell(partial(request.on_outcome, outcome), taken)
        logger.info(
            "Task %s[%s] %s in %.6fs: %s",
            self.kind.name,
            request.id,
            "succeeded" if outcome.error is None else "failed",
            outcome.seconds,
            outcome.reason,
        )

    async def _consumed(self, place: Place, request: MessageRequest) -> Outcome:
        """Consume a message, with Celery's signals before and after."""
        message = message_of(request.args[0], request.request_dict)
        about = {
            "task_id": request.id,
            "args": request.args,
            "kwargs": request.kwargs,
        }
        sent = {"sender": request.task, "task": request.task, **about}
        if signals.task_prerun.receivers:
            signals.task_prerun.send(**sent)
        outcome = await place.consume(message, self._publish)
        error = outcome.error
        if error is not None and signals.task_failure.receivers:
            signals.task_failure.send(
                sender=request.task,
                exception=error,
                traceback=error.__traceback__,
                einfo=None,
                **about,
            )
        if error is None and signals.task_success.receivers:
            signals.task_success.send(sender=request.task, result=outcome.answer.value)
        if signals.task_postrun.receivers:
            state = "SUCCESS" if error is None else "FAILURE"
            signals.task_postrun.send(**sent, retval=None, state=state)
        return outcome


def message_of(body: bytes, headers: Any) -> Message:
    """Return a message as its consumer gets it."""
    original = headers.get(ORIGINAL) or {}
    return Message(
        body,
        original.get("delivery_info") or {},
        original.get("properties") or {},
    )


class ThreadRunner(OwnProcessRunner):
    """Runs messages in threads, each with its own instance."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._requests: SimpleQueue[MessageRequest | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def put(self, request: MessageRequest) -> None:
        """Take a message; the threads start with the first one."""
        if not self._threads:
            for number in range(self.count):
                name = f"{self.kind.name}-{number}"
                # A daemon: when the worker ends, nobody waits for a stuck one.
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
        self._requests.put(request)

    def _run(self) -> None:
        place = Place(self.kind)
        while (request := self._requests.get()) is not None:
            try:
                now(self.work(place, request))
            except BaseException:
                logger.exception("%s is not told of", request.id)
        now(place.close())

    def drop(self) -> None:
        """Drop the messages that wait."""
        try:
            while True:
                self._requests.get_nowait()
        except Empty:
            pass

    def close(self) -> None:
        """End every thread after its current message."""
        for _ in self._threads:
            self._requests.put(None)

    @property
    def is_closed(self) -> bool:
        """Whether all threads have ended."""
        return not any(thread.is_alive() for thread in self._threads)


class LoopRunner(OwnProcessRunner):
    """Runs messages in the event loop."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._requests: deque[MessageRequest] = deque()
        self._idle = [Place(self.kind, in_loop=True) for _ in range(self.count)]
        self._fed = False
        self._closing = False
        self._tasks: set[Any] = set()

    def put(self, request: MessageRequest) -> None:
        """Take a message."""
        self._requests.append(request)
        if not self._fed:
            self._fed = True
            LOOP.call(self._feed)

    def _feed(self) -> None:
        self._fed = False
        while self._idle and (self._requests or self._closing):
            serving = asyncio.ensure_future(self._serve(self._idle.pop()))
            self._tasks.add(serving)
            serving.add_done_callback(self._tasks.discard)

    async def _serve(self, place: Place) -> None:
        while self._requests:
            await self.work(place, self._requests.popleft())
            await asyncio.sleep(0)  # let others have their turn
        if self._closing:
            await place.close()
        else:
            self._idle.append(place)

    def drop(self) -> None:
        """Drop the messages that wait."""
        self._requests.clear()

    def close(self) -> None:
        """Shut every instance down after its current message."""
        self._closing = True
        if self._tasks or any(place.has_instance for place in self._idle):
            LOOP.call(self._feed)
        else:  # nothing to shut down: the loop may not run at all
            self._idle.clear()

    @property
    def is_closed(self) -> bool:
        """Whether all instances are shut down."""
        return self._closing and not (self._idle or self._tasks)
