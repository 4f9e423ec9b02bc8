"""The pages: reports, groups, search, dead letters, health.

``oops-celery web`` serves them, and so does any ASGI server: ``oops_celery.web:app``,
with the settings of the environment. uvicorn needs ``--no-proxy-headers``: the address
of whoever connects decides which proxy is trusted, and who has failed to log in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    app: ASGIApp


def __getattr__(name: str) -> Any:
    """Make the app when a server asks for it."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from oops_celery.celery import app as celery_app
    from oops_celery.web.application import application

    made = globals()["app"] = application(celery_app)
    return made
