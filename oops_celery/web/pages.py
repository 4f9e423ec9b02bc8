"""The pages that people read, each with its JSON."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from oops_celery.dead_letters.search import Found
from oops_celery.repository.groups import HOUR, Group
from oops_celery.repository.reader import Overview
from oops_celery.repository.search import Summary, Wanted
from oops_celery.text import time_of
from oops_celery.web.application import site_of
from oops_celery.web.lookup import MOST_TEXT, reports_by_id
from oops_celery.web.overviews import PERIODS
from oops_celery.wire.as_json import as_json_value
from oops_celery.wire.ids import clean_id, is_whole

#: What the first page shows: the name, and which states.
SHOWS = ("open", "new", "regressed", "resolved", "muted", "all")

#: Rows of a page.
ROWS = 50

#: Weeks of a group's chart.
WEEKS = 60

#: Types that a search by a part of their names looks for.
MOST_TYPES = 20

#: Reports of a group that tell the topics and reporters it came under.
LATEST = 100


def groups(request: Request) -> Response:
    """The groups of a period."""
    site, asked = site_of(request), request.query_params
    period = asked.get("period", "24h")
    show = asked.get("show", "open")
    sort = asked.get("sort", "count")
    if period not in PERIODS:
        raise HTTPException(400, f"period={period[:40]!r}: one of {', '.join(PERIODS)}")
    if show not in SHOWS:
        raise HTTPException(400, f"show={show[:40]!r}: one of {', '.join(SHOWS)}")
    if sort not in ("count", "last", "first"):
        raise HTTPException(400, f"sort={sort[:40]!r}: one of count, last, first")
    overview = site.overviews.of(period)
    texts = {name: asked.get(name, "").strip() for name in ("type", "topic", "text")}
    filtered = [one for one in overview.groups if _matches(one, texts)]
    counts = {each: sum(_is(one, each) for one in filtered) for each in SHOWS}
    wanted = [one for one in filtered if _is(one, show)]
    if sort != "count":
        wanted.sort(key=lambda one: getattr(one, sort), reverse=True)
    if request.url.path.endswith(".json"):
        return JSONResponse(
            {"period": overview.period(), "groups": [group_object(g) for g in wanted]}
        )
    number = page_number(request)
    rows = wanted[(number - 1) * ROWS : number * ROWS]
    begin, end = _limits(overview)
    values = {
        "period": period,
        "periods": list(PERIODS),
        "show": show,
        "shows": SHOWS,
        "sort": sort,
        "counts": counts,
        "texts": texts,
        "total": sum(one.count for one in wanted),
        "found": len(wanted),
        "everything": wanted,
        "groups": rows,
        "begin": begin,
        "end": end,
        "width": PERIODS[period][1],
        "page": number,
        "more": len(wanted) > number * ROWS,
        "asked": dict(asked),
        "latest": overview.latest,
    }
    return site.page(request, "groups.html", values)


def _limits(overview: Overview) -> tuple[int, int]:
    """Return the first hour of a period, and the hour after it."""
    begin = datetime.combine(overview.first, datetime.min.time(), timezone.utc)
    begin = overview.since or begin
    end = datetime.combine(overview.last, datetime.min.time(), timezone.utc)
    last = int(end.timestamp()) // HOUR + 24
    now = int(time.time()) // HOUR + 1
    return int(begin.timestamp()) // HOUR, min(last, now) if overview.since else last


def _matches(group: Group, texts: Mapping[str, str]) -> bool:
    anywhere = f"{group.type}\n{group.example_value}\n{group.place}\n{group.topic}"
    return (
        texts["type"].lower() in group.type.lower()
        and texts["topic"].lower() in group.topic.lower()
        and texts["text"].lower() in anywhere.lower()
    )


def _is(group: Group, show: str) -> bool:
    if show == "all":
        return True
    if show == "new":
        return group.new and group.state not in ("resolved", "muted")
    if show == "open":
        return group.state not in ("resolved", "muted")
    return group.state == show


def group_object(group: Group) -> dict[str, Any]:
    """Return a group as JSON."""
    names = ("id", "type", "topic", "value", "example_value", "place", "state", "new")
    own = {name: getattr(group, name) for name in (*names, "count", "first", "last")}
    found: dict[str, Any] = as_json_value({**own, "example": group.example})
    return found


def group(request: Request) -> Response:
    """A group: its chart, and its reports."""
    site, number = site_of(request), int(request.path_params["number"])
    found = site.reports.group(number, by_hour=False)
    if found is None:
        raise HTTPException(404, f"There is no group {number}: it may be pruned.")
    wanted = Wanted(group=number)
    after = _after(request)
    # The latest also tell the topics and reporters that it came under.
    number_wanted = ROWS + 1 if after else LATEST
    found_reports = site.reports.search(wanted, after, number_wanted)
    reports = found_reports[:ROWS]
    latest = [] if after else found_reports
    if request.url.path.endswith(".json"):
        listed = [as_json_value(one._asdict()) for one in reports]
        return JSONResponse({**group_object(found), "reports": listed})
    first = int(found.first.timestamp()) // HOUR // 24 * 24
    end = int(found.last.timestamp()) // HOUR // 24 * 24 + 24
    width = 24 if end - first <= 90 * 24 else 7 * 24
    if end - first <= 72:
        found = site.reports.group(number) or found
        width = 1
    return site.page(
        request,
        "group.html",
        {
            "group": found,
            "begin": max(first, end - WEEKS * 7 * 24),
            "end": end,
            "width": width,
            "reports": reports,
            "after": _mark(reports) if len(found_reports) > ROWS else "",
            "topics": Counter(one.topic for one in latest if one.topic).most_common(8),
            "reporters": Counter(
                one.reporter for one in latest if one.reporter
            ).most_common(8),
            "sample": len(latest),
        },
    )


def search(request: Request) -> Response:
    """Search for an id, or by what the index has."""
    site, asked = site_of(request), request.query_params
    texts = {
        name: asked.get(name, "").strip()
        for name in ("q", "type", "topic", "reporter", "since", "until")
    }
    if long := next((name for name in texts if len(texts[name]) > MOST_TEXT), None):
        raise HTTPException(400, f"{long}=: more than {MOST_TEXT:,} characters")
    part = texts["q"]
    base = request.scope.get("root_path", "")
    is_json = request.url.path.endswith(".json")
    found: list[Summary | Found] = []
    others = any(texts[name] for name in texts if name != "q")
    if part and not others:
        by_id = reports_by_id(site, part)
        if len(by_id) == 1 and not is_json:
            return RedirectResponse(f"{base}/{quote(next(iter(by_id)), safe='')}", 303)
        found = [places[0] for places in by_id.values()]
    reports: list[Summary] = []
    known = site.reports.types()
    types = _types(known, texts["type"])
    if not found and any(texts.values()):
        wanted = _wanted(texts, types[:MOST_TYPES])
        reports = site.reports.search(wanted, _after(request), ROWS + 1)
    if is_json:
        listed: list[Any] = [one._asdict() for one in reports[:ROWS]]
        listed += [{"id": one.id, "type": one.type, "time": one.time} for one in found]
        left_out = types[MOST_TYPES:]
        return JSONResponse(
            {"reports": as_json_value(listed), "types_left_out": left_out}
        )
    return site.page(
        request,
        "search.html",
        {
            "texts": texts,
            "found": found[:ROWS],
            "more_found": max(len(found) - ROWS, 0),
            "reports": reports[:ROWS],
            "after": _mark(reports[:ROWS]) if len(reports) > ROWS else "",
            "asked": dict(asked),
            "types": known[:100],
            "left_out": max(len(types) - MOST_TYPES, 0),
            "is_id": bool(part) and is_whole(clean_id(part)),
        },
    )


def _types(known: list[str], part: str) -> list[str]:
    """Return the types that a search means: one that is known, else those like it."""
    if not part or part in known:
        return [part] if part else []
    like = [one for one in known if part.lower() in one.lower()]
    return like or [part]


def _wanted(texts: Mapping[str, str], types: list[str]) -> Wanted:
    return Wanted(
        types=tuple(types),
        topic=texts["topic"] or None,
        reporter=texts["reporter"] or None,
        value=texts["q"] or None,
        since=_moment("since", texts["since"]),
        until=_moment("until", texts["until"]),
    )


def _moment(name: str, text: str) -> datetime | None:
    if not text:
        return None
    try:
        return time_of(text)
    except (ValueError, OverflowError):
        raise HTTPException(
            400,
            f"{name}={text[:40]!r} is not a time: 2h, 3d, 2026-05-31 or "
            "2026-05-31T12:00",
        ) from None


def page_number(request: Request) -> int:
    """Return which page of a long list is asked for, from 1.

    Raises:
        HTTPException: It is no number.
    """
    text = request.query_params.get("page", "1")
    if not re.fullmatch(r"[1-9]\d{0,5}", text, re.ASCII):
        raise HTTPException(400, f"page={text[:40]!r} is not the number of a page")
    return int(text)


def _mark(reports: list[Summary]) -> str:
    """Return where the next page begins."""
    return f"{reports[-1].time.isoformat()} {reports[-1].id}" if reports else ""


def _after(request: Request) -> Summary | None:
    text = request.query_params.get("after", "")
    if not text:
        return None
    moment, _, report_id = text.partition(" ")
    time = _moment("after", moment or "nothing")
    assert time is not None
    return Summary(report_id, time, 0, "", "", "", "", 0)
