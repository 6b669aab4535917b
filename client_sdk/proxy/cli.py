"""The command `umay client proxy`."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from attestation.errors import UsageError
from client_sdk.commands.cli import FILE, opened_client, where_options
from contracts.arguments import KEEP_ALIVE

_TOKEN = re.compile(rb"[\x21-\x7e]{16,}")


@click.command()
@where_options
@click.option(
    "--listen",
    default="127.0.0.1:8321",
    show_default=True,
    metavar="HOST:PORT",
    help="Loopback address to serve on.",
)
@click.option(
    "--token-file",
    type=FILE,
    required=True,
    help="File with the API key that callers must send: at least 16 characters, mode 0600.",
)
@click.option(
    "--keep-alive", type=click.FloatRange(1), default=75, show_default=True, help=KEEP_ALIVE
)
@click.option(
    "--alias",
    "aliases",
    multiple=True,
    metavar="NAME=MODEL",
    help="Another name for a model of the policy, such as gpt-4o=umay-demo. Can be repeated.",
)
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    metavar="ORIGIN",
    help="A web page or desktop app that may ask too, by its exact origin, such as "
    "http://localhost:3000. It needs the API key. Can be repeated. Default: no page may ask.",
)
@click.option(
    "--max-price",
    nargs=2,
    type=click.FloatRange(0),
    metavar="PROMPT COMPLETION",
    help="Highest prices, in nano coins per prompt token and per completion token. Dearer machines "
    "are not asked. A request can set a lower cap for itself. Default: no cap.",
)
@click.option("--unit", is_flag=True, help="Print a systemd user unit of this command, and end.")
def proxy(
    listen: str,
    token_file: Path,
    keep_alive: float,
    aliases: Sequence[str],
    origins: Sequence[str],
    max_price: tuple[float, float] | None,
    unit: bool,
    **where: Any,
) -> None:
    """Serve an OpenAI-compatible endpoint on loopback until Ctrl-C.

    Every request is encrypted to an enclave that passed verification. Prints one line of JSON
    when it is ready: "listening" is its address, where a browser shows how to use it, and
    "base_url" the base URL for OpenAI clients. Exit codes: 0 stopped; 2 wrong options or key file;
    5 the address cannot be used.
    """
    from attestation.net.serve import serve
    from attestation.net.server_connection import Limits
    from attestation.process import keep_memory_private
    from client_sdk.proxy.app import create_app
    from client_sdk.proxy.door import check_listen
    from client_sdk.proxy.models import read_aliases
    from client_sdk.proxy.origins import read_origins
    from client_sdk.proxy.unit import unit as unit_of

    token = _token(token_file)
    check_listen(listen)
    limits = Limits(idle_s=keep_alive)
    opened = opened_client(**where, max_price=max_price)
    app = create_app(
        opened,
        token=token,
        aliases=read_aliases(aliases, opened.models()),
        origins=read_origins(origins),
    )
    if unit:
        click.echo(unit_of(_this_command()), nl=False)
        return
    keep_memory_private()
    serve([(app, listen)], ready=_listening, limits=limits)


def _token(path: Path) -> str:
    from attestation.files import read_secret

    token = (read_secret(path) or b"").strip()
    if not _TOKEN.fullmatch(token):
        raise UsageError(
            f"{path}: expected an API key of at least 16 characters, visible ASCII without spaces, "
            "in this file; make one with "
            f"`(umask 077; openssl rand -hex 32 > {shlex.quote(str(path))})`"
        )
    return token.decode()


def _this_command() -> list[str]:
    """What runs the command that is running, wherever it is started: its paths are absolute."""
    context = click.get_current_context()
    words = [sys.executable, "-m", "client_sdk", "client", "proxy"]
    for param in context.command.params:
        given = context.params[param.name or ""]
        if param.name == "unit" or given is None or given == ():
            continue
        for value in given if getattr(param, "multiple", False) else [given]:
            words += [param.opts[0], *_words(value)]
    return words


def _words(value: object) -> list[str]:
    if isinstance(value, Path):
        return [str(value.expanduser().absolute())]
    return [str(one) for one in value] if isinstance(value, tuple) else [str(value)]


def _listening(urls: Sequence[str]) -> None:
    click.echo(json.dumps({"listening": urls[0], "base_url": f"{urls[0]}/v1"}))
