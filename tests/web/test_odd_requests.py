"""Requests that no browser sends: never a mistake of ours, never a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from oops_celery.repository.store import Repository
from tests.web.serving import Pages, a_report, csrf, file_letters, store, users

FORM = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    folder = tmp_path_factory.mktemp("web")
    database = f"sqlite:///{folder}/oopses.db"
    Repository(database).upgrade()
    store(database, *(a_report(number) for number in range(3)))
    file_letters(database, "gave up", a_report(9))
    started = Pages(folder, database, "--htpasswd", users(folder), "--public")
    started.log_in()
    yield started
    started.stop()


@pytest.fixture(autouse=True)
def no_traceback(pages: Pages) -> Iterator[None]:
    before = len(pages.log.read_text())
    yield
    assert "Traceback" not in pages.log.read_text()[before:]


def status(pages: Pages, target: str, method: str = "GET") -> int:
    """Return the status of a request whose target is sent as it is."""
    where = urlsplit(pages.url)
    connection = HTTPConnection(where.hostname or "", where.port, timeout=60)
    try:
        connection.putrequest(method, target, skip_host=False)
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


PATHS = [
    "/%00",
    "/OOPS-%00%00",
    "/%ff",
    "/%ff.json",
    "/" + "a" * 60_000,
    "/" + "%25" * 15_000,
    "/OOPS-" + "0" * 60_000 + ".bson",
    "/..",
    "/../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/static/../access.py",
    "/static/%2e%2e/access.py",
    "/static/%00",
    "/static/%ff",
    "/static/" + "a" * 5_000,
    "/static/",
    "//",
    "//evil.example/",
    "/%2f%2fevil.example",
    "/.json",
    "/.bson",
    "/%D9%A1%D9%A2",
    "/groups/0",
    "/groups/-1",
    "/groups/" + "9" * 19,
    "/groups/" + "9" * 30,
    "/groups/" + "9" * 5_000,
    "/groups/%D9%A1",
    "/groups/%D9%A1.json",
    "/groups/1.json.json",
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:40])
def test_an_odd_path_is_not_found(pages: Pages, path: str) -> None:
    assert status(pages, path) in (200, 302, 303, 307, 400, 404, 405)


def test_an_id_of_100_kb_is_refused(pages: Pages) -> None:
    assert status(pages, "/" + "a" * 100_000) in (400, 404, 414)


QUERIES = [
    "/?page=0",
    "/?page=" + "9" * 5_000,
    "/?page=999999",
    "/?page=%D9%A1",
    "/?period=x",
    "/?type=%ff%00",
    "/?%ff=%ff",
    "/?page=1&page=x",
    "/?sort=%00",
    "/dead/letters?page=999999",
    "/dead/letters?type=%00&reason=%ff&queue=%F0%9F%92%A9",
    "/groups/1?after=garbage",
    "/groups/1?after=%20x",
    "/groups/1?after=2026-01-01",
    "/groups/1?after=0001-01-01T00:00%2B14:00%20x",
    "/groups/1?after=9999-12-31T23:59-14:00%20x",
    "/search?since=garbage",
    "/search?since=0001-01-01T00:00%2B14:00",
    "/search?until=9999-12-31T23:59-14:00",
    "/search?since=2026-W01",
    "/search?since=%D9%A1%D9%A2%D9%A3%D9%A4-01-01",
    "/search?q=%ff%00",
    "/search?q=" + "a" * 60_000,
    "/search?q=" + "%25" * 15_000,
    "/search?q=*&type=" + "x" * 60_000,
    "/search?type=%00&topic=%ff&reporter=%F0%9F%92%A9",
    "/search.json?q=%5C%25_",
    "/search?after=%20&type=X",
    "/login?then=%00",
    "/login?then=%ff",
    "/login?then=" + "/a" * 20_000,
]


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path[:50])
def test_an_odd_query_is_answered(pages: Pages, path: str) -> None:
    assert status(pages, path) in (200, 302, 303, 400, 404)


@pytest.mark.parametrize("path", ["/", "/search", "/dead", "/health", "/groups/1"])
def test_head_has_no_body(pages: Pages, path: str) -> None:
    answer = pages.client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "X", "TRACE"])
@pytest.mark.parametrize("path", ["/", "/OOPS-1", "/static/oops.css"])
def test_other_methods_are_refused(pages: Pages, method: str, path: str) -> None:
    assert status(pages, path, method) == 405


BODIES = [
    ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n"),
    ("multipart/form-data", b"--x--"),
    ("multipart/form-data; boundary=x", b"\0" * 1000),
    (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="csrf"; filename="a"\r\n\r\na\r\n'
        b"--x--\r\n",
    ),
    (FORM, b"csrf=%ff&state=%00"),
    (FORM, b"&" * 5000),
    (FORM, b"a=b&" * 5000),
    ("application/json", b"{}"),
    ("text/plain; charset=x", b"\xff"),
    ("", b"\xff"),
]


@pytest.mark.parametrize("path", ["/login", "/groups/1/state", "/dead/discard"])
@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_an_odd_body_is_refused(
    pages: Pages, path: str, body: tuple[str, bytes]
) -> None:
    headers = {"Content-Type": body[0]}
    answer = pages.client.post(path, content=body[1], headers=headers)
    assert answer.status_code in (400, 403)


@pytest.mark.parametrize("path", ["/login", "/groups/1/state", "/"])
def test_a_body_of_10_mb_is_refused(pages: Pages, path: str) -> None:
    body = b"csrf=" + b"a" * 10_000_000
    answer = pages.client.post(path, content=body, headers={"Content-Type": FORM})
    assert answer.status_code in (400, 405)


def test_a_body_of_10_mb_without_a_length_is_refused(pages: Pages) -> None:
    chunks = (b"a" * 100_000 for _ in range(100))
    headers = {"Content-Type": FORM}
    answer = pages.client.post("/login", content=chunks, headers=headers)
    assert answer.status_code == 400


NUMBERS = ["9" * 19, "9" * 30, "9" * 5000, "-1", "x", "", "%00", "%D9%A1"]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:20])
def test_an_odd_number_in_a_form_is_answered(pages: Pages, number: str) -> None:
    token = csrf(pages.get("/").text)
    for path, form in (
        ("/dead/discard", f"csrf={token}&number={number}"),
        ("/dead/discard", f"csrf={token}&type=&reason=&queue=&up_to={number}"),
        (f"/groups/{number}/state", f"csrf={token}&state=muted"),
    ):
        headers = {"Content-Type": FORM}
        answer = pages.client.post(path, content=form, headers=headers)
        assert answer.status_code in (200, 303, 400, 404, 405), path
