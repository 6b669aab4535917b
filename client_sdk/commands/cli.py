"""The commands of `umay client`, and options that several groups of commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attestation.errors import ParseError, Unavailable, UsageError, VerificationError

if TYPE_CHECKING:
    from rich.console import Console

    from attestation.verify.verdict import Report
    from client_sdk.client import Client
    from client_sdk.presented import Place
    from client_sdk.receipt_store import ReceiptStore

DIRECTORY = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
NETWORK_FILE = (
    "Signed network file that names the relays, in place of --url. It is read again for each "
    "search; `umay client network update` follows it."
)
SAVED = "Directory of a `umay up` network; options not given are read from its umay.toml."
CHAIN = (
    "Chain endpoint: URL of a toncenter v2 API, or lite:CONFIG.json for proven reads from lite "
    "servers. Default: from umay.toml in --dir."
)
POLICY = "Policy file: the machines, releases and log that you accept. Default: from --dir."
ROOTS = "Policy file whose vendor roots are accepted. Default: the vendors' production roots."
AT = "Judge as of this time: ISO 8601 (UTC if it has no zone) or Unix seconds. Default: now."
KEPT = (
    "Keep the receipt in this directory, with the prompt and the answer that it is of: as secret "
    "as they are. See `umay client receipts`. Default: nothing is kept."
)
MAX_TOKENS = "Maximum number of tokens in the answer."
JSON = "Print JSON instead of text."
EXPLAIN = (
    "In the table of the steps, print what each one checks and by which document, and where it did "
    "not pass what to do."
)


def directory(text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--dir", "directory", type=DIRECTORY, default="~/.umay", show_default=True, help=text
    )


_ABOVE = {
    "proxy": "client_sdk.proxy.cli",
    "receipts": "client_sdk.receipts.cli",
    "network": "client_sdk.network_files.cli",
}


class _Client(click.Group):
    """With commands that stand on a higher floor, found by name when they are called for, as the
    root finds its own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_ABOVE])

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _ABOVE:
            return super().get_command(ctx, name)
        found: click.Command = getattr(import_module(_ABOVE[name]), name)
        return found


@click.group(cls=_Client)
def client() -> None:
    """Verify enclaves, send sealed prompts, or serve an OpenAI endpoint."""


def where_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that name the network; the default is umay.toml, written by `umay up`."""
    for option in (
        directory(SAVED),
        click.option("--chain", metavar="URL", help=CHAIN),
        click.option("--policy", type=FILE, help=POLICY),
        click.option(
            "--url",
            metavar="URL",
            help="URL of a relay or an agent, or of one boot behind it (…/umay/<boot id>). "
            "Default: from umay.toml in --dir.",
        ),
        click.option("--network-file", type=FILE, help=NETWORK_FILE),
    ):
        command = option(command)
    return command


@client.group()
def policy() -> None:
    """Explain a policy file, make one, or convert an old one."""


@policy.command()
@click.argument("file", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print the rules and relaxations as JSON.")
def check(file: Path, as_json: bool) -> None:
    """Explain what a policy FILE accepts, and list every rule that it relaxes.

    Needs no network. Exit codes: 0 the policy is valid, even if it is relaxed; 2 the file does
    not exist or is not a policy.
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
    click.echo("\nrelaxed rules:" if loose else "\nno rule is relaxed")
    for text in loose:
        click.echo(f"  {text}")


