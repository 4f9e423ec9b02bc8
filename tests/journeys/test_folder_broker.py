"""The broker of ``make run``: a folder."""

from __future__ import annotations

import multiprocessing
import time
from contextlib import suppress
from pathlib import Path
from queue import Empty

import kombu

#: Seconds of writing and reading, as quickly as both can.
SECONDS = 2.0


def connect(folder: Path) -> kombu.Connection:
    for name in ("messages", "control", "processed"):
        (folder / name).mkdir(exist_ok=True)
    return kombu.Connection(
        "filesystem://",
        transport="examples.folder_broker:Transport",
        transport_options={
            "data_folder_in": str(folder / "messages"),
            "data_folder_out": str(folder / "messages"),
            "control_folder": str(folder / "control"),
            "processed_folder": str(folder / "processed"),
            "polling_interval": 1e-6,
        },
    )


def write(folder: Path, written: multiprocessing.Value) -> None:
    until = time.monotonic() + SECONDS
    with connect(folder) as connection:
        queue = connection.SimpleQueue("q")
        while time.monotonic() < until:
            queue.put({"number": written.value, "filler": "x" * 10_000})
            written.value += 1


def test_a_message_is_taken_whole(tmp_path: Path) -> None:
    """By a reader that looks while it is being written."""
    written = multiprocessing.Value("i", 0)
    with connect(tmp_path) as connection:
        queue = connection.SimpleQueue("q")
        writer = multiprocessing.Process(target=write, args=(tmp_path, written))
        writer.start()
        seen = []
        deadline = time.monotonic() + 60
        while writer.is_alive() or (
            len(seen) < written.value and time.monotonic() < deadline
        ):
            with suppress(Empty):
                message = queue.get(timeout=1)  # raises for one that is half there
                seen.append(message.payload["number"])
                message.ack()
    assert sorted(seen) == list(range(written.value))
    assert len(seen) > 100
