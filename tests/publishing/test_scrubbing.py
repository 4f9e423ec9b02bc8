"""The hook that blanks what is secret in a report."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from wsgiref.util import setup_testing_defaults

import oops
import oops_wsgi
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oops_celery
from oops_celery import wire
from tests.support.reports import STRANGE, cycle, reports

#: What must be in no report.
SECRET = "s3cr3t"


def scrubbed(value: Any, *extra: str) -> Any:
    report = {"v": value}
    oops_celery.Scrubber(*extra)(report, {})
    return report["v"]


@pytest.mark.parametrize(
    "key",
    ["password", "Password", "user_password", "new-password", "passwd", "PASSPHRASE"]
    + ["X-Api-Key", "api_key", "apikey", "HTTP_AUTHORIZATION", "Proxy-Authorization"]
    + ["HTTP_COOKIE", "Set-Cookie", "sessionid", "JSESSIONID", "PHPSESSID", "session"]
    + ["csrf_token", "csrfmiddlewaretoken", "X-CSRFToken", "access token"]
    + ["accessToken", "client_secret", "SECRET_KEY", "private-key"]
    + ["aws_credentials", "user[password]", b"password"],
)
def test_the_value_of_a_secret_key_is_blanked(key: str | bytes) -> None:
    """In whichever form it stands in a report."""
    for value in (SECRET, SECRET.encode(), 5, None, [SECRET], {"a": SECRET}):
        assert scrubbed({key: value, "a": 1}) == {key: "<scrubbed>", "a": 1}
        assert scrubbed([(key, value), ("a", 1)]) == [(key, "<scrubbed>"), ("a", 1)]
        assert scrubbed([[key, value], ["a", 1]]) == [[key, "<scrubbed>"], ["a", 1]]


@pytest.mark.parametrize(
    "key", ["author", "pass", "PATH_INFO", "key", "HTTP_HOST", "username", "", 5, None]
)
def test_another_key_keeps_its_value(key: object) -> None:
    assert scrubbed({key: SECRET}) == {key: SECRET}
    assert scrubbed([(key, SECRET)]) == [(key, SECRET)]


def test_what_oops_itself_puts_into_a_report_is_kept() -> None:
    try:
        raise ValueError("as it was")
    except ValueError as error:
        context = {"exc_info": (ValueError, error, error.__traceback__)}
    context |= {"url": "https://host/a?b=c", "topic": "t", "reporter": "shop"}
    config = oops.Config()
    plain = config.create(context)
    config.on_create.append(oops_celery.scrub)
    report = config.create(context)
    del plain["time"], report["time"]
    assert report == plain
    assert report["type"] == "ValueError"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a?token=s3cr3t", "/a?token=<scrubbed>"),
        ("?a=1&Api-Key=s3cr3t&b=2", "?a=1&Api-Key=<scrubbed>&b=2"),
        ("token=s3cr3t&a=b", "token=<scrubbed>&a=b"),  # a QUERY_STRING
        ("/#access_token=s3cr3t", "/#access_token=<scrubbed>"),
        ("/?pass%77ord=s3cr3t", "/?pass%77ord=<scrubbed>"),
        ("/?user[password]=s3cr3t", "/?user[password]=<scrubbed>"),
        ("/?token=s3=cr3t;s3?cr3t/x", "/?token=<scrubbed>"),
        ("/?token=s&token=s3cr3t", "/?token=<scrubbed>&token=<scrubbed>"),
        ("next=/b?token=s3cr3t", "next=/b?token=<scrubbed>"),
        ("https://user:s3cr3t@host/a", "https://<scrubbed>@host/a"),
        ("https://s3cr3t@host", "https://<scrubbed>@host"),
        ("amqp://u:s3@cr3t@host:5672/v", "amqp://<scrubbed>@host:5672/v"),
        ("GET https://u:s3cr3t@h/?token=s3cr3t HTTP/1.1",)
        + ("GET https://<scrubbed>@h/?token=<scrubbed> HTTP/1.1",),
        # What is no secret of a URL.
        ("https://host/a@b?c=d@e", "https://host/a@b?c=d@e"),
        ("https://host/?author=me&a=b", "https://host/?author=me&a=b"),
        ("me@example.com", "me@example.com"),
        ("the password is s3cr3t", "the password is s3cr3t"),
        ("UPDATE u SET password='s3cr3t'", "UPDATE u SET password='s3cr3t'"),
    ],
)
def test_urls_are_blanked_wherever_they_stand(text: str, expected: str) -> None:
    """By the names of their parameters; and nothing else in a text."""
    report = {
        "url": text,
        "topic": text,
        "req_vars": {"HTTP_REFERER": text, "raw": text.encode()},
        "timeline": [(0, 1, "http", text), (1, 2, "sql", "SELECT 1", "backtrace")],
    }
    oops_celery.scrub(report, {})
    assert report["url"] == report["topic"] == expected
    assert report["req_vars"] == {"HTTP_REFERER": expected, "raw": expected.encode()}
    assert report["timeline"][0] == (0, 1, "http", expected)
    assert report["timeline"][1] == (1, 2, "sql", "SELECT 1", "backtrace")


def test_words_of_ones_own_come_on_top() -> None:
    value = {"IBAN": SECRET, "date-of_birth": SECRET, "password": SECRET, "a": "b"}
    blanked = dict.fromkeys(value, "<scrubbed>") | {"a": "b"}
    assert scrubbed(value, "iban", "Date of Birth") == blanked
    assert scrubbed(value)["IBAN"] == SECRET


@pytest.mark.parametrize("extra", ["", "-", "_ "])
def test_a_word_that_any_key_contains_is_refused(extra: str) -> None:
    with pytest.raises(ValueError, match="must have letters or digits"):
        oops_celery.Scrubber(extra)


def test_only_the_report_is_changed() -> None:
    """What an application put into it stays as it is in the application's hands."""
    mine = {"form": {"password": SECRET}, "pairs": [["token", SECRET]]}
    before = copy.deepcopy(mine)
    config = oops.Config()
    config.template["req_vars"] = {"password": SECRET}
    config.on_create.append(lambda report, context: report.update(context["mine"]))
    config.on_create.append(oops_celery.scrub)
    report = config.create({"mine": mine})
    assert SECRET not in str(report)
    assert mine == before
    assert config.template == {"req_vars": {"password": SECRET}}


