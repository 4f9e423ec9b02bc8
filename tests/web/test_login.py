"""Logging in, the headers of answers, and serving below a path."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import bcrypt
import httpx
import pytest

from tests.support import environment, eventually
from tests.web.conftest import Start
from tests.web.serving import PASSWORD, Pages, csrf, refusals, users


def test_a_removed_user_is_out_at_once(guarded: Pages, tmp_path: Path) -> None:
    other = bcrypt.hashpw(b"x", bcrypt.gensalt(4)).decode()
    assert guarded.get("/").status_code == 200
    (tmp_path / "users").write_text(f"bob:{other}\n")
    assert guarded.get("/").status_code == 401


def test_a_new_password_ends_the_sessions_of_the_old_one(
    guarded: Pages, tmp_path: Path
) -> None:
    other = bcrypt.hashpw(b"another one", bcrypt.gensalt(4)).decode()
    (tmp_path / "users").write_text(f"ann:{other}\n")
    assert guarded.get("/").status_code == 401
    assert guarded.log_in(password="another one").status_code == 303
    assert guarded.get("/").status_code == 200


@pytest.mark.parametrize("left", ["", "# nobody\n", "ann\n", None])
def test_the_last_user_removed_is_out_at_once(
    guarded: Pages, tmp_path: Path, left: str | None
) -> None:
    if left is None:
        (tmp_path / "users").unlink()
    else:
        (tmp_path / "users").write_text(left)
    assert guarded.get("/").status_code == 401
    assert guarded.get("/groups.json", auth=("ann", PASSWORD)).status_code == 401


def test_users_are_back_when_their_file_is(guarded: Pages, tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.rename(tmp_path / "away")
    assert guarded.get("/").status_code == 401
    (tmp_path / "away").rename(file)
    assert guarded.get("/").status_code == 200


@pytest.mark.parametrize(
    "password", ["", "x" * 73, "é" * 37, "a\0b", f"{PASSWORD}\0", "\U0001f4a9"]
)
def test_an_odd_password_is_wrong(start: Start, tmp_path: Path, password: str) -> None:
    pages = start("--htpasswd", users(tmp_path))
    assert pages.log_in(password=password).status_code == 403
    assert "login of 'ann' from 127.0.0.1" in refusals(pages)[-1]


@pytest.mark.parametrize("password", ["x" * 72, "grüße-Ω-💩"])
def test_a_long_password_and_one_in_utf8_are_right(
    start: Start, tmp_path: Path, password: str
) -> None:
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    (tmp_path / "users").write_text(f"ann:{hashed}\n")
    pages = start("--htpasswd", str(tmp_path / "users"))
    assert pages.log_in(password=password).status_code == 303
    basic = f"ann:{password}".encode()
    answer = httpx.get(pages.url, auth=httpx.BasicAuth("ann", password))
    assert answer.status_code == 200, basic


@pytest.mark.parametrize(
    "header", ["Basic", "Basic !!", "Basic /w==", "Basic YW5u", "Bearer x", "basic x"]
)
def test_an_odd_authorization_is_refused(
    start: Start, tmp_path: Path, header: str
) -> None:
    pages = start("--htpasswd", users(tmp_path))
    answer = pages.get("/groups.json", headers={"Authorization": header})
    assert answer.status_code == 401


def test_guessing_is_slowed_also_with_a_forged_address(
    start: Start, tmp_path: Path
) -> None:
    pages = start("--htpasswd", users(tmp_path))
    for number in range(10):
        forged = {"X-Forwarded-For": f"10.0.0.{number}"}
        pages.get("/groups.json", auth=("ann", f"{number}"), headers=forged)
    answer = pages.log_in()
    assert answer.status_code == 429
    assert "wait five minutes" in answer.text
    assert "too many failures" in refusals(pages)[-1]


def test_a_login_with_a_token_of_another_session_is_refused_and_logged(
    start: Start, tmp_path: Path
) -> None:
    pages = start("--htpasswd", users(tmp_path))
    token = csrf(httpx.get(f"{pages.url}/login").text)
    form = {"csrf": token, "user": "ann", "password": PASSWORD}
    assert pages.client.post("/login", data=form).status_code == 403
    assert "wrong CSRF token" in refusals(pages)[-1]


THENS = ["//evil", "/\\evil", "https://evil", "\\\\evil", "/\t/evil", "evil", " //evil"]


@pytest.mark.parametrize("then", THENS)
def test_a_login_leads_to_no_other_site(
    start: Start, tmp_path: Path, then: str
) -> None:
    pages = start("--htpasswd", users(tmp_path))
    address = f"/login?then={quote(then, safe='')}"
    token = csrf(pages.get(address).text)
    form = {"csrf": token, "user": "ann", "password": PASSWORD}
    assert pages.client.post(address, data=form).headers["location"] == "/"


def test_a_login_leads_to_the_page_that_was_asked_for(
    start: Start, tmp_path: Path
) -> None:
    pages = start("--htpasswd", users(tmp_path))
    asked = pages.get("/search?type=a%26b", headers={"Accept": "text/html"})
    address = asked.headers["location"]
    form = {"csrf": csrf(pages.get(address).text), "user": "ann", "password": PASSWORD}
    answer = pages.client.post(address, data=form)
    assert answer.headers["location"] == "/search?type=a%26b"


@pytest.mark.parametrize("path", ["/", "/login", "/nothing", "/health", "/dead/replay"])
def test_every_answer_has_the_headers(start: Start, tmp_path: Path, path: str) -> None:
    headers = start("--htpasswd", users(tmp_path)).get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_cookie_is_secure_behind_https(
    start: Start, tmp_path: Path, scheme: str
) -> None:
    url = f"{scheme}://oops.example"
    pages = start("--htpasswd", users(tmp_path), OOPS_WEB_URL=url)
    cookie = pages.get("/login").headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert ("secure" in cookie) == (scheme == "https")


@pytest.mark.parametrize("cut", [True, False])
def test_all_links_stay_below_the_path_of_the_url(
    start: Start, tmp_path: Path, cut: bool
) -> None:
    options = ("--htpasswd", users(tmp_path))
    pages = start(*options, OOPS_WEB_URL="http://oops.example/deep/oops/")
    before = "" if cut else "/deep/oops"
    form = {"csrf": csrf(pages.get(f"{before}/login").text), "user": "ann"}
    form["password"] = PASSWORD
    answer = pages.client.post(f"{before}/login", data=form)
    assert answer.headers["location"] == "/deep/oops/"
    seen, todo = (
        set(),
        ["/", "/nothing", "/OOPS-" + "0" * 32, "/login", "/dead/letters"],
    )
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        answer = pages.get(before + path)
        assert answer.status_code in (200, 302, 303, 404), path
        links = re.findall(r' (?:href|src|action|formaction)="([^"#]*)"', answer.text)
        links += [answer.headers[n] for n in ["location"] if n in answer.headers]
        for link in links:
            found = httpx.URL(f"http://h/deep/oops{path}").join(
                link.replace("&amp;", "&")
            )
            whole = found.raw_path.decode()
            assert whole.startswith("/deep/oops/"), (path, link)
            if len(seen) < 80 and "/logout" not in whole:
                todo.append(whole.removeprefix("/deep/oops"))
    assert {"/", "/search", "/dead", "/health", "/static/oops.css"} < seen
    assert any(path.startswith("/OOPS-") for path in seen)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(start: Start, number: signal.Signals) -> None:
    pages = start()
    pages.get("/")
    pages.process.send_signal(number)
    assert pages.process.wait(30) == 0
    assert len(pages.log.read_text().splitlines()) == 1


def test_any_server_of_asgi_serves_the_app(tmp_path: Path, filled: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "uvicorn", "oops_celery.web:app", f"--port={port}"]
    env = environment(OOPS_REPOSITORY=filled)
    with subprocess.Popen(line, cwd=tmp_path, env=env) as server:
        try:
            eventually(lambda: _listens(port))
            assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
        finally:
            server.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0
