"""The page of ``oops-celery report --html``: one file, which loads nothing.

Reports contain user input: it is escaped, and the page's own policy permits no script
    but
the one below, by its hash.
"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from datetime import date, datetime, timedelta, timezone
from hashlib import sha256
from html import escape
from typing import TYPE_CHECKING

from oops_celery import __version__
from oops_celery.cli.console import escaped
from oops_celery.cli.views.chart import COLOURS, chart

if TYPE_CHECKING:
    from oops_celery.repository.groups import Group
    from oops_celery.repository.reader import Overview

#: Most groups, and most unreadable files, on a page: a browser must be able to show it.
MOST = 1000

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fff; --card: #f6f7f9; --ink: #1d2129; --faint: #636c7a; --line: #dfe3e8;
  --g0: #4269d0; --g1: #efb118; --g2: #ff725c; --g3: #3ca951; --g4: #a463f2;
  --g5: #6cc5b0; --g6: #ff8ab7; --g7: #9498a0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171c; --card: #1c2128; --ink: #e4e8ee; --faint: #98a2b0;
    --line: #323943; --g0: #6f8fe8; --g7: #737983;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2rem 1.25rem 3rem; max-width: 72rem; color: var(--ink);
  background: var(--paper); font: 15px/1.5 system-ui, sans-serif;
}
h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; }
h2 { margin: 2rem 0 .5rem; font-size: 1.05rem; }
p { margin: .25rem 0; color: var(--faint); }
.numbers { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0; padding: 0; }
.numbers li {
  list-style: none; min-width: 8rem; padding: .6rem 1rem; border-radius: .5rem;
  background: var(--card); color: var(--faint);
}
.numbers b {
  display: block; color: var(--ink); font-size: 1.5rem; line-height: 1.3;
  font-variant-numeric: tabular-nums;
}
.scroll { overflow-x: auto; }
svg.chart { display: block; width: 100%; min-width: 40rem; height: auto; }
svg text { fill: var(--faint); font: 12px system-ui, sans-serif; }
svg .grid { stroke: var(--line); }
svg rect:hover { opacity: .75; }
.g0 { fill: var(--g0); } .g1 { fill: var(--g1); } .g2 { fill: var(--g2); }
.g3 { fill: var(--g3); } .g4 { fill: var(--g4); } .g5 { fill: var(--g5); }
.g6 { fill: var(--g6); } .g7 { fill: var(--g7); }
table { width: 100%; border-collapse: collapse; }
th, td {
  padding: .5rem .75rem .5rem 0; border-bottom: 1px solid var(--line);
  text-align: left; vertical-align: top;
}
th { white-space: nowrap; font-weight: 600; }
th button {
  all: unset; cursor: pointer; color: var(--faint); font-size: .85rem;
}
th button:focus-visible { outline: 2px solid var(--g0); }
th[aria-sort] button { color: var(--ink); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
.n, .when { white-space: nowrap; font-variant-numeric: tabular-nums; }
.n { text-align: right; }
.n svg { float: left; width: 10px; height: 10px; margin: .4rem .5rem 0 0; }
.when, .topic, .id { color: var(--faint); }
.type { font-weight: 600; }
.value, .id, li code {
  display: block; font: 13px/1.5 ui-monospace, monospace; overflow-wrap: anywhere;
}
.what { min-width: 16rem; overflow-wrap: anywhere; }
.unreadable { color: var(--faint); overflow-wrap: anywhere; }
"""

SCRIPT = """
for (const head of document.querySelectorAll("th[data-by]")) {
  head.firstElementChild.addEventListener("click", () => {
    const table = head.closest("table"), column = head.cellIndex;
    const up = head.getAttribute("aria-sort") === "descending";
    const number = head.dataset.by === "number";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.cells[column].dataset.key;
    const order = (a, b) => number ? key(a) - key(b) : key(a).localeCompare(key(b));
    const rows = [...table.tBodies[0].rows].sort(order);
    table.tBodies[0].append(...(up ? rows : rows.reverse()));
  });
}
"""


