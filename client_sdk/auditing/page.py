"""An audit as one HTML file, which loads nothing from outside, has no script, and escapes all text.

A log may be hostile. So release names, errors and paths go through `safe`, and with the page's own
policy (CSP) a browser loads nothing and applies only the style in this module.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

from attestation.verify.report_text import SIMULATED
from client_sdk.auditing.plots import Span, bars, growth, moment, safe, spans
from client_sdk.auditing.results import MACHINES, Audit, EntryVerdict, Problem

AGES = (7, 14, 30)
"""Ages in days. Intel issues its lists for thirty days."""

DAY_S, NEVER = 86_400, 1 << 62
MAX_TABLE = 2000
"""The most rows of a table. Browsers do not show more of them well, and the JSON has all of
them."""

REPORTED = (
    "What the chain says was reported by the endpoint that the auditor chose. It was not proven."
)
NOT_SAID = (
    "The audit shows that the evidence is on record now. It does not show that the evidence was on "
    "record at its own time.",
    "The policy decides which releases deserve trust, and not the log.",
    "No check can show that CPU and GPU are in one machine, or that nobody probed its memory.",
)
STYLE = """
:root{color-scheme:light dark;--line:#8886;--good:#1a7f37;--bad:#c62828;--warn:#9a6700}
body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}
table{border-collapse:collapse;width:100%;font-size:.85rem}
th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid var(--line);
overflow-wrap:anywhere}
.mono{font-family:ui-monospace,monospace;font-size:.85em;overflow-wrap:anywhere}
.verdict{border-left:6px solid var(--warn);padding:.6rem 1rem;font-weight:600}
.verdict.c0{border-color:var(--good)}.verdict.c1{border-color:var(--bad)}
.simulated{background:#ffd54f;color:#222;padding:.6rem 1rem;font-weight:700}
.violation,.refused{color:var(--bad)}.incomplete,.finding{color:var(--warn)}
.verified{color:var(--good)}
figure{margin:1.2rem 0}figcaption{font-weight:600}
svg{width:100%;max-width:44rem;height:auto}svg text{font-size:11px;fill:currentColor}
.bar{fill:#3b82c4}.line{fill:none;stroke:#3b82c4;stroke-width:2}.axis{stroke:currentColor}
"""


def page(audit: Audit) -> str:
    """The whole HTML file."""
    body = (
        _head(audit),
        "<h2>Problems and findings</h2>",
        _problems([*audit.problems, *audit.findings]),
        "<h2>Plots</h2>",
        *_plots(audit),
        "<h2>Every entry</h2>",
        _entries(audit.entries),
        "<h2>What this audit cannot say</h2><ul>",
        *(f"<li>{safe(text)}</li>" for text in _not_said(audit)),
        "</ul>",
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy()}">'
        '<meta name="referrer" content="no-referrer">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Audit of {safe(audit.contract)}</title><style>{STYLE}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _not_said(audit: Audit) -> tuple[str, ...]:
    return NOT_SAID if audit.level == "proven" else (REPORTED, *NOT_SAID)


def _policy() -> str:
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'none'; base-uri 'none'"


def _head(audit: Audit) -> str:
    rows = (
        ("Contract", audit.contract),
        ("Read from", audit.log_url),
        ("Anchored", f"{audit.size} entries, root {audit.root}"),
        ("Time of the last anchor", moment(audit.anchored)),
        ("Contract read at", f"{moment(audit.read_at)} ({audit.level})"),
        ("Judged for the time", moment(audit.at)),
        ("After the anchored entries", f"{audit.tail} entries, not audited"),
    )
    table = "".join(f'<tr><th>{k}</th><td class="mono">{safe(v)}</td></tr>' for k, v in rows)
    label = f'<p class="simulated">{safe(SIMULATED)}</p>' if audit.simulated else ""
    verdict = f'<p class="verdict c{audit.exit_code}">{safe(audit.verdict)}</p>'
    return f"<h1>Audit of an attestation log</h1>{label}{verdict}<table>{table}</table>"


def _problems(problems: Sequence[Problem]) -> str:
    rows = (
        f'<tr><td class="{problem.severity}">{problem.severity}</td>'
        f'<td class="mono">{safe(problem.code)}</td>'
        f"<td>{'' if problem.index is None else problem.index}</td>"
        f"<td>{safe(problem.text)}</td></tr>"
        for problem in problems[:MAX_TABLE]
    )
    return _table(("Severity", "Code", "Entry", "What"), rows, len(problems))


def _entries(entries: Sequence[EntryVerdict]) -> str:
    """The table of all entries. Those with something wrong come first."""
    first = sorted(entries, key=lambda entry: (not entry.detail, entry.index))
    rows = (
        f"<tr><td>{entry.index}</td><td>{safe(entry.kind)}</td>"
        f'<td class="mono">{safe(entry.boot)}</td><td>{safe(entry.platform)}</td>'
        f"<td>{safe(entry.runs)}</td>"
        f"<td>{'' if entry.since is None else moment(entry.since)}</td>"
        f'<td class="{safe(entry.verdict)}">{safe(entry.verdict)} {safe(entry.detail)}</td></tr>'
        for entry in first[:MAX_TABLE]
    )
    heads = ("Entry", "What", "Boot", "Platform", "Release, model", "Beacon", "Verdict")
    return _table(heads, rows, len(entries))


def _table(heads: Sequence[str], rows: Iterable[str], count: int) -> str:
    if not count:
        return "<p>None.</p>"
    head = "".join(f"<th>{safe(name)}</th>" for name in heads)
    more = count - MAX_TABLE
    rest = f"<p>{more} more are not shown; the JSON has them.</p>" if more > 0 else ""
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>{rest}"


def _plots(audit: Audit) -> tuple[str, ...]:
    machines = [entry for entry in audit.entries if entry.kind in MACHINES]
    dated = [entry.since for entry in machines if entry.since is not None]
    platforms = Counter(entry.platform for entry in machines if entry.platform)
    return (
        growth(dated, "Number of attestations by the time of their beacon block"),
        spans(
            _service(machines), "Releases in service, from their first to their last beacon block"
        ),
        bars(platforms.most_common(), "Number of attestations by platform"),
        bars(_ages(machines), "Number of attestations by the age of the vendor's TCB lists then"),
        bars(_lag(audit, dated), "Delay of the last anchor", " s"),
    )


def _service(machines: Sequence[EntryVerdict]) -> list[Span]:
    """Each release from its first to its last beacon. The release that came last stands first."""
    seen: dict[str, tuple[int, int]] = {}
    for entry in machines:
        if entry.release and entry.since is not None:
            first, last = seen.get(entry.release, (entry.since, entry.since))
            seen[entry.release] = min(first, entry.since), max(last, entry.since)
    return sorted(((name, *times) for name, times in seen.items()), key=lambda row: -row[2])


def _ages(machines: Sequence[EntryVerdict]) -> list[tuple[str, int]]:
    """For each range of ages, how many attestations were judged by lists of that age."""
    days = [(m.since - m.tcb_issued) // DAY_S for m in machines if m.since and m.tcb_issued]
    rows = []
    for first, end in itertools.pairwise((0, *AGES, NEVER)):
        label = f"{first} days or more" if end == NEVER else f"{first} to {end - 1} days"
        rows.append((label, sum(first <= day < end for day in days)))
    return rows if days else []


def _lag(audit: Audit, dated: Sequence[int]) -> list[tuple[str, int]]:
    """The delays that one reading of the contract shows. Earlier anchors are not read."""
    rows = [("from anchor to reading", max(0, audit.read_at - audit.anchored))]
    if dated:
        rows.append(("from beacon to anchor", max(0, audit.anchored - max(dated))))
    return rows
