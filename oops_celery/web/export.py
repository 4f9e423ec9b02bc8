"""The page of groups as one file, which needs nothing else."""

from __future__ import annotations

from base64 import b64encode
from datetime import datetime, timedelta, timezone
from hashlib import sha256

from oops_celery.repository.groups import HOUR
from oops_celery.repository.reader import Overview
from oops_celery.web.rendering import HERE, render

#: Groups, and files that cannot be read, that are listed.
MOST = 500


def export(overview: Overview) -> str:
    """Return the groups of some days as HTML."""
    style = (HERE / "static" / "oops.css").read_text(encoding="utf-8")
    digest = b64encode(sha256(style.encode()).digest()).decode()
    first = datetime.combine(overview.first, datetime.min.time(), timezone.utc)
    begin = int((overview.since or first).timestamp()) // HOUR
    end = int((first + timedelta(days=overview.days)).timestamp()) // HOUR
    by_hour = overview.since is not None or overview.days <= 2
    values = {
        "overview": overview,
        "style": style,
        "policy": f"default-src 'none'; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'",
        "made": datetime.now(timezone.utc),
        "begin": begin,
        "end": end,
        "width": 1 if by_hour else 24,
        "most": MOST,
        "alone": True,
        "base": "",
        "flash": None,
    }
    return render("export.html", values)
