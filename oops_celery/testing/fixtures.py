"""The pytest fixture `oops_reports`; pytest finds it by its entry point."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from oops_celery.testing import collect


@pytest.fixture
def oops_reports() -> Iterator[list[dict[str, Any]]]:
    """Return the list of the reports that are published during the test."""
    with collect() as reports:
        yield reports
