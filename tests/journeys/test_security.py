"""What docs/security.md promises of messages that somebody made to do harm."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oops_celery import wire
from tests.support import Node, Worker, eventually


class Harm:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def bodies(harm: Path) -> dict[str, bytes]:
    tag = f"!!python/object/apply:pathlib.Path.touch [!!python/tuple ['{harm}']]"
    return {
        "application/x-python-serialize": pickle.dumps(((Harm(harm),), {}, {})),
        "application/x-yaml": f"[[{tag}], {{}}, {{}}]".encode(),
        "application/x-msgpack": b"\x93\x91\x01\x80\x80",
        "application/json": b'[["x"], {}, {}]',
    }


@pytest.mark.parametrize("task", ["oops_celery.republish", "celery.map", None])
def test_only_bson_is_parsed_and_the_rest_is_parked_unread(
    broker: Node, worker: Callable[..., Worker], tmp_path: Path, task: str | None
) -> None:
    started = worker("-c", "1")
    harm = tmp_path / "harm"
    sent = bodies(harm)
    for content_type, body in sent.items():
        headers = {"task": task, "id": content_type, "lang": "py"} if task else {}
        broker.publish(
            "oopses",
            body,
            content_type=content_type,
            content_encoding="binary",
            application_headers=headers,
        )
    report = wire.encode({"n": 1})
    broker.publish("oopses", report.body)
    eventually(lambda: len(started.files()) == 1)
    eventually(lambda: broker.count("oopses.dead") == len(sent))
    parked = {one.content_type: one.body for one in broker.messages("oopses.dead")}
    if task:
        assert parked == sent
    else:
        assert set(parked) == set(sent)
        assert sorted(parked.values()) == sorted(sent.values())
    assert not harm.exists()


def test_remote_control_can_be_left_out(
    broker: Node, worker: Callable[..., Worker]
) -> None:
    worker("-c", "1", OOPS_WORKER_ENABLE_REMOTE_CONTROL="0")
    assert "pidbox" not in broker.ctl("list_queues", "-q", "name")