def page(overview: Overview) -> str:
    """Return the page as HTML."""
    title = f"Error reports, {overview.period()}"
    policy = (
        f"default-src 'none'; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}; "
        "base-uri 'none'; form-action 'none'"
    )
    made = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<p>{_safe(overview.folder)} · days and times are UTC · made {made} by oops-celery \
{__version__}</p>
{_numbers(overview)}
{_chart(overview)}
{_groups(overview)}
{_unreadable(overview)}
<script>{SCRIPT}</script>
</body>
</html>
"""


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _safe(text: str) -> str:
    return escape(escaped(text))


def _numbers(overview: Overview) -> str:
    numbers = [(overview.reports, "reports"), (len(overview.groups), "groups")]
    if overview.unreadable:
        numbers.append((len(overview.unreadable), "files cannot be read"))
    items = (f"<li><b>{number:,}</b>{what}</li>" for number, what in numbers)
    return f'<ul class="numbers">{"".join(items)}</ul>'


def _chart(overview: Overview) -> str:
    if not overview.groups:
        return "<p>There are no reports of that time.</p>"
    hourly = overview.days <= 2
    size = 1 if hourly else 24
    first = _hours(overview.first) // size
    bars = overview.days * 24 // size
    shown = overview.groups[: COLOURS - 1]
    rest = Counter[int]()
    for group in overview.groups[COLOURS - 1 :]:
        rest.update(group.hours)
    series = [(_name(group), group.hours) for group in shown]
    if rest:
        series.append(("all other groups", rest))
    counts = []
    for _, hours in series:
        row = [0] * bars
        for hour, count in hours.items():
            # A report on its way at midnight is in the next day's folder.
            row[min(max(hour // size - first, 0), bars - 1)] += count
        counts.append(row)
    names = [_safe(name) for name, _ in series]
    labels = [_label(overview, bar) for bar in range(bars)]
    unit = "hour" if hourly else "day"
    drawing = chart(names, counts, labels, f"Reports by the {unit}, by group")
    return f'<h2>Reports by the {unit}</h2>\n<div class="scroll">{drawing}</div>'


def _label(overview: Overview, bar: int) -> str:
    if overview.days > 2:
        return (overview.first + timedelta(days=bar)).strftime("%m-%d")
    day = (overview.first + timedelta(days=bar // 24)).strftime("%m-%d ")
    return f"{day if overview.days > 1 else ''}{bar % 24:02}:00"


def _hours(day: date) -> int:
    return (day - date(1970, 1, 1)).days * 24


def _name(group: Group) -> str:
    topic = f" in {group.topic}" if group.topic else ""
    return f"{group.type or '(no type)'}{topic}"


def _groups(overview: Overview) -> str:
    if not overview.groups:
        return ""
    rows = "\n".join(
        _row(group, min(place, COLOURS - 1))
        for place, group in enumerate(overview.groups[:MOST])
    )
    more = len(overview.groups) - MOST
    note = f"<p>{more:,} more groups are left out: --json has all.</p>"
    return f"""<h2>Groups</h2>
<div class="scroll"><table>
<thead><tr>
<th class="n" data-by="number" aria-sort="descending"><button>Reports</button></th>
<th data-by="text"><button>What</button></th>
<th data-by="text"><button>First</button></th>
<th data-by="text"><button>Last</button></th>
</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>{note if more > 0 else ""}"""


def _row(group: Group, colour: int) -> str:
    name = _safe(_name(group))
    topic = f' <span class="topic">in {_safe(group.topic)}</span>'
    value = f'<span class="value">{_safe(group.value)}</span>'
    return f"""<tr>
<td class="n" data-key="{group.count}"><svg viewBox="0 0 10 10" aria-hidden="true">\
<rect class="g{colour}" width="10" height="10" rx="2"/></svg>{group.count:,}</td>
<td class="what" data-key="{name}"><span class="type">\
{_safe(group.type) or "(no type)"}</span>{topic if group.topic else ""}\
{value if group.value else ""}<span class="id" title="{_safe(group.file)}">\
{_safe(group.example)}</span></td>
{_when(group.first)}
{_when(group.last)}
</tr>"""


def _when(time: datetime) -> str:
    day, clock = time.strftime("%Y-%m-%d %H:%M:%S").split()
    key = time.isoformat()
    return f'<td class="when" data-key="{key}">{day}<br>{clock}</td>'


def _unreadable(overview: Overview) -> str:
    if not overview.unreadable:
        return ""
    items = "\n".join(
        f"<li><code>{_safe(one.file)}</code>{_safe(one.reason)}</li>"
        for one in overview.unreadable[:MOST]
    )
    return f'<h2>Files that cannot be read</h2>\n<ul class="unreadable">{items}</ul>'
