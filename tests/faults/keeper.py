"""The worker's `oops.Config`: a folder, which does what a report or a file orders.

A report's ``order`` is about that report; a file in ``orders/`` is about each report,
as long as it is there.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

import oops

from oops_celery import FolderPublisher

HOME = Path.cwd()
ORDERS = HOME / "orders"

repository = FolderPublisher(HOME / "oopses", sync=False)


def keep(report: dict[str, Any]) -> list[str]:
    obey(report.get("order"), report["id"])
    for order in os.listdir(ORDERS):
        if order == "busy":
            time.sleep(0.02)
        elif order == "slow":
            time.sleep(0.1)
        elif order == "hang":
            time.sleep(3600)
        elif order == "verbose":
            raise OSError("x" * 100_000)
        elif order in errno.errorcode.values():
            number = getattr(errno, order)
            raise OSError(number, os.strerror(number))
    return repository(report)


def obey(order: str | None, report_id: str) -> None:
    if order == "exit":
        os._exit(9)
    if order == "kill the worker":
        os.killpg(0, signal.SIGKILL)  # its group
    if order == "verbose once" and is_first(report_id):
        raise OSError("x" * 100_000)
    if order == "count":
        with (HOME / f"seen-{report_id}").open("ab", buffering=0) as file:
            file.write(b".")
    if order in ("sleep 1", "sleep 10"):
        time.sleep(int(order.split()[1]))
    if order == "hang" or (order == "hang once" and is_first(report_id)):
        time.sleep(3600)


def is_first(report_id: str) -> bool:
    try:
        (HOME / f"seen-{report_id}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


config = oops.Config()
config.publisher = keep
