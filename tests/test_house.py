"""The house's rules: who may import whom, and which room may use which library."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = (
    "attestation",
    "contracts",
    "enclave.guest",
    "enclave.simulator",
    "enclave.host",
    "client_sdk",
)
MAY_IMPORT = {
    "attestation": set(),
    "contracts": {"attestation"},
    "enclave.guest": {"attestation"},
    "enclave.simulator": {"attestation"},
    "enclave.host": {"attestation", "contracts"},
    "client_sdk": {"attestation", "contracts"},
}
SERVERS = {
    "enclave.guest.server",
    "enclave.host.agent",
    "enclave.host.forward",
    "enclave.host.serving",
    "enclave.host.relay",
    "contracts.logservice.server",
    "contracts.logservice.witness_server",
    "client_sdk.proxy",
}
PINNED = {
    "starlette": SERVERS,
    "uvicorn": SERVERS,
    "torch": {"enclave.guest.engines"},
    "transformers": {"enclave.guest.engines"},
    "psycopg": {"contracts.logservice.postgres"},
    "tonsdk": {"contracts.wallet"},
    "pytoniq_core": {"contracts"},
    "dcap_qvl": {"attestation.platforms.tdx"},
    "lxml": {"attestation.nvidia", "enclave.simulator"},
    "pynvml": {"enclave.guest.gpu"},
}


def modules() -> list[tuple[str, Path]]:
    return [
        (".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path)
        for top in ("attestation", "contracts", "enclave", "client_sdk")
        for path in sorted((ROOT / top).rglob("*.py"))
        if "node_modules" not in path.parts
    ]


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def bases(path: Path) -> list[tuple[str, list[str]]]:
    """Classes of a module, each with the names of its bases."""
    found = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
    ]
    return [
        (node.name, [ast.unparse(base).split(".")[-1] for base in node.bases]) for node in found
    ]


def room(module: str) -> str | None:
    return next((r for r in ROOMS if module == r or module.startswith(r + ".")), None)


def within(module: str, place: str) -> bool:
    return module == place or module.startswith(place + ".")


@pytest.mark.parametrize(("module", "path"), modules(), ids=[name for name, _ in modules()])
def test_imports_stay_in_the_house(module: str, path: Path) -> None:
    home = room(module)
    for name in imports(path):
        target = room(name)
        if home and target and target != home:
            assert target in MAY_IMPORT[home], f"{module} imports {name}"
        top = name.split(".")[0]
        if top == "click":
            assert module.split(".")[-1] == "cli", f"{module} imports click"
        if top in PINNED:
            assert any(within(module, place) for place in PINNED[top]), f"{module} imports {top}"


def test_no_module_is_overlong() -> None:
    long = [str(p) for _, p in modules() if len(p.read_text().splitlines()) > 400]
    assert not long
