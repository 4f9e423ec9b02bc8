"""The URL of a repository: ``sqlite:///oopses.db`` or ``postgresql+psycopg://...``.

Without SQLAlchemy, which an application that only publishes does not have.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

SQLITE = "sqlite:///"
POSTGRESQL = "postgresql+psycopg://"

#: The two kinds, for a person.
FORMS = "sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"

#: What a URL begins with.
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)

#: What is mounted where, on Linux.
MOUNTS = Path("/proc/self/mountinfo")

#: File systems of other machines. SQLite's locks and shared memory need a local one.
_NETWORK = re.compile(
    r"nfs4?|cifs|smb\w*|9p|afs|ceph|glusterfs|lustre|ncpfs|ocfs2|gfs2"
    r"|fuse\.(?:sshfs|glusterfs|ceph\S*|s3fs|rclone)"
)


def is_url(text: str) -> bool:
    """Return whether a setting names a database, and not a folder."""
    return bool(_SCHEME.match(text))


def without_password(url: str) -> str:
    """Return a URL that may be shown."""
    if url.startswith(SQLITE):
        return url
    begin, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    path = re.sub(r"(password=)[^&]*", r"\1***", path, flags=re.IGNORECASE)
    user = f"{user.partition(':')[0]}:***" if ":" in user else user
    return f"{begin}{separator}{user}{at}{host}{slash}{path}"


def check(url: str) -> str:
    """Return a URL; a relative file of SQLite becomes absolute.

    Raises:
        ValueError: It is not one of the two kinds; the text says what is.
    """
    if url.startswith(SQLITE):
        return f"{SQLITE}{file_of(url)}"
    if not url.startswith(POSTGRESQL):
        raise ValueError
    parts = urlsplit(url)
    _ = parts.port  # raises ValueError
    if not parts.path.strip("/"):
        raise ValueError
    return url


def file_of(url: str) -> Path | None:
    """Return the file of an SQLite database; None for PostgreSQL.

    Raises:
        ValueError: It names no file.
    """
    if not url.startswith(SQLITE):
        return None
    name = unquote(url[len(SQLITE) :])
    if not name or name.endswith("/") or "?" in name or "\0" in name:
        raise ValueError
    if name.startswith(":memory:"):
        raise ValueError
    return Path(os.path.abspath(name))


def network_file_system(file: Path) -> str | None:
    """Return the kind of file system that a file is on, if it is another machine's."""
    try:
        lines = MOUNTS.read_text().splitlines()
    except OSError:  # not Linux
        return None
    folder = os.path.realpath(file.parent)
    best, kind = "", ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        mounted = fields.split()[4].encode().decode("unicode_escape")
        inside = folder == mounted or folder.startswith(mounted.rstrip("/") + "/")
        if inside and len(mounted) >= len(best):
            best, kind = mounted, rest.split()[0]
    return kind if _NETWORK.fullmatch(kind) else None
