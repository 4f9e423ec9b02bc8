"""Who may read the pages, and who may change something.

Reading is open to this machine alone, unless there is a login or `web_public` is set.
Changes need a login: a user of a file of htpasswd's, or one that a trusted proxy names.
"""

from __future__ import annotations

import hmac
import logging
import re
import secrets
import threading
import time
from base64 import b64decode
from collections import defaultdict, deque
from contextlib import suppress
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import bcrypt
from starlette.requests import HTTPConnection

from oops_celery.errors import SettingsError
from oops_celery.settings import Settings

#: Passwords that bcrypt reads whole.
MOST_PASSWORD = 72

#: Failed logins of an address in `WINDOW` seconds before it must wait.
MOST_FAILURES = 10
WINDOW = 300

#: Right passwords that are remembered.
MOST_KNOWN = 100

#: Why somebody may not read: there is a login, and this is nobody.
LOGIN = "Reading these pages needs a login."

WAIT = "Too many failed logins; wait five minutes."

#: Addresses whose failures are remembered.
MOST_ADDRESSES = 10_000

#: Compared with the passwords of unknown users, so that the time tells nothing.
_NOBODY = bcrypt.hashpw(secrets.token_bytes(16), bcrypt.gensalt())

#: Headers that proxies add: Caddy all of them, nginx those that it is told to.
_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")

#: A cost of 4 to 31, salt and hash: what bcrypt takes.
_BCRYPT = re.compile(r"\$2[aby]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}", re.ASCII)

audit = logging.getLogger("oops_celery.web.audit")


class Htpasswd:
    """The users of a file that ``htpasswd -B`` made; read again when it changes.

    Raises:
        SettingsError: The file cannot be read, or has another kind of password.
    """

    def __init__(self, file: str) -> None:
        self._file = Path(file)
        self._stamp: object = None
        self._users: dict[str, bytes] = {}
        self._known: set[tuple[str, bytes]] = set()
        self._key = secrets.token_bytes(32)
        self._read()

    def mark(self, user: str) -> str | None:
        """Return what changes with a user's password; None if there is no such user."""
        hashed = self._current().get(user)
        return None if hashed is None else sha256(hashed).hexdigest()[:16]

    def check(self, user: str, password: str) -> bool:
        """Return whether a user's password is right."""
        users = self._current()
        given = password.encode("utf-8", "surrogateescape")
        if len(given) > MOST_PASSWORD or b"\0" in given:
            return False
        # Remembered, for programs that send it with each request.
        mark = (user, hmac.digest(self._key, given + users.get(user, b""), "sha256"))
        if mark in self._known:
            return True
        right = bcrypt.checkpw(given, users.get(user, _NOBODY)) and user in users
        if right:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known.add(mark)
        return right

    def _current(self) -> dict[str, bytes]:
        try:
            self._read()
        except SettingsError as error:  # it was usable, and may be so again
            audit.warning("%s; until then nobody can log in", error)
            self._stamp, self._users = None, {}
        return self._users

    def _read(self) -> None:
        try:
            found = self._file.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp == self._stamp:
                return
            text = self._file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not UTF-8"
            raise SettingsError(
                f"the users' file {self._file} cannot be read: {why}; make it with: "
                f"htpasswd -B -c {self._file} USER"
            ) from None
        users = {}
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            user, colon, hashed = line.strip().partition(":")
            if not (user and colon and _BCRYPT.fullmatch(hashed)):
                raise SettingsError(
                    f"{self._file}, line {number}: it is not USER:HASH with bcrypt; "
                    f"make it with: htpasswd -B {self._file} USER"
                )
            users[user] = hashed.encode()
        if not users:
            raise SettingsError(
                f"{self._file} has no users; add one: htpasswd -B {self._file} USER"
            )
        self._stamp, self._users = stamp, users


