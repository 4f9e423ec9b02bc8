"""The fingerprint of a report: reports with the same one are one group.

It is made of the exception's type and the innermost frame of the application's own
code, its file and function. Frames of installed packages and of the standard library
are not the application's. A report without a traceback has its type, its topic and its
value without variable parts instead. A report may also name its own: ``fingerprint``, a
text or a list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from hashlib import md5
from typing import Any, NamedTuple

from oops_celery.repository.groups import VALUE_KEPT, normalised

#: The version of the rule. A higher one is applied to what is stored by
#: ``oops-celery repository regroup``.
RULE = 1

#: Characters of a value, and of a fingerprint that a report names, that are read.
READ = 1000

#: A frame, as Python's traceback module and as zope.exceptions write it; those of an
#: exception group have a margin.
_FRAME = re.compile(
    r'^[ |]*(?:File "(?P<file>[^"\n]+)"|Module (?P<module>\S+)),'
    r" line \d+(?:, in (?P<function>[^\n]+))?$",
    re.MULTILINE,
)
_TRACEBACK = "Traceback (most recent call last):"

#: Files that are not the application's.
_INSTALLED = re.compile(
    r"[/\\](?:site|dist)-packages[/\\]"
    r"|[/\\]lib(?:64)?[/\\](?:python|pypy)[\d.]+t?[/\\]"
    r"|[/\\]Python\d+[/\\]Lib[/\\]"
    r"|[/\\]lib-python[/\\]"
    r"|python\d+\.zip[/\\]"
    r"|^<frozen ",
    re.IGNORECASE,
)

#: Folders whose name differs between two releases of the same program: a date or the
#: number of a build, a version with a dot, a commit. Not v1 and v2 of an interface.
_RELEASE = re.compile(
    r"(?<=[/\\])(?:\d{4,}[\d._T:-]*|v?\d+(?:\.\d+)+|(?=[a-f]*\d)[0-9a-f]{7,64})"
    r"(?=[/\\])"
)

#: Characters of a traceback that are read, from its end.
_TRACEBACK_READ = 200_000


class Fingerprint(NamedTuple):
    """What tells a group from the others.

    Attributes:
        key: A hash of all of it.
        type: The exception's type.
        topic: The report's topic, without the query of a URL.
        place: ``file:function`` of the application's innermost frame, or empty.
        value: The value without its variable parts.
    """

    key: str
    type: str
    topic: str
    place: str
    value: str


def fingerprint(report: Mapping[str, Any]) -> Fingerprint:
    """Return a report's fingerprint. Never raises: a report may hold anything."""
    kind = text_of(report.get("type"))[:VALUE_KEPT]
    # Some programs use the URL as topic; its query is user input.
    topic = text_of(report.get("topic")).partition("?")[0][:VALUE_KEPT]
    value = normalised(text_of(report.get("value")))
    place = innermost(text_of(report.get("tb_text")))
    own = report.get("fingerprint")
    if own and isinstance(own, (str, list)):
        parts = [own] if isinstance(own, str) else own
        named = ["own", *(text_of(part) for part in parts)]
    elif place:
        named = ["place", kind, place]
    else:
        named = ["value", kind, topic, value]
    packed = json.dumps([RULE, *named]).encode()
    key = md5(packed, usedforsecurity=False).hexdigest()
    return Fingerprint(key, kind, topic, place, value)


def is_installed(file: str) -> bool:
    """Return whether a file is of a package or of Python, not the application's."""
    return bool(_INSTALLED.search(file))


def innermost(traceback: str) -> str:
    r"""Return ``file:function`` of the application's innermost frame.

    If no frame is the application's, that of the innermost frame of all; empty if there
    is no frame. Of a chain of exceptions the last one counts.

    >>> innermost('  File "/srv/shop/20261127/cart.py", line 3, in add\n    x()\n')
    '/srv/shop/<release>/cart.py:add'
    """
    last = traceback[-_TRACEBACK_READ:].rpartition(_TRACEBACK)[2]
    frames = [
        (found["file"] or found["module"], found["function"] or "")
        for found in _FRAME.finditer(last)
    ]
    if not frames:
        return ""
    own = (one for one in reversed(frames) if not is_installed(one[0]))
    file, function = next(own, frames[-1])
    return f"{_RELEASE.sub('<release>', file)}:{function}"


def text_of(value: Any) -> str:
    """Return a value of a report as text that every database can hold."""
    if value is None:
        return ""
    if not isinstance(value, str):
        try:
            value = str(value)[:READ]
        except Exception:  # nested too deep
            return f"<{type(value).__name__}>"
    return str(value).replace("\0", "\\x00")
