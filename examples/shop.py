"""A small program that fails in several ways, and reports each failure.

Run by ``make run``; on its own: ``python -m examples.shop``.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults

import oops

from examples import celery_app, wsgi_app

config = oops.Config()
config.publisher = wsgi_app.config.publisher  # with a fallback
config.template["reporter"] = "shop"


def report(topic: str, exc_info: Any) -> str | None:
    """Publish what happened; return the id that a person can look it up by."""
    ids = config.publish(config.create({"exc_info": exc_info, "topic": topic}))
    return ids[-1] if ids else None


# 1. A request of a web application: oops-wsgi reports it, and shows its id to the user.


def fail_in_a_request() -> str | None:
    """Ask for something that is not sold."""
    environ: dict[str, Any] = {"QUERY_STRING": "item=coffee"}
    setup_testing_defaults(environ)
    answer: dict[str, str] = {}

    def start_response(_status: str, headers: list[tuple[str, str]], *_: Any) -> Any:
        answer.update(headers)
        return lambda _data: None

    list(wsgi_app.application(environ, start_response))
    return answer.get("X-Oops-Id")


# 2. A thread: threading.excepthook sees what nobody caught.


def fail_in_a_thread() -> str | None:
    """Let a thread die of an error."""
    ids: list[str | None] = []
    before = threading.excepthook
    threading.excepthook = lambda args: ids.append(
        report("stock keeper", (args.exc_type, args.exc_value, args.exc_traceback))
    )
    try:
        thread = threading.Thread(target=lambda: [1, 2, 3][7])
        thread.start()
        thread.join()
    finally:
        threading.excepthook = before
    return ids[0] if ids else None


# 3. A script: an error that its main function did not expect.


def fail_in_a_script() -> str | None:
    """Read a price list that is not there."""
    try:
        open("price list of last year").close()
    except OSError:
        return report("nightly import", sys.exc_info())
    return None


# 4. A task of a Celery application: oops_celery.report_failures reports it.


def fail_in_a_task() -> str | None:
    """Run a task that fails."""
    error = celery_app.invoice.apply(["a lot"]).result
    return getattr(error, "oops_id", None)


def failures() -> Iterator[tuple[str, str | None]]:
    """Fail in every way; yield what failed, and the id of its report."""
    yield "web request", fail_in_a_request()
    yield "thread", fail_in_a_thread()
    yield "script", fail_in_a_script()
    yield "Celery task", fail_in_a_task()


if __name__ == "__main__":
    for what, report_id in failures():
        print(what, report_id, sep="\t", flush=True)
