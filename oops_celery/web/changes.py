"""What a person with a login may change; each change is a line in the log."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from oops_celery.dead_letters import removal
from oops_celery.dead_letters.letter import Letter
from oops_celery.dead_letters.letters import Choice
from oops_celery.dead_letters.removal import LetterOutcome
from oops_celery.dead_letters.replay import Replay
from oops_celery.errors import QueueError, RepositoryError
from oops_celery.repository.states import STATES, set_state
from oops_celery.web import access
from oops_celery.web.application import Site, site_of
from oops_celery.web.pages import ROWS

#: Seconds that one request works on dead letters: a proxy gives up after a minute.
PATIENCE = 20.0

_Work = Callable[[Iterator[Letter]], Iterator[LetterOutcome]]

#: Fields of a form: those of a page's letters, and a few more.
MOST_FIELDS = 2 * ROWS


async def state(request: Request) -> Response:
    """Open, resolve or mute a group."""
    user, form = await _allowed(request)
    number, wanted = int(request.path_params["number"]), str(form.get("state", ""))
    if wanted not in STATES:
        raise HTTPException(400, f"state={wanted[:40]!r}: one of {', '.join(STATES)}")
    repository = site_of(request).repository
    if not await run_in_threadpool(set_state, repository, number, wanted):
        raise HTTPException(404, f"There is no group {number}: it may be pruned.")
    site_of(request).overviews.forget()
    _audit(user, request, f"group {number} is {wanted}")
    return _back(request, f"/groups/{number}", f"The group is {wanted}.")


async def replay(request: Request) -> Response:
    """Replay the dead letters that were on the page."""
    user, form = await _allowed(request)
    site, choice = site_of(request), _choice(form)

    def work(letters: Iterator[Letter]) -> Iterator[LetterOutcome]:
        return Replay(site.app, site.letters).run(letters)

    return await _work(request, user, "replayed", choice, work)


async def discard(request: Request) -> Response:
    """Discard the dead letters that were on the page, after a question."""
    user, form = await _allowed(request)
    site, choice = site_of(request), _choice(form)
    if form.get("sure") != "1":
        count = len(await run_in_threadpool(site.letters.choose, choice))
        fields = [(name, one) for name, one in form.multi_items() if name != "csrf"]
        return site.page(request, "sure.html", {"count": count, "fields": fields})

    def work(letters: Iterator[Letter]) -> Iterator[LetterOutcome]:
        return removal.discard(site.letters, letters)

    return await _work(request, user, "discarded", choice, work)


async def login(request: Request) -> Response:
    """Log in by a name and a password."""
    site = site_of(request)
    if site.access.htpasswd is None:
        raise HTTPException(404, "There are no passwords here.")
    then, why = _local(request.query_params.get("then", "/")), ""
    if request.method == "POST":
        form = await request.form(max_fields=10)
        if not access.has_token(request, form.get("csrf")):
            access.audit.warning(
                "refused: login from %s: wrong CSRF token", access.address(request)
            )
            why = "The page was too old. Try again."
        else:
            user, password = str(form.get("user", "")), str(form.get("password", ""))
            check = site.access.log_in
            why = await run_in_threadpool(check, request, user, password)
            if not why:
                site.access.begin_session(request, user)
                return RedirectResponse(_base(request) + then, 303)
    values = {"then": then, "why": why, "csrf": access.token(request)}
    status = 429 if why == access.WAIT else 403 if why else 200
    return site.page(request, "login.html", values, status)


async def logout(request: Request) -> Response:
    """Log out."""
    await _allowed(request)
    request.session.clear()
    return RedirectResponse(f"{_base(request)}/", 303)


async def _allowed(request: Request) -> tuple[str, FormData]:
    """Return who asks for a change, and the form.

    Raises:
        HTTPException: Nobody is logged in, or the form is not of a page of ours.
    """
    user = site_of(request).access.user(request)
    what = f"{request.method} {request.url.path}"
    if user is None:
        access.audit.warning(
            "refused: %s from %s: no login", what, access.address(request)
        )
        raise HTTPException(403, "Changes need a login.")
    form = await request.form(max_fields=MOST_FIELDS, max_files=0)
    if not access.has_token(request, form.get("csrf")):
        access.audit.warning(
            "refused: %s by %r from %s: wrong CSRF token",
            what,
            user,
            access.address(request),
        )
        raise HTTPException(
            403,
            "The form is not from a page of yours, or too old: load the page again.",
        )
    return user, form


def _choice(form: FormData) -> Choice:
    """Return the letters of a form: exactly those that were on the page."""
    try:
        if "number" in form:
            numbers = tuple(_number(one) for one in form.getlist("number"))
            return Choice(numbers=numbers)
        group = (str(form["type"]), str(form["reason"]), str(form["queue"]))
        return Choice(group=group, up_to=_number(form["up_to"]))
    except (KeyError, ValueError):
        raise HTTPException(400, "No dead letters were chosen.") from None


def _number(text: object) -> int:
    if not re.fullmatch("[0-9]{1,18}", str(text)):  # what a database can hold
        raise ValueError(text)
    return int(str(text))


class _Done(NamedTuple):
    """What became of letters.

    Attributes:
        wanted: How many there were.
        done: How many it was done to.
        failed: Why nothing was done to others.
        is_over: Whether there was time for all.
        trouble: What ended it; empty if nothing did.
    """

    wanted: int
    done: int
    failed: list[str]
    is_over: bool
    trouble: str

    def words(self, verb: str) -> str:
        """Return it for a person."""
        text = f"{self.done:,} of {self.wanted:,} dead letters {verb}."
        if self.failed:
            text += f" {len(self.failed):,} not: {self.failed[0]}"
        left = self.wanted - self.done - len(self.failed)
        if self.trouble:
            return f"{text} {self.trouble}"
        if left and self.is_over:
            return f"{text} {left:,} had been taken by somebody else."
        if left:
            return f"{text} {left:,} remain: go on with the same button."
        return text


async def _work(
    request: Request, user: str, verb: str, choice: Choice, work: _Work
) -> Response:
    """Do something with letters, for some seconds; the rest is for the next time."""
    done = await run_in_threadpool(_run, site_of(request), choice, work)
    words = done.words(verb)
    about = choice.group or f"{len(choice.numbers or ())} chosen"
    _audit(user, request, f"{words} ({about})")
    return _back(request, "/dead", words[:1000])


def _run(site: Site, choice: Choice, work: _Work) -> _Done:
    letters = site.letters.choose(choice)
    until = time.monotonic() + PATIENCE
    is_over, trouble = True, ""
    done, failed = 0, []

    def some() -> Iterator[Letter]:
        nonlocal is_over
        for letter in letters:
            if time.monotonic() > until:
                is_over = False
                return
            yield letter

    try:
        for outcome in work(some()):
            if outcome.why:
                failed.append(outcome.why)
            else:
                done += 1
    except (QueueError, RepositoryError) as error:  # some may be done
        trouble = str(error)
    return _Done(len(letters), done, failed, is_over, trouble)


def _audit(user: str, request: Request, what: str) -> None:
    access.audit.info("%r from %s: %s", user, access.address(request), what)


def _back(request: Request, path: str, words: str) -> Response:
    request.session["flash"] = words
    return RedirectResponse(_base(request) + path, 303)


def _base(request: Request) -> str:
    return str(request.scope.get("root_path", ""))


def _local(path: str) -> str:
    """Return a path of ours; nobody is sent to another site."""
    ours = path.startswith("/") and not path.startswith(("//", "/\\"))
    return path if ours and path.isprintable() else "/"
