"""Edit a dead letter's report as JSON, so that it can be replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from oops_celery import wire
from oops_celery.dead_letters.letter import Content, Letter
from oops_celery.errors import EditError

#: The field of an edited report with the id that it had before.
EDITED_FROM = "edited_from"


def as_json(content: Content) -> str:
    """Return a report as JSON that `edited` reads again: MongoDB's extended JSON.

    https://www.mongodb.com/docs/manual/reference/mongodb-extended-json/, relaxed.

    Raises:
        EditError: It is not a report.
    """
    try:
        report = wire.decode(content.body)
    except wire.Undecodable as error:
        raise EditError(f"it cannot be edited: {error}") from None
    return _json_util().dumps(report, indent=2, ensure_ascii=False) + "\n"  # type: ignore[no-any-return]


def edited(letter: Letter, content: Content, text: str) -> tuple[Letter, Content]:
    """Return a letter with its edited report.

    The report has a new id, unless somebody gave it another one, and remembers the old
    id in the field `EDITED_FROM`.

    Args:
        letter: The letter.
        content: Its content.
        text: The edited report, as of `as_json`.

    Raises:
        EditError: It is not JSON, or not a report.
    """
    try:
        report = _json_util().loads(text)
    except Exception as error:  # of many kinds
        raise EditError(f"it is not JSON: {error}") from None
    if not isinstance(report, Mapping):
        raise EditError("a report must be a JSON object: {...}")
    fields: dict[str, Any] = dict(report)
    if fields.get("id") == letter.id:
        del fields["id"]
    fields[EDITED_FROM] = letter.id
    encoded = wire.encode(fields, inherit_id=True)
    renamed = {"id": encoded.task_id, "root_id": encoded.task_id}
    headers = {
        name: renamed.get(name, value) for name, value in content.headers.items()
    }
    properties = dict(content.properties)
    if "correlation_id" in properties:
        properties["correlation_id"] = encoded.task_id
    known = wire.peek(encoded.body, ("type",))
    new = replace(
        letter,
        id=encoded.id,
        type=known.get("type", ""),
        time=wire.peek_time(encoded.body, "time"),
        size=len(encoded.body),
    )
    return new, Content(encoded.body, headers, properties)


def _json_util() -> Any:
    from bson import json_util

    return json_util
