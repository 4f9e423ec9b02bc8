"""Test an application's reports without RabbitMQ.

With pytest, the fixture `oops_reports` is the list of the reports that the application
published in a test::

    def test_a_failing_checkout_is_reported(client, oops_reports):
        client.post("/checkout")
        (report,) = oops_reports
        assert report["type"] == "ZeroDivisionError"

Without pytest, `collect` does the same for a ``with`` block, and `CollectingPublisher`
takes the place of one publisher.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["CollectingPublisher", "collect"]


class CollectingPublisher:
    """A publisher that keeps the reports in a list: for tests.

    It encodes each report as `oops_celery.Publisher` does: the id, and the texts in
    place of values that BSON cannot hold, are those of production.

    Args:
        inherit_id: Keep a true ``id`` that a report already has.

    Attributes:
        reports: The reports, as a worker would receive them, oldest first.
    """

    #: Why the last report was not published: it always is.
    trouble = ""

    def __init__(self, inherit_id: bool = False) -> None:
        self.inherit_id = inherit_id
        self.reports: list[dict[str, Any]] = []

    def __call__(self, report: Mapping[str, Any]) -> list[str]:
        """Keep a report, which is not changed; return its id in a list."""
        return self.keep(report, self.inherit_id)

    def keep(self, report: Mapping[str, Any], inherit_id: bool) -> list[str]:
        """Do as a call does, with another choice for the report's own id."""
        from oops_celery import wire

        encoded = wire.encode(report, inherit_id)
        self.reports.append(wire.decode(encoded.body))
        return [encoded.id]

    def publish_many(self, reports: Iterable[Mapping[str, Any]]) -> Iterator[list[str]]:
        """Keep reports; yield for each what a call returns."""
        return map(self, reports)

    def close(self) -> None:
        """Do nothing: there is no connection."""


@contextmanager
def collect() -> Iterator[list[dict[str, Any]]]:
    """Collect the reports of every `oops_celery.Publisher` in this process.

    Nothing is sent, and no connection is opened, in any thread. Blocks may be nested:
    the innermost one collects.

    Yields:
        The list of the reports, oldest first.
    """
    from oops_celery.publishing import publisher

    collecting = CollectingPublisher()
    outer = publisher.divert(collecting.keep)
    try:
        yield collecting.reports
    finally:
        publisher.divert(outer)