class Angry(Mapping):
    """A mapping that cannot be looked at."""

    def __getitem__(self, key: object) -> object:
        raise RuntimeError(SECRET)

    def __iter__(self) -> Any:
        raise RuntimeError(SECRET)

    def __len__(self) -> int:
        return 1


class AngryText(str):
    def lower(self) -> str:
        raise RuntimeError(SECRET)


def test_other_containers_are_looked_into() -> None:
    assert scrubbed(MappingProxyType({"token": SECRET})) == {"token": "<scrubbed>"}
    assert scrubbed(OrderedDict(token=SECRET)) == {"token": "<scrubbed>"}
    assert scrubbed(Angry()) == "<scrubbed>"
    assert scrubbed({AngryText("a"): SECRET}) == {"a": "<scrubbed>"}


@pytest.mark.parametrize("name", STRANGE)
def test_whatever_a_report_holds_it_goes_out(name: str) -> None:
    report = {**STRANGE[name], "token": SECRET, "last": "kept"}
    oops_celery.scrub(report, {})
    back = wire.decode(wire.encode(report).body)
    assert back["token"] == "<scrubbed>"
    assert back["last"] == "kept"


def test_circles_and_what_is_held_twice() -> None:
    report = {**cycle(), "shared": {"token": SECRET}}
    report["v"]["token"] = SECRET
    report["again"] = report["shared"]
    oops_celery.scrub(report, {})
    assert report["v"]["list"] == [1, "<circular reference>"]
    assert report["again"] == report["shared"] == {"token": "<scrubbed>"}
    assert SECRET not in str(report)
    many: list = []
    for _ in range(90):
        many = [many, many]  # 2**90 lists, looked at one by one
    assert scrubbed(many)


