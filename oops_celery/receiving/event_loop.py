"""The event loop for coroutines of consumers: one in a process, which keeps running."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

#: Seconds that the consumers' tasks may take to end after they are cancelled.
CANCEL_TIMEOUT = 1.0

logger = logging.getLogger("amqp-dispatcher")


class Loop:
    """An event loop in its own thread, started at its first use.

    Connections, locks and background tasks of consumers live as long as the process. A
    forked process starts its own loop.
    """

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def call(self, function: Callable[..., Any], *args: Any) -> None:
        """Call a function in the loop."""
        self._begun().call_soon_threadsafe(function, *args)

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """Run a coroutine in the loop, and wait for it in another thread.

        Raises:
            BaseException: Whatever it raises.
        """
        ending = asyncio.run_coroutine_threadsafe(_outcome(awaitable), self._begun())
        result, error = ending.result()
        if error is not None:
            raise error
        return result

    def stop(self) -> None:
        """Cancel the tasks in the loop, and end it."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is None:
            return
        ending = asyncio.run_coroutine_threadsafe(_cancel_all(), loop)
        with suppress(TimeoutError):
            ending.result(CANCEL_TIMEOUT)
        loop.call_soon_threadsafe(loop.stop)

    def _begun(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=self._keep_running,
                    args=(self._loop,),
                    name="consumers-loop",
                    daemon=True,
                ).start()
            return self._loop

    def _keep_running(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        while True:
            try:
                loop.run_forever()
                return
            except BaseException:  # sys.exit() in a background task
                logger.exception("the event loop goes on")


async def _outcome(
    awaitable: Awaitable[Any],
) -> tuple[Any, BaseException | None]:
    # Other exceptions than Exception would end the loop.
    try:
        return await awaitable, None
    except BaseException as error:
        return None, error


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


#: The loop of this process.
LOOP = Loop()
