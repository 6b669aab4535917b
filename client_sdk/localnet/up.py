"""`umay up`: a network in the foreground until Ctrl-C, or until a part ends that it needs."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from attestation.files import home
from attestation.verify.report_text import SIMULATED
from client_sdk.config import DEFAULT_DIR
from client_sdk.localnet.devnet import Network
from client_sdk.localnet.models import ServedModel, choose
from client_sdk.localnet.netfiles import NetworkFiles
from client_sdk.localnet.restarting import GuestRestarter

WATCH_SECONDS = 0.5


def run(directory: Path, *, say: Callable[[str], None], model: str | None = None) -> None:
    """Runs the network with the model that `model` names (`models.choose`).

    Returns on Ctrl-C once everything serves; before that it raises KeyboardInterrupt.

    Raises Unavailable naming a part that died; all of them are stopped.
    """
    serves = False
    served = choose(model, NetworkFiles(directory), say=say)
    with Network(directory, model=served, tell=lambda part: say(f"starting {part} …")) as network:
        try:
            network.start()
            base = network.start_proxy()
            serves = True
            for line in welcome(network, base):
                say(line)
            keeper = GuestRestarter(network, say)
            while True:
                keeper.look()
                time.sleep(WATCH_SECONDS)
        except KeyboardInterrupt:
            say("stopping …")
            if not serves:
                raise


def welcome(network: Network, base: str) -> list[str]:
    """What somebody needs to use this network."""
    width = max((len(name) for name, _, _ in network.parts), default=0)
    parts = [f"  {name:<{width}}  {where}  ({what})" for name, where, what in network.parts]
    umay = executable()
    directory = network.files.directory
    where = "" if directory == home(DEFAULT_DIR) else f" --dir {shlex.quote(str(directory))}"
    return [
        "",
        SIMULATED,
        *parts,
        "",
        f"export OPENAI_BASE_URL={base}",
        f"export OPENAI_API_KEY={network.files.api_token()}",
        "",
        "In another terminal: verify the machines, ask a private question, audit the log:",
        f"  {umay} client verify{where}",
        f"  {_question(network.model, umay, where)}",
        f"  {umay} audit run{where} --contract {network.contract}",
        "",
        "Ctrl-C stops everything (in scripts: SIGTERM). The next start keeps chain and log.",
    ]


def _question(model: ServedModel, umay: str, where: str) -> str:
    """A command that asks this model."""
    if model.engine is None:
        return f"{umay} client chat{where} 'Good morning.'"
    body = json.dumps({"model": model.name, "input": "Good morning."})
    fields = "-H \"authorization: Bearer $OPENAI_API_KEY\" -H 'content-type: application/json'"
    return f"curl $OPENAI_BASE_URL/embeddings {fields} -d '{body}'"


def executable() -> str:
    """How this `umay` is called in another terminal: by its path, where PATH does not have it."""
    own = Path(sys.executable).with_name("umay")
    if shutil.which("umay"):
        return "umay"
    words = [str(own)] if own.exists() else [sys.executable, "-m", "client_sdk"]
    return shlex.join(words)