class Access:
    """Decides who may do what.

    Args:
        settings: The settings of the pages.

    Raises:
        SettingsError: They do not go together, or the file of users is unusable.
    """

    def __init__(self, settings: Settings) -> None:
        self._header = settings.web_trust_header
        self._proxies = settings.web_trusted_proxy
        if bool(self._header) != bool(self._proxies):
            raise SettingsError(
                "OOPS_WEB_TRUST_HEADER (--trust-header) and OOPS_WEB_TRUSTED_PROXY "
                "(--trusted-proxy) need each other: set both, or neither"
            )
        file = settings.web_htpasswd
        self.htpasswd = Htpasswd(file) if file else None
        self._public = settings.web_public
        self._failures: dict[str, deque[float]] = defaultdict(deque)
        self._lock = threading.Lock()

    @property
    def has_login(self) -> bool:
        """Whether anybody can log in."""
        return self.htpasswd is not None or self._header is not None

    def user(self, request: HTTPConnection) -> str | None:
        """Return who sent a request: named by the proxy, or by the session."""
        if self._header and (named := request.headers.get(self._header)):
            if self._is_proxy(request):
                return named
            audit.warning(
                "refused: %s names a user in %s and is no trusted proxy",
                address(request),
                self._header,
            )
        if self.htpasswd is None:
            return None
        user = request.session.get("user")
        if not isinstance(user, str):
            return None
        # Who was removed, or has another password, is out.
        mark = self.htpasswd.mark(user)
        return user if mark and mark == request.session.get("mark") else None

    def begin_session(self, request: HTTPConnection, user: str) -> None:
        """Log a user in who gave the right password."""
        request.session.clear()  # nobody else knows this session
        request.session["user"] = user
        if self.htpasswd is not None:
            request.session["mark"] = self.htpasswd.mark(user)
        audit.info("login of %r from %s", user, address(request))

    def reader(self, request: HTTPConnection) -> str | None:
        """Return who sent a request that changes nothing: HTTP's Basic counts, too."""
        return self.user(request) or self._basic(request)

    def may_listen(self, host: str) -> bool:
        """Return whether to serve on an address: others could read all reports."""
        return self._public or self.has_login or _is_local(host)

    def may_read(self, request: HTTPConnection) -> str:
        """Return why somebody may not read the pages; empty if they may."""
        if self._public:
            return ""
        if self.has_login:
            return "" if self.reader(request) else LOGIN
        server = request.scope.get("server")
        if not (server and _is_local(server[0])):
            return (
                "These pages are open to this machine alone. For others, give them a "
                "login (OOPS_WEB_HTPASSWD), or OOPS_WEB_PUBLIC=true."
            )
        forwarded = any(name in request.headers for name in _FORWARDED)
        # Another name without a proxy: a page of another site may have resolved its own
        # name to this machine (DNS rebinding).
        if forwarded or not _is_local(host(request) or ""):
            return (
                "These pages are open to this machine alone, and this request came by "
                "a proxy, or under another name. For others, give them a login "
                "(OOPS_WEB_HTPASSWD), or OOPS_WEB_PUBLIC=true."
            )
        return ""

    def log_in(self, request: HTTPConnection, user: str, password: str) -> str:
        """Check a password; return why it is not accepted, empty if it is."""
        if self.htpasswd is None:
            return "There are no passwords here."
        who = address(request)
        if self._must_wait(who):
            audit.warning("refused: login from %s, after too many failures", who)
            return WAIT
        if self.htpasswd.check(user, password):
            return ""
        self._failed(who)
        audit.warning("refused: login of %r from %s", user[:80], who)
        return "The name or the password is wrong."

    def _basic(self, request: HTTPConnection) -> str | None:
        kind, _, coded = request.headers.get("authorization", "").partition(" ")
        if self.htpasswd is None or kind.lower() != "basic":
            return None
        user = password = ""
        with suppress(ValueError):
            text = b64decode(coded, validate=True).decode()
            user, _, password = text.partition(":")
        return None if self.log_in(request, user, password) else user

    def _is_proxy(self, request: HTTPConnection) -> bool:
        try:
            peer = ip_address(request.client.host if request.client else "")
        except ValueError:
            return False
        return any(peer in network for network in self._proxies)

    def _must_wait(self, who: str) -> bool:
        with self._lock:
            return len(self._recent(who)) >= MOST_FAILURES

    def _failed(self, who: str) -> None:
        with self._lock:
            if len(self._failures) > MOST_ADDRESSES:
                self._failures.clear()
            self._recent(who).append(time.monotonic())

    def _recent(self, who: str) -> deque[float]:
        found = self._failures[who]
        while found and found[0] < time.monotonic() - WINDOW:
            found.popleft()
        return found


def address(request: HTTPConnection) -> str:
    """Return where a request came from."""
    return request.client.host if request.client else "a socket"


def host(request: HTTPConnection) -> str | None:
    """Return the name under which a request came; None if it is not understood."""
    try:
        found = urlsplit(f"//{request.headers.get('host', '')}/")
        _ = found.port  # Starlette would fail later
    except ValueError:
        return None
    return found.hostname or ""


def token(request: HTTPConnection) -> str:
    """Return the token that a form of this session must have."""
    found = request.session.get("csrf")
    if not isinstance(found, str):
        found = request.session["csrf"] = secrets.token_urlsafe(24)
    return found


def has_token(request: HTTPConnection, given: object) -> bool:
    """Return whether a form came from a page of this session."""
    known = request.session.get("csrf")
    if not isinstance(known, str) or not isinstance(given, str):
        return False
    return hmac.compare_digest(known.encode(), given.encode())


def _is_local(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
