"""The page of a report: found by its id or a part of it, or where it may be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from oops_celery import wire
from oops_celery.dead_letters.search import Found, by_id, in_database
from oops_celery.errors import NoMatch, RepositoryError
from oops_celery.web.application import Site, site_of
from oops_celery.web.details import Details, shortened
from oops_celery.web.whereabouts import spooled
from oops_celery.wire.as_json import as_json, printable
from oops_celery.wire.ids import clean_id, is_whole, resolve

#: Seconds after which the page of a report that is not stored asks again.
REFRESH = 3

#: Characters to search for; SQLite does not take a pattern of more than 50,000 bytes.
MOST_TEXT = 1_000

#: Characters of a body that is no report.
BODY = 2_000


def report(request: Request) -> Response:
    """A report, by its id or a part of it; or where it may be."""
    site, part = site_of(request), request.path_params["part"]
    form = ""
    for ending in (".json", ".bson"):
        if part.endswith(ending):
            part, form = part.removesuffix(ending), ending
    trouble = ""
    found: dict[str, list[Found]] = {}
    try:
        found = reports_by_id(site, part)
    except RepositoryError as error:
        if form:
            raise
        trouble = str(error)
    try:
        whole = resolve(part, found) if len(found) != 1 else next(iter(found))
    except NoMatch:
        return _not_stored(request, site, part, form, found, trouble)
    if whole != part:
        base = request.scope.get("root_path", "")
        return RedirectResponse(f"{base}/{quote(whole, safe='')}{form}", 302)
    # Reports first: another message may have the same id.
    places = sorted(found[whole], key=lambda one: (not one.is_report, bool(one.letter)))
    if form:
        return _download(places[0], form)
    return _shown(request, site, places)


def _download(found: Found, form: str) -> Response:
    name = re.sub(r"[^\w.-]", "_", found.id, flags=re.ASCII)[:100]
    headers = {"Content-Disposition": f'attachment; filename="{name}{form}"'}
    if form == ".bson":
        return Response(found.body, 200, headers, "application/octet-stream")
    try:
        text = as_json(found.report())
    except wire.Undecodable as error:
        raise HTTPException(
            404, f"It is no report, so there is no JSON: {error}"
        ) from None
    return Response(text, 200, headers, "application/json")


def _shown(request: Request, site: Site, places: list[Found]) -> Response:
    first = places[0]
    details, why = None, ""
    try:
        details = Details.of(first.report())
    except wire.Undecodable as error:
        why = str(error)
    beside = group = None
    if first.letter is None and first.time is not None:
        beside = site.reports.neighbours(first.id, first.time)
        group = beside and site.reports.group(beside.group_id, by_hour=False)
    return site.page(
        request,
        "report.html",
        {
            "report": first,
            "details": details,
            "why": why,
            "body_text": shortened(printable(first.body[:BODY]), BODY),
            "letters": [one.letter for one in places if one.letter],
            "headers": [
                (printable(name), shortened(printable(value), 500))
                for name, value in (first.headers or {}).items()
                if details is None
            ],
            "beside": beside,
            "group": group,
            "others": sum(one.letter is None for one in places[1:]),
        },
    )


def _not_stored(
    request: Request,
    site: Site,
    part: str,
    form: str,
    several: Mapping[str, list[Found]],
    trouble: str,
) -> Response:
    """Say which reports have this part in their ids; else where it may be."""
    if several:
        if form:
            raise HTTPException(404, f"{len(several)} reports have it in their ids.")
        base = request.scope.get("root_path", "")
        return RedirectResponse(f"{base}/search?q={quote(part, safe='')}", 302)
    spool = spooled(site.settings.spool, part) if is_whole(clean_id(part)) else None
    if form:
        raise HTTPException(404, "It is not stored.")
    places, silent = site.broker.places()
    may_come = is_whole(clean_id(part))
    headers = {"Refresh": str(REFRESH)} if may_come else {}
    values = {
        "part": part,
        "places": [one for one in places if one.messages],
        "all_places": places,
        "silent": silent,
        "trouble": trouble,
        "spool": spool,
        "details": Details.of(wire.decode(spool.body)) if spool else None,
        "may_come": may_come,
        "refresh": REFRESH,
    }
    status = 503 if trouble else 404
    return site.page(request, "waiting.html", values, status, headers)


def reports_by_id(site: Site, part: str) -> dict[str, list[Found]]:
    """Return what has a part in its id, stored and dead, by id."""
    if not clean_id(part) or len(part) > MOST_TEXT:
        return {}
    return by_id(in_database(site.reports, site.letters, part))
