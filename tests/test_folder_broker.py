"""The broker of ``make run``: a folder."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import kombu
import pytest


@pytest.fixture
def impatience():
    """Threads take turns as often as can be."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("impatience")
def test_a_message_is_taken_whole(tmp_path: Path) -> None:
    """By a reader that looks while it is being written."""
    folders = {}
    for name in ("data_folder_in", "control_folder", "processed_folder"):
        (tmp_path / name).mkdir()
        folders[name] = str(tmp_path / name)
    connection = kombu.Connection(
        "filesystem://",
        transport="examples.folder_broker:Transport",
        transport_options={
            **folders,
            "data_folder_out": folders["data_folder_in"],
            "polling_interval": 1e-6,
        },
    )
    count = 300
    taken = threading.Semaphore(1)

    def write() -> None:
        queue = connection.SimpleQueue("q")
        for number in range(count):
            taken.acquire(timeout=30)
            queue.put({"number": number, "filler": "x" * 1000})

    writer = threading.Thread(target=write)
    writer.start()
    queue = connection.SimpleQueue("q")
    seen = set()
    for _ in range(count):
        message = queue.get(timeout=30)
        seen.add(message.payload["number"])
        message.ack()
        taken.release()
    writer.join()
    assert seen == set(range(count))
