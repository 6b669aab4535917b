"""The page at /, which says how to use the proxy, which machines it has verified, and what no
check can show.

It has no script and loads nothing, and no page may show it in a frame. It holds no token, and
shows nothing of what was asked. Making it asks nobody, since every visitor can have it made.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape

from attestation.formats.dates import stamp
from attestation.verify.verdict import CAVEATS
from client_sdk.finding import Chosen
from client_sdk.pricing import price_of_table
from client_sdk.proxy.models import Models

STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid #8886;
overflow-wrap:anywhere}
pre{overflow-x:auto;padding:.6rem 1rem;border:1px solid #8886}
.simulated{background:#ffd54f;color:#222;padding:.6rem 1rem;font-weight:700}
"""
_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{_DIGEST}'; form-action 'none'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
SIMULATED = "SIMULATED: the policy accepts simulated machines, which prove nothing."


def page(*, base: str, models: Models, machines: Sequence[Chosen], simulated: bool) -> str:
    """The whole HTML. `base` is the base URL by which it was reached."""
    banner = f'<p class="simulated">{escape(SIMULATED)}</p>' if simulated else ""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Umay on this machine</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>{banner}'
        f"<h1>Umay on this machine</h1>{_usage(base)}{_models(models)}{_machines(machines)}"
        f"<h2>What no check can show</h2>{_list(CAVEATS)}</html>\n"
    )


def _usage(base: str) -> str:
    lines = f"export OPENAI_BASE_URL={base}\nexport OPENAI_API_KEY=…"
    return (
        "<p>Programs that speak OpenAI's API ask here. Each question is sealed to a machine that "
        "passes every step of the verification, and leaves this machine in no other way.</p>"
        f"<pre>{escape(lines)}</pre>"
        "<p>The API key is in the file that the proxy was started with "
        "(<code>--token-file</code>). This page does not show it.</p>"
    )


def _models(models: Models) -> str:
    rows = [(escape(name), "") for name in models.names]
    rows += [(escape(name), f"alias of {escape(to)}") for name, to in models.aliases.items()]
    return f"<h2>Models</h2>{_table(('Name', ''), rows)}"


def _machines(machines: Sequence[Chosen]) -> str:
    if not machines:
        return "<h2>Verified machines</h2><p>None now: the next question verifies one.</p>"
    names = ("Boot", "Model", "Release", "Steps passed", "Price", "Verified until")
    return f"<h2>Verified machines</h2>{_table(names, [_row(one) for one in machines])}"


def _row(chosen: Chosen) -> tuple[str, ...]:
    enclave = chosen.enclave
    prompt, completion = price_of_table(enclave.price_table)
    price = f"{prompt:g} nano coins per prompt token, {completion:g} per completion token"
    steps = f"{enclave.report.passed} of {len(enclave.report.steps)}"
    until = stamp(enclave.valid_until)
    cells = (chosen.place.boot, enclave.model_name, enclave.release_name, steps, price, until)
    return tuple(escape(cell) for cell in cells)


def _table(names: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Of cells that are HTML already."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _list(texts: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"
