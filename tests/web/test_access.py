"""Who may read and change what, at the real server, and what others are told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support import environment
from tests.web.conftest import Start
from tests.web.serving import PASSWORD, Pages, csrf, refusals, users


def change(pages: Pages, token: str | None, **more: object) -> httpx.Response:
    form = {"state": "muted"} | ({} if token is None else {"csrf": token})
    return pages.client.post("/groups/1/state", data=form, **more)  # type: ignore[arg-type]


# Changes.


def test_a_change_with_the_token_of_its_session_is_made_and_logged(
    guarded: Pages,
) -> None:
    assert change(guarded, csrf(guarded.get("/").text)).status_code == 303
    assert "'ann' from 127.0.0.1: group 1 is muted" in guarded.log.read_text()


@pytest.mark.parametrize("token", [None, "", "wrong", "\udcff", "ü" * 32])
def test_a_change_with_a_wrong_token_is_refused_and_logged(
    guarded: Pages, token: str | None
) -> None:
    guarded.get("/")
    given = token.encode("utf-8", "surrogateescape") if token else token
    assert change(guarded, given).status_code == 403  # type: ignore[arg-type]
    assert "wrong CSRF token" in refusals(guarded)[-1]


def test_the_token_of_another_session_is_refused(
    guarded: Pages,
) -> None:
    with httpx.Client(base_url=guarded.url) as other:
        token = csrf(other.get("/login").text)
        form = {"csrf": token, "user": "ann", "password": PASSWORD}
        other.post("/login", data=form)
        token = csrf(other.get("/").text)
    guarded.get("/")
    assert change(guarded, token).status_code == 403
    assert "wrong CSRF token" in refusals(guarded)[-1]


def test_a_change_without_a_login_is_refused_and_logged(start: Start) -> None:
    pages = start("--public")
    assert change(pages, "anything").status_code == 403
    assert "no login" in refusals(pages)[-1]


def test_basic_auth_reads_and_does_not_change(start: Start, tmp_path: Path) -> None:
    pages = start("--htpasswd", users(tmp_path))
    assert pages.get("/groups.json", auth=("ann", PASSWORD)).status_code == 200
    assert pages.get("/metrics", auth=("ann", PASSWORD)).status_code == 200
    assert change(pages, "x", auth=("ann", PASSWORD)).status_code == 403
    assert "no login" in refusals(pages)[-1]


# A proxy's header.


def test_a_trusted_proxy_names_the_user(start: Start) -> None:
    pages = start("--trust-header=X-User", "--trusted-proxy=127.0.0.0/8")
    page = pages.get("/", headers={"X-User": "bob"})
    token = csrf(page.text)
    assert change(pages, token, headers={"X-User": "bob"}).status_code == 303
    assert "'bob' from 127.0.0.1: " in pages.log.read_text()


@pytest.mark.parametrize("forged", [{}, {"X-Forwarded-For": "10.0.0.1"}])
def test_the_proxy_header_from_elsewhere_is_refused_and_logged(
    start: Start, forged: dict[str, str]
) -> None:
    pages = start("--trust-header=X-User", "--trusted-proxy=10.0.0.0/8")
    headers = {"X-User": "bob", **forged}
    assert pages.get("/", headers=headers).status_code == 401
    assert change(pages, "x", headers=headers).status_code == 401
    assert "127.0.0.1 names a user in X-User" in "".join(refusals(pages))


# Where it is served.


def refused_start(folder: Path, database: str, *options: str) -> str:
    """Start it in vain; return its one line."""
    done = subprocess.run(
        [sys.executable, "-m", "oops_celery.cli", "web", "--port=0", *options],
        cwd=folder,
        env=environment(OOPS_REPOSITORY=database),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def test_all_addresses_without_a_login_are_refused(tmp_path: Path, filled: str) -> None:
    line = refused_start(tmp_path, filled, "--host=0.0.0.0")
    assert "--host 0.0.0.0: everybody" in line
    assert "--public" in line


def test_all_addresses_are_served_to_the_public_if_asked(start: Start) -> None:
    pages = start("--host=0.0.0.0", "--public")
    assert pages.get("/", headers={"Host": "oops.example"}).status_code == 200


def test_a_page_under_a_foreign_name_is_refused(start: Start) -> None:
    pages = start()
    assert pages.get("/").status_code == 200
    assert pages.get("/", headers={"Host": "evil.example"}).status_code == 403
    assert refusals(pages)


@pytest.mark.parametrize("host", ["[", "a]b", "[::1", "", "::::", "127.0.0.1:x", "@"])
def test_an_odd_host_header_is_refused(start: Start, host: str) -> None:
    answer = start().get("/", headers={"Host": host})
    assert answer.status_code in (200, 400, 403)


def test_a_busy_port_is_one_line(start: Start, tmp_path: Path, filled: str) -> None:
    port = start().url.rpartition(":")[2]
    line = refused_start(tmp_path, filled, f"--port={port}")
    assert f"cannot serve on 127.0.0.1 port {port}: Address already in use" in line


USERS: dict[str, bytes | None] = {
    "missing": None,
    "empty": b"",
    "md5": b"ann:$apr1$abcdefgh$abcdefghijklmnopqrstuv\n",
    "plain": b"ann:secret\n",
    "binary": bytes(range(256)),
    "salt": b"ann:$2y$99$" + b"!" * 53,
}


@pytest.mark.parametrize("kind", [*USERS, "directory"])
def test_an_unusable_file_of_users_is_one_line(
    tmp_path: Path, filled: str, kind: str
) -> None:
    file = tmp_path / "users"
    if kind == "directory":
        file.mkdir()
    elif (text := USERS[kind]) is not None:
        file.write_bytes(text)
    line = refused_start(tmp_path, filled, "--htpasswd", str(file))
    assert str(file) in line


@pytest.mark.parametrize(
    "options",
    [
        ["--trust-header=X-User"],
        ["--trusted-proxy=10.0.0.0/8"],
        ["--trust-header=X-User", "--trusted-proxy=10.0.0.0/99"],
        ["--trust-header=X-User", "--trusted-proxy=proxy.example"],
        ["--trust-header=X User:", "--trusted-proxy=10.0.0.0/8"],
    ],
)
def test_options_that_do_not_go_together_are_one_line(
    tmp_path: Path, filled: str, options: list[str]
) -> None:
    assert "trust" in refused_start(tmp_path, filled, *options)