def test_nothing_is_left_below_the_deepest_level() -> None:
    deep: dict = {"token": SECRET}
    for _ in range(5000):
        deep = {"n": deep}
    report = {"v": deep, "first": 1}
    oops_celery.scrub(report, {})
    body = wire.encode(report).body
    assert b"first" in body
    assert SECRET.encode() not in body


@given(report=reports)
def test_a_report_without_secrets_is_left_as_it_is(report: dict) -> None:
    before = copy.deepcopy(report)
    oops_celery.scrub(report, {})
    assert wire.encode(report) == wire.encode(before)


@given(data=st.data(), report=reports)
def test_no_secret_is_left_in_any_place(data: st.DataObject, report: dict) -> None:
    key = data.draw(st.sampled_from(["password", "X-Api-Key", "HTTP_COOKIE", "TOKEN"]))
    forms = [{key: SECRET}, [(key, SECRET)], f"/?a=b&{key}={SECRET}", {key: [SECRET]}]
    places = [report, *(v for v in report.values() if isinstance(v, dict | list))]
    place = data.draw(st.sampled_from(places))
    form = data.draw(st.sampled_from(forms))
    if isinstance(place, list):
        place.append(form)
    else:
        place["planted"] = form
    oops_celery.scrub(report, {})
    assert SECRET not in str(report)
    once = copy.deepcopy(report)
    oops_celery.scrub(report, {})
    assert report == once


def wsgi_reports(config: oops.Config) -> list[dict]:
    """Fail in a WSGI application; return what was published."""
    published: list[dict] = []
    config.publisher = lambda report: published.append(report) or ["id"]

    def app(environ: dict, start_response: Any) -> list[bytes]:
        environ["oops.report"]["form"] = {"password": SECRET}
        raise ValueError("no luck")

    environ = {
        "HTTP_COOKIE": f"sessionid={SECRET}",
        "HTTP_AUTHORIZATION": f"Basic {SECRET}",
        "HTTP_X_API_KEY": SECRET,
        "HTTP_REFERER": f"https://a:{SECRET}@b/?token={SECRET}",
        "QUERY_STRING": f"token={SECRET}&a=b",
        "HTTP_ACCEPT": "text/html",
    }
    setup_testing_defaults(environ)
    list(oops_wsgi.make_app(app, config)(environ, lambda *_: lambda data: None))
    return published


def test_through_oops_wsgi() -> None:
    """Behind its hooks: the first of them brings what the application added."""
    config = oops.Config()
    oops_wsgi.install_hooks(config)
    config.on_create.append(oops_celery.scrub)
    (report,) = wsgi_reports(config)
    assert SECRET not in str(report)
    assert report["value"] == "no luck"
    assert report["form"] == {"password": "<scrubbed>"}
    assert report["url"].endswith("?token=<scrubbed>&a=b")
    assert report["req_vars"]["HTTP_ACCEPT"] == "text/html"
    assert report["req_vars"]["HTTP_X_API_KEY"] == "<scrubbed>"


def test_before_the_hooks_of_oops_wsgi_it_would_be_too_early() -> None:
    """Which is why the README says: behind all other hooks."""
    config = oops.Config()
    config.on_create.append(oops_celery.scrub)
    oops_wsgi.install_hooks(config)
    (report,) = wsgi_reports(config)
    assert report["req_vars"]["HTTP_X_API_KEY"] == SECRET


def test_as_a_filter_it_comes_behind_every_hook() -> None:
    config = oops.Config()
    config.filters.append(oops_celery.scrub)
    oops_wsgi.install_hooks(config)
    (report,) = wsgi_reports(config)
    assert SECRET not in str(report)


def test_it_is_off_by_default() -> None:
    config = oops.Config()
    oops_wsgi.install_hooks(config)
    (report,) = wsgi_reports(config)
    assert report["form"] == {"password": SECRET}
