"""The one executable `umay`: loads a group of commands only when it is called.

Imports no room: groups come as entry points. Every error ends with its exit code.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from attestation.errors import ParseError, UmayError, Unavailable, UsageError, VerificationError

if TYPE_CHECKING:
    from rich.console import Console

    from attestation.verify.verdict import Report
    from client_sdk.client import Client
    from client_sdk.presented import Place

ENTRY_POINTS = "umay.commands"
DIRECTORY = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
KEEP_ALIVE = "Seconds that an idle connection is kept; 75 unless said."
SAVED = "What is not given is read here, from what `umay up` wrote."
HELP = {
    "client": "Verify an enclave, talk to it, or serve a local OpenAI endpoint.",
    "audit": "Follow a contract to every enclave, trusting no server.",
    "host": "Stand before a guest: agent and relay.",
    "log": "Run a transparency log and anchor it on the chain.",
    "net": "A chain on this machine, wallets, and the log's contract.",
}
"""So that listing the groups loads none of them."""


class Root(click.Group):
    """Own commands, and groups by entry point."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *sorted(_groups())]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        own = super().get_command(ctx, name)
        if own is not None or name not in _groups():
            return own
        loaded = _groups()[name].load()
        return loaded if isinstance(loaded, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = {name: command.get_short_help_str(70) for name, command in self.commands.items()}
        rows = [(name, own.get(name) or HELP.get(name, "")) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _groups() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def directory(text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--dir", "directory", type=DIRECTORY, default="~/.umay", show_default=True, help=text
    )


@click.group(cls=Root)
@click.version_option(package_name="umay")
@click.option("--https-proxy", metavar="URL", help="Proxy for https; UMAY_HTTPS_PROXY unless said.")
@click.option("--ca-bundle", metavar="FILE", help="CAs for https; UMAY_CA_BUNDLE unless said.")
def umay(https_proxy: str | None, ca_bundle: str | None) -> None:
    """The confidential AI network: machines prove what they run, prompts are sealed to them."""
    from attestation.net.route import CA_BUNDLE, PROXY, Route

    for name, value in ((PROXY, https_proxy), (CA_BUNDLE, ca_bundle)):
        if value is not None:
            os.environ[name] = value  # for the processes that a command starts too
    Route.from_environment()  # what is wrong with it is said before anything is asked


@umay.command()
@directory("Where it keeps chain, log, keys and addresses.")
def up(directory: Path) -> None:
    """Run a whole network on this machine, in the foreground."""
    from client_sdk.localnet import up as foreground

    signal.signal(signal.SIGTERM, _interrupt)
    foreground.run(directory, say=click.echo)


@umay.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a show.")
def demo(as_json: bool) -> None:
    """Start a network, talk to it privately, audit it, attack it."""
    import tempfile

    from client_sdk.localnet.demo import Demo
    from client_sdk.localnet.demo_view import ConsoleStage

    signal.signal(signal.SIGTERM, _interrupt)
    with tempfile.TemporaryDirectory(prefix="umay-demo-") as directory:
        stage = None if as_json else ConsoleStage(console())
        outcome = Demo(Path(directory), stage=stage).run()
    if as_json:
        click.echo(json.dumps(outcome.to_json(), ensure_ascii=False))
    else:
        verdict = "everything held" if outcome.ok else "NOT everything held"
        click.echo(f"\n{verdict}, in {outcome.seconds:.0f} s")
    sys.exit(0 if outcome.ok else 1)


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
    from client_sdk import policies

    try:
        text = policies.make(rules, network.read_text())
    except (ParseError, UnicodeDecodeError) as error:
        raise UsageError(f"{network}: {error}") from None
    if out is None:
        click.echo(text, nl=False)
    else:
        out.write_text(text)


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
    from attestation.net.serve import serve
    from attestation.net.server_connection import Limits
    from client_sdk.proxy import check_listen, create_app

    token = token_file.read_text().strip()
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


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> NoReturn:
    """Runs a command; whatever Umay raises becomes one line and its exit code."""
    try:
        umay(prog_name="umay", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except UmayError as error:
        click.echo(f"umay: {error}", err=True)
        if "--json" in sys.argv:
            click.echo(json.dumps({"ok": False, "error": _told(error)}))
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads on
        sys.exit(128 + signal.SIGPIPE)  # no verdict: neither good nor a violation
    except OSError as error:
        if error.filename is None:
            raise
        click.echo(f"umay: {error.filename}: {error.strerror}", err=True)
        sys.exit(UsageError.exit_code)
    sys.exit(0)


def _told(error: UmayError) -> dict[str, object]:
    """An error for whoever reads JSON. A verification error has a step and a code too."""
    named = {name: getattr(error, name) for name in ("step", "code") if hasattr(error, name)}
    kind = type(error).__name__
    return {"kind": kind, **named, "message": str(error), "exit_code": error.exit_code}


if __name__ == "__main__":
    main()
