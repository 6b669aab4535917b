"""The root of the one executable `umay`: loads a group of commands only when it is called.

Imports no room: groups come as entry points. `python -m client_sdk` begins here.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

ENTRY_POINTS = "umay.commands"
ROUTE = ("UMAY_HTTPS_PROXY", "UMAY_CA_BUNDLE")
HELP = {
    "demo": "Start a simulated network, send it a sealed prompt, audit it, and attack it.",
    "up": "Run a whole simulated network on this machine until Ctrl-C.",
    "audit": "Verify every entry of a log, starting from its contract.",
    "client": "Verify enclaves, send sealed prompts, or serve an OpenAI endpoint.",
    "host": "Run the servers in front of a guest, and prepare its model.",
    "log": "Run a transparency log, anchor it on the chain, or witness it.",
    "net": "Run a local chain, use wallets, and deploy contracts.",
}
"""Kept here, so that listing the commands does not load their modules."""


class Root(click.Group):
    """Commands and groups by entry point."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        installed = _installed()
        return [name for name in HELP if name in installed] + sorted(installed.keys() - HELP.keys())

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        found = _installed().get(name)
        loaded = found.load() if found else None
        return loaded if isinstance(loaded, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, HELP.get(name, "")) for name in self.list_commands(ctx)])


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


@click.group(cls=Root)
@click.version_option(package_name="umay")
@click.option(
    "--https-proxy",
    metavar="URL",
    help="HTTP proxy for all https requests. Default: UMAY_HTTPS_PROXY, or no proxy.",
)
@click.option(
    "--ca-bundle",
    metavar="FILE",
    help="PEM file of the certificate authorities accepted for https. Default: "
    "UMAY_CA_BUNDLE, or the certifi package's list.",
)
def umay(https_proxy: str | None, ca_bundle: str | None) -> None:
    """Use the confidential AI network Umay.

    Machines prove what they run, and prompts are encrypted to those machines alone. Every
    command has its own --help. Exit codes: 0 success; 1 a violation was found; 2 wrong usage;
    3 not authentic; 4 refused by a policy; 5 a network or service is unavailable; 6 something
    could not be checked.
    """
    for name, value in zip(ROUTE, (https_proxy, ca_bundle), strict=True):
        if value is not None:
            os.environ[name] = value  # for the processes that a command starts too
    if any(name in os.environ for name in ROUTE):
        from attestation.net.route import Route

        Route.from_environment()  # an unusable setting is reported before any request


def command() -> int:
    """Runs what the command line says; its exit code. Raises what the command raises."""
    try:
        ended = umay(prog_name="umay", standalone_mode=False)
    except click.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        error.show()
        text = " ".join(error.format_message().split())
        tell({"code": "usage", "message": text, "exit_code": 2})
        return 2
    return ended if isinstance(ended, int) else 0


def tell(error: dict[str, Any]) -> None:
    """An error for whoever asked for JSON, on standard output."""
    options = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    if "--json" in options:
        click.echo(json.dumps({"ok": False, "error": error}))
