"""The arguments of a task as a report shows them: by name, as texts, no secrets."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from celery.utils.saferepr import saferepr

from oops_celery.publishing.scrubbing import SCRUBBED, scrub

#: Characters of an argument in a report: Celery's default (argsrepr).
ARGUMENT_WIDTH = 1024

#: Levels of an argument that Celery describes; a setting of Celery since 5.7.
MAX_LEVELS = 3


def arguments_of(
    task: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, str]:
    """Return the arguments by name, as texts, without secrets."""
    named = _named(task, args, kwargs)
    blanked = dict(named)
    scrub(blanked)
    texts = {name: saferepr(blanked[name], ARGUMENT_WIDTH) for name in blanked}
    described = _described(task, args, kwargs) if task.request.id == task_id else {}
    if not described:
        return texts
    # The sender's words instead. They may be Celery's own, of values that changed on
    # the way (a date became a text), and may contain a secret.
    plain = {name: saferepr(named[name], ARGUMENT_WIDTH) for name in named}
    return described if texts == plain else dict.fromkeys(described, SCRUBBED)


def _named(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        parameters = list(inspect.signature(task.run).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [one.name for one in parameters if one.kind in kinds]
    named = dict(zip(names, args, strict=False))
    for place, value in enumerate(args[len(names) :], len(names)):
        named[f"args[{place}]"] = value
    return {**named, **kwargs}


def _described(
    task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, str]:
    """Return the sender's own description of the arguments, if it is not Celery's."""
    amqp = task.app.amqp
    levels = task.app.conf.get("task_repr_maxlevels", MAX_LEVELS)
    texts = {
        "argsrepr": saferepr(args, amqp.argsrepr_maxsize, levels),
        "kwargsrepr": saferepr(kwargs, amqp.kwargsrepr_maxsize, levels),
    }
    given = {name: getattr(task.request, name, None) for name in texts}
    described = {name: text for name, text in given.items() if text is not None}
    if all(_bare(text) == _bare(texts[name]) for name, text in described.items()):
        return {}
    return described


def _bare(text: str) -> str:
    """Return a value as JSON changes it: tuples become lists."""
    return "".join(char for char in text if char not in "()[], ")
