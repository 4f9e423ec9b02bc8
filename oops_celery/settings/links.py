"""The address of a report's page."""

from __future__ import annotations

from functools import cache
from urllib.parse import quote

from oops_celery.errors import SettingsError


def url(report_id: str) -> str | None:
    """Return the address of a report's page, for error pages, logs and mails.

    It works before the report is stored: the page then says where the report is.

    Args:
        report_id: The report's id.

    Returns:
        ``OOPS_WEB_URL/ID``; None if OOPS_WEB_URL is not set, or cannot be used.
    """
    base = _base()
    return None if base is None else link(base, report_id)


def link(base: str, report_id: str) -> str:
    """Return the address of a report's page below a base URL."""
    return f"{base}/{quote(report_id, safe='')}"


@cache
def _base() -> str | None:
    from oops_celery import settings

    try:
        return settings.load().web_url
    except SettingsError:  # the publisher tells it
        return None
