"""kombu's serializers of reports and of adopted messages; importing registers them."""

from __future__ import annotations

from typing import Any

from kombu.serialization import register

from oops_celery.wire.task import (
    ADOPTED,
    ADOPTED_CONTENT_TYPE,
    ADOPTED_MARK,
    CONTENT_ENCODING,
    CONTENT_TYPE,
    SERIALIZER,
)


def _report_of(task_body: tuple[Any, ...]) -> bytes:
    """Return the report in Celery's ``(args, kwargs, embed)``."""
    (body,), _, _ = task_body
    return body  # type: ignore[no-any-return]


def _task_body(body: bytes | str) -> tuple[Any, ...]:
    """Return Celery's ``(args, kwargs, embed)`` for a report, without parsing it.

    Celery decodes in the main process too: parsing there would cost twice, and a bad
    body would be acknowledged and lost.
    """
    return (body,), {}, {}


def _adopted_body(marked: bytes) -> tuple[Any, ...]:
    return (marked[len(ADOPTED_MARK) :],), {}, {}


register(SERIALIZER, _report_of, _task_body, CONTENT_TYPE, CONTENT_ENCODING)
register(ADOPTED, None, _adopted_body, ADOPTED_CONTENT_TYPE, CONTENT_ENCODING)