@policy.command()
@click.argument("network", type=FILE)
@click.option(
    "--rules",
    default="production",
    show_default=True,
    help="Rules to use: production, or simulation for simulated machines.",
)
@click.option("--out", type=FILE, help="File to write the policy to. Default: standard output.")
def make(network: Path, rules: str, out: Path | None) -> None:
    """Make a policy from a NETWORK file and the rules that Umay ships.

    NETWORK is a TOML file with the tables [network], [registry], [witnesses], [[release]] and
    [[model]] of one network.
    Exit codes: 0 the policy was made; 2 the two parts together are not a valid policy; 4 the
    network has simulated roots and the rules are for production.
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


@policy.command("convert")
@click.argument("file", type=FILE)
@click.option("--out", type=FILE, help="File to write the policy to. Default: standard output.")
def convert_policy(file: Path, out: Path | None) -> None:
    """Write a policy FILE of version 1 as version 2.

    Comments stay. The tables that version 2 adds are written at the end and say "none", because
    version 1 could not demand them: the new policy accepts what the old one accepted. Exit codes:
    0 the policy was written; 2 the FILE does not exist or is not a policy of version 1.
    """
    from attestation.files import replace, unusable
    from client_sdk.policies.convert import ADDED, convert

    try:
        text = convert(file.read_bytes())
    except OSError as error:
        raise unusable(file, error) from None
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None
    if out is None:
        click.echo(text, nl=False)
    else:
        replace(out, text, mode=0o644)
    names = ", ".join(f"[{name}]" for name in ADDED)
    click.echo(f'{names}: written as "none"; fill them in to demand more', err=True)


@client.command()
@where_options
@click.option("--json", "as_json", is_flag=True, help="Print one report per enclave as JSON.")
@click.option("--explain", is_flag=True, help=EXPLAIN)
def verify(as_json: bool, explain: bool, **where: Any) -> None:
    """Verify every enclave at a URL and print each step of the verification.

    Sends no prompt. Exit codes: 0 every enclave is accepted; otherwise the code of the first
    failure: 3 not authentic; 4 refused by the policy; 5 unavailable; 6 something could not be
    checked.
    """
    from client_sdk.report_view import show_report

    opened = opened_client(**where)
    worst = 0
    reports = []
    for place in opened.places():
        report, code = _verified(opened, place)
        worst = worst or code
        reports.append({"boot": place.boot, **report.to_json()})
        if not as_json:
            show_report(console(), report, title=f"boot {place.boot}", explain=explain)
    if as_json:
        click.echo(json.dumps({"ok": not worst and bool(reports), "enclaves": reports}))
    if not reports:
        raise Unavailable(
            f"{opened.url or where['network_file']}: expected at least one enclave, got none; wait "
            "until a guest has started, or give another --url or --network-file"
        )
    sys.exit(worst)


@client.command()
@where_options
@click.option(
    "--model", metavar="NAME", help="Name of the model. Default: the only model in the policy."
)
@click.option("--max-tokens", default=256, show_default=True, help=MAX_TOKENS)
@click.option("--receipts", type=DIRECTORY, help=KEPT)
@click.argument("prompt")
def chat(
    model: str | None, max_tokens: int, receipts: Path | None, prompt: str, **where: Any
) -> None:
    """Send one PROMPT, encrypted to the cheapest enclave that passes verification.

    Prints the answer as it arrives, and the token counts of its receipt on standard error.
    Exit codes: 0 the whole answer came; 2 the policy does not name the model, and nothing was
    sent; 3 not authentic; 4 no enclave is accepted by the policy;
    5 unavailable; 6 something could not be checked.
    """
    store = _store(receipts)
    opened = opened_client(**where, keep_answers=store is not None)
    if opened.policy.roots.simulated:
        click.echo("SIMULATED: these machines prove nothing.", err=True)
    messages = [{"role": "user", "content": prompt}]
    body = {
        "model": model or _only_model(opened),
        "messages": messages,
        "max_tokens": max_tokens,
        "stream": True,
    }
    answer = opened.chat(body)
    for text in answer.stream():
        click.echo(text, nl=False)
    click.echo()
    if answer.receipt is not None:
        tokens = answer.receipt.receipt.tokens
        click.echo(
            f"receipt verified: {tokens[0]} prompt tokens, {tokens[2]} answer tokens", err=True
        )
    if store is not None:
        click.echo(f"receipt kept: {store.add(answer.disclosure())}", err=True)


def _store(receipts: Path | None) -> ReceiptStore | None:
    """Ready before anything is sent."""
    from client_sdk.receipt_store import ReceiptStore

    if receipts is None:
        return None
    store = ReceiptStore(receipts)
    store.prepare()
    return store


def _only_model(opened: Client) -> str:
    names = opened.models()
    if len(names) != 1:
        raise UsageError(
            f"expected --model with one that the policy names ({', '.join(names)}), got none"
        )
    return names[0]


def _verified(opened: Client, place: Place) -> tuple[Report, int]:
    """The full report of one enclave, and the exit code of its first failure."""
    try:
        return opened.verify(place), 0
    except VerificationError as error:
        code = error.exit_code
    return opened.examine(place), code


def opened_client(
    *, max_price: tuple[float, float] | None = None, keep_answers: bool = False, **where: Any
) -> Client:
    """The client that the options of `where` name. Raises UsageError."""
    from client_sdk import config
    from client_sdk.client import Client
    from client_sdk.network_places import relays_of
    from contracts.endpoint import reading

    found = config.load(**where)
    accepted = config.read_policy(found.policy)
    chain = reading(found.chain)
    relays = relays_of(found.network_file, accepted) if found.network_file else None
    return Client(
        relays or found.url,
        policy=accepted,
        chain=chain,
        network=found.network,
        max_price=max_price,
        keep_answers=keep_answers,
        floors=config.floors_in(where["directory"]),
    )


def console() -> Console:
    from client_sdk.report_view import console

    return console()
