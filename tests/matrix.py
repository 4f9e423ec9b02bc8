"""One cell of the matrix: run tests, and write down with which versions.

``python tests/matrix.py RECORD PYTEST-ARGUMENT...``, with the Python of the cell.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

LIBRARIES = ("Celery", "kombu", "amqp", "billiard")


class Count:
    """Counts what became of the tests."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for outcome in ("passed", "failed", "error", "skipped", "rerun"):
            self.counts[outcome] = len(terminalreporter.stats.get(outcome, ()))


def main(record: str, *arguments: str) -> int:
    count = Count()
    code = int(pytest.main(list(arguments), plugins=[count]))
    rabbitmq = subprocess.run(
        ["/usr/lib/rabbitmq/bin/rabbitmqctl", "version"],
        capture_output=True,
        text=True,
        check=True,
    )
    result = {
        "Python": platform.python_version(),
        "RabbitMQ": rabbitmq.stdout.split()[-1],
        **{library: version(library) for library in LIBRARIES},
        **count.counts,
        "code": code,
    }
    Path(record).write_text(json.dumps(result, indent=1) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
