"""`umay client`, and the options that commands for users share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attestation.errors import ParseError, Unavailable, UsageError, VerificationError

if TYPE_CHECKING:
    from rich.console import Console

    from attestation.verify.verdict import Report
    from client_sdk.client import Client
    from client_sdk.presented import Place

DIRECTORY = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
KEEP_ALIVE = "Seconds that an idle connection is kept; 75 unless said."
SAVED = "What is not given is read here, from what `umay up` wrote."


def directory(text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--dir", "directory", type=DIRECTORY, default="~/.umay", show_default=True, help=text
    )


@click.group()
def client() -> None:
    """Verify an enclave, talk to it, or serve a local OpenAI endpoint."""


def _where(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say where; what is not given comes from umay.toml of `umay up`."""
    for option in (
        directory(SAVED),
        click.option(
            "--chain",
            metavar="URL",
            help="toncenter v2, or lite:CONFIG.json.",
        ),
        click.option("--policy", type=FILE, help="What you accept."),
        click.option(
            "--url", metavar="URL", help="A relay, an agent, or one boot of it (…/umay/<boot id>)."
        ),
    ):
        command = option(command)
    return command


@client.group()
def policy() -> None:
    """Read and explain policy files."""


@policy.command()
@click.argument("file", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="The rules as JSON.")
def check(file: Path, as_json: bool) -> None:
    """Say what a policy accepts, and everything in which it is not strict.

    Exit code 0: a valid policy, however loose; 2: no such file, or not a policy.
    """
    from client_sdk import config
    from client_sdk.policy_view import explain, relaxations

    read = config.read_policy(file)
    rules, loose = explain(read), relaxations(read)
    if as_json:
        click.echo(json.dumps({"rules": dict(rules), "relaxations": loose}))
        return
    for what, rule in rules:
        click.echo(f"{what:<18}{rule}")
    click.echo("\nnot strict:" if loose else "\nnothing is relaxed")
    for text in loose:
        click.echo(f"  {text}")


@policy.command()
@click.argument("network", type=FILE)
@click.option("--rules", default="production", show_default=True, help="Or simulation.")
@click.option("--out", type=FILE, help="Where the policy goes; the screen unless said.")
def make(network: Path, rules: str, out: Path | None) -> None:
    """Put a network's part ([network], [[release]], [[model]]) beside rules that Umay ships.

    Exit code 0: a policy; 2: both together are none; 4: simulated roots under production rules.
    """
    from attestation.files import replace, unusable
    from client_sdk import policies

    try:
        text = policies.make(rules, network.read_text())
    except OSError as error:
        raise unusable(network, error) from None
    except (ParseError, UnicodeDecodeError) as error:
        raise UsageError(f"{network}: {error}") from None
    if out is None:
        click.echo(text, nl=False)
    else:
        replace(out, text.encode(), mode=0o644)


@client.command()
@_where
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
def verify(as_json: bool, **where: Any) -> None:
    """Verify what stands at a URL, step by step.

    Exit code 0: good; 3: not authentic; 4: refused by the policy; 5: unavailable;
    6: something could not be checked.
    """
    from client_sdk.report_view import show_report

    opened = _client(**where)
    worst = 0
    reports = []
    for place in opened.places():
        report, code = _verified(opened, place)
        worst = worst or code
        reports.append({"boot": place.boot, **report.to_json()})
        if not as_json:
            show_report(console(), report, title=f"boot {place.boot}")
    if as_json:
        click.echo(json.dumps({"ok": not worst and bool(reports), "enclaves": reports}))
    if not reports:
        raise Unavailable(f"{opened.url}: lists no enclave")
    sys.exit(worst)


@client.command()
@_where
@click.option("--model", default="umay-demo", show_default=True, help="Its name in the policy.")
@click.option("--max-tokens", default=256, show_default=True, help="Longest answer.")
@click.argument("prompt")
def chat(model: str, max_tokens: int, prompt: str, **where: Any) -> None:
    """Ask one question, sealed to the cheapest enclave that verifies."""
    opened = _client(**where)
    if opened.policy.roots.simulated:
        click.echo("SIMULATED: these machines prove nothing.", err=True)
    messages = [{"role": "user", "content": prompt}]
    body = {"model": model, "messages": messages, "max_tokens": max_tokens, "stream": True}
    answer = opened.chat(body)
    for text in answer.stream():
        click.echo(text, nl=False)
    click.echo()
    if answer.receipt is not None:
        tokens = answer.receipt.receipt.tokens
        click.echo(f"receipt checked: {tokens[0]} + {tokens[2]} tokens", err=True)


@client.command()
@_where
@click.option("--listen", default="127.0.0.1:8321", show_default=True, metavar="HOST:PORT")
@click.option("--token-file", type=FILE, required=True, help="Holds the API key to ask for.")
@click.option("--keep-alive", type=click.FloatRange(1), default=75, help=KEEP_ALIVE)
def proxy(listen: str, token_file: Path, keep_alive: float, **where: Any) -> None:
    """Serve an OpenAI endpoint on loopback; every request is sealed to a verified enclave."""
    from attestation.files import read_secret
    from attestation.net.serve import serve
    from attestation.net.server_connection import Limits
    from client_sdk.proxy import check_listen, create_app

    token = (read_secret(token_file) or b"").decode(errors="replace").strip()
    if len(token) < 16:
        raise UsageError(f"{token_file}: expected a token of at least 16 characters")
    check_listen(listen)
    app = create_app(_client(**where), token=token)
    limits = Limits(idle_s=keep_alive)
    serve([(app, listen)], ready=_listening, limits=limits)


def _listening(urls: Sequence[str]) -> None:
    click.echo(json.dumps({"listening": urls[0]}))


def _verified(opened: Client, place: Place) -> tuple[Report, int]:
    """The full report of one guest, and the exit code that its first failure means."""
    try:
        return opened.verify(place).report, 0
    except VerificationError as error:
        code = error.exit_code
    return opened.examine(place), code


def _client(**where: Any) -> Client:
    from client_sdk import config
    from client_sdk.client import Client
    from contracts.endpoint import reading

    found = config.load(**where)
    accepted = config.read_policy(found.policy)
    return Client(found.url, policy=accepted, chain=reading(found.chain))


def console() -> Console:
    from client_sdk.report_view import console

    return console()
