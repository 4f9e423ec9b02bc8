"""Where this project is, its topology, and an environment without its settings."""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

#: The default topology.
PACKAGED = ROOT / "oops_celery/topology/default.yml"

#: The default topology, with its pauses shortened to milliseconds.
QUICK_TOPOLOGY = re.sub(
    r"x_message_ttl: (\d+)",
    lambda found: f"x_message_ttl: {int(found[1]) // 200}",
    PACKAGED.read_text(),
)


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment without settings of ours, then the changes."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        # COLUMNS: set by test runners, and it wraps what a pipe gets.
        if not name.startswith(("OOPS_", "RABBITMQ_", "CELERY_", "COLUMNS"))
    }
    return {**inherited, **changes}
