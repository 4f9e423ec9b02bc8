"""The pages of dead letters."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from oops_celery.dead_letters.letters import Choice
from oops_celery.web.application import site_of
from oops_celery.web.pages import ROWS, page_number
from oops_celery.wire.as_json import as_json_value


def dead(request: Request) -> Response:
    """Dead letters, by reason and type."""
    site = site_of(request)
    groups = site.letters.groups(Choice())
    if request.url.path.endswith(".json"):
        return JSONResponse({"groups": as_json_value([vars(one) for one in groups])})
    places, silent = site.broker.places()
    waiting = [one for one in places if one.kind == "dead" and one.messages]
    values = {"groups": groups, "waiting": waiting, "silent": silent}
    return site.page(request, "dead.html", values)


def letters(request: Request) -> Response:
    """The dead letters of a group."""
    site, asked = site_of(request), request.query_params
    kind, reason, queue = (asked.get(name, "") for name in ("type", "reason", "queue"))
    number = page_number(request)
    choice = Choice(group=(kind, reason, queue))
    found = site.letters.choose(choice, ROWS + 1, (number - 1) * ROWS)
    values = {
        "kind": kind,
        "reason": reason,
        "queue": queue,
        "letters": found[:ROWS],
        "page": number,
        "more": len(found) > ROWS,
        "asked": dict(asked),
    }
    return site.page(request, "letters.html", values)
