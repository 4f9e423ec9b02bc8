"""Whether the pages work, for load balancers; queues and metrics, for operators."""

from __future__ import annotations

from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from oops_celery.errors import RepositoryError, WrongSchema
from oops_celery.repository import schema
from oops_celery.topology.graph import duration
from oops_celery.web.application import Site, site_of


def health(request: Request) -> Response:
    """The state of the database and of the broker.

    The status is 200 if the database can be read, else 503: without a broker the pages
    still have every stored report.
    """
    site = site_of(request)
    state = _state(site)
    status = 200 if state["database"] == "ok" else 503
    wants_page = "text/html" in request.headers.get("accept", "")
    if request.url.path.endswith(".json") or not wants_page:
        return JSONResponse(state, status)
    if site.access.may_read(request):  # a load balancer needs no more
        return JSONResponse(state, status)
    values = {"state": state, "queues": _queues(site)}
    return site.page(request, "health.html", values, status)


def _state(site: Site) -> dict[str, Any]:
    database, migrations = "ok", schema.HEAD
    try:
        site.reports.count()
    except WrongSchema as error:
        database = migrations = str(error)
    except RepositoryError as error:
        database, migrations = str(error), "unknown"
    _, silent = site.broker.depths()
    return {"database": database, "migrations": migrations, "broker": silent or "ok"}


def _queues(site: Site) -> list[dict[str, Any]]:
    """Return the queues of the topology, with what is in them now."""
    found = {depth.queue: depth for depth in site.broker.depths()[0]}
    rows = []
    for queue in site.app.topology.queues:
        arguments = queue.queue_arguments or {}
        ttl = arguments.get("x-message-ttl")
        target = site.app.topology.dead_letter_target(queue.name)
        rows.append(
            {
                "name": queue.name,
                "type": arguments.get("x-queue-type", ""),
                "ttl": "" if ttl is None else duration(ttl),
                "dead": " ".join(filter(None, target or ())),
                "bound": ", ".join(
                    f"{one.exchange.name} {one.routing_key or ''}".strip()
                    for one in queue.bindings
                ),
                "depth": found.get(queue.name),
            }
        )
    return rows


def metrics(request: Request) -> Response:
    """The metrics of the queues, for Prometheus."""
    text = generate_latest(site_of(request).metrics)
    return Response(text, 200, media_type=CONTENT_TYPE_LATEST)
