"""Read a traceback's text: exceptions, their frames, and how they are chained.

Python's own format and zope.exceptions', also with exception groups, of which each
member is an exception of its own. What is not understood is kept as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

from oops_celery.repository.fingerprint import is_installed

#: Characters of a traceback that are read: the last ones have the failure.
READ = 400_000

#: Most frames of an exception to show: of a recursion the outer and the inner ones.
MOST_FRAMES = 200

_FRAME = re.compile(
    r'^ *(?:File "(?P<file>[^"\n]+)"|Module (?P<module>\S+)),'
    r" line (?P<line>\d+)(?:, in (?P<function>.+))?$"
)
_START = re.compile(
    r"^ *(?:\+ )?(Exception Group )?Traceback \(most recent call last\):$"
)
_MEMBER = re.compile(r"^ *\+-[-+]*-* (\d+|\.\.\.) -+$")
_END = re.compile(r"^ *\+-+$")
_MARGIN = re.compile(r"^( *)[|+] ?")

#: What Python writes between two exceptions.
_BETWEEN = {
    "The above exception was the direct cause of the following exception:": "cause",
    "During handling of the above exception, another exception occurred:": "context",
}


@dataclass
class Frame:
    """A frame of a traceback.

    Attributes:
        file: Its file, or module.
        line: The line's number.
        function: Its function; may be empty.
        own: Whether it is the application's own code.
        code: Lines of code, and what follows them.
    """

    file: str
    line: str
    function: str
    own: bool
    code: list[str] = field(default_factory=list)


@dataclass
class Raised:
    """An exception with its frames, the outermost first.

    Attributes:
        relation: Its relation to the one before it in the text: ``cause`` and
            ``context`` if that one came first, ``member`` of an exception group.
        depth: How deep it is in exception groups.
        text: Its type and value, as Python writes them.
    """

    relation: str = ""
    depth: int = 0
    text: list[str] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)

    @property
    def heading(self) -> str:
        """Its type and value."""
        return "\n".join(self.text)

    @property
    def left_out(self) -> int:
        """How many frames are not shown."""
        return max(len(self.frames) - MOST_FRAMES, 0)

    def runs(self) -> Iterator[tuple[bool, list[Frame]]]:
        """Yield frames that follow each other, and whether they are the application's.

        The innermost run counts as its own if no other does: it is all there is.
        """
        shown = self.frames
        if self.left_out:
            half = MOST_FRAMES // 2
            shown = [*shown[:half], *shown[-half:]]
        any_own = any(frame.own for frame in shown)
        for own, frames in groupby(shown, key=lambda frame: frame.own or not any_own):
            yield own, list(frames)


def read_traceback(text: str) -> list[list[Raised]]:
    """Return chained exceptions, the last one first, each followed by its members.

    Args:
        text: The traceback.

    Returns:
        Lists of an exception and the members of its group; empty if there is no frame.
    """
    found = _Reading()
    for line in text[-READ:].splitlines():
        found.read(line.rstrip())
    chain: list[list[Raised]] = []
    for one in found.raised:
        if one.depth == 0 or not chain:
            chain.append([])
        chain[-1].append(one)
    if not any(one.frames for one in found.raised):
        return []
    return chain[::-1]


class _Reading:
    def __init__(self) -> None:
        self.raised: list[Raised] = []
        self._relation = ""
        self._in_group = False
        self._depth = 0

    def read(self, line: str) -> None:
        if self._in_group:
            if _MEMBER.match(line):
                self._depth = max(line.rindex("+") // 2 - 1, 1)
                self._relation = "member"
                self.raised.append(Raised("member", self._depth))
                return
            if _END.match(line):
                self._depth = max(line.index("+") // 2 - 2, 0)
                return
            if margin := _MARGIN.match(line):
                line = line[margin.end() :]
            elif line in _BETWEEN:  # the group is over
                self._depth = 0
        if started := _START.match(line):
            self._in_group = self._in_group or bool(started[1])
            self._start()
        elif line.strip() in _BETWEEN:
            self._relation = _BETWEEN[line.strip()]
        elif frame := _FRAME.match(line):
            file = frame["file"] or frame["module"]
            own = not is_installed(file)
            function = frame["function"] or ""
            self._last().frames.append(Frame(file, frame["line"], function, own))
        elif line:
            last = self._last()
            if line.startswith("  ") and last.frames and not last.text:
                last.frames[-1].code.append(line.removeprefix("    "))
            else:
                last.text.append(line)

    def _start(self) -> None:
        if self._relation == "member" and self.raised and not self.raised[-1].frames:
            self._relation = ""
            return  # the member began with its number
        self.raised.append(Raised(self._relation, self._depth))
        self._relation = ""

    def _last(self) -> Raised:
        if not self.raised:
            self.raised.append(Raised())
        return self.raised[-1]
