"""The house's rules: who may import whom, and which room may use which library."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import rooms, trusted_base
from tests.helpers.places import ROOT

MODULES = rooms.modules()
ROOMS = (
    "attestation",
    "contracts",
    "enclave.guest",
    "enclave.simulator",
    "enclave.host",
    "enclave.importer",
    "client_sdk",
)
MAY_IMPORT = {
    "attestation": set(),
    "contracts": {"attestation"},
    "enclave.guest": {"attestation"},
    "enclave.simulator": {"attestation"},
    "enclave.host": {"attestation", "contracts"},
    "enclave.importer": {"attestation", "enclave.guest"},
    "client_sdk": {"attestation", "contracts"},
}
SERVERS = {
    "enclave.guest.server",
    "enclave.host.agent",
    "enclave.host.feed",
    "enclave.host.forward",
    "attestation.net.server_connection",
    "attestation.net.serve",
    "enclave.host.relay",
    "contracts.logservice.refusals",
    "contracts.logservice.server",
    "contracts.logservice.witness_server",
    "client_sdk.proxy",
}
PINNED = {
    "starlette": SERVERS,
    "uvicorn": {"attestation.net.server_connection", "attestation.net.serve"},
    "requests": set(),
    "urllib3": {"attestation.net"},
    "h11": {"attestation.net.async_connections"},
    "httpx": {
        "client_sdk.async_transport",
        "client_sdk.openai_transport",
        "enclave.host.forward",
    },
    "torch": {"enclave.guest.engines"},
    "transformers": {"enclave.guest.engines"},
    "gguf": {"enclave.importer.gguf_file"},
    "prometheus_client": {"enclave.host"},
    "psycopg": {"contracts.logservice.postgres"},
    "tonsdk": {"contracts.wallet"},
    "pytoniq_core": {"contracts"},
    "dcap_qvl": {"attestation.platforms.tdx"},
    "lxml": {"attestation.nvidia", "enclave.simulator"},
    "pynvml": {"enclave.guest.gpu"},
}


def room(module: str) -> str | None:
    return next((r for r in ROOMS if module == r or module.startswith(r + ".")), None)


def within(module: str, place: str) -> bool:
    return module == place or module.startswith(place + ".")


def imports(path: Path) -> set[str]:
    """Everything that a module names, for type checkers alone too."""
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


@pytest.mark.parametrize("module", MODULES)
def test_imports_stay_in_the_house(module: str) -> None:
    home = room(module)
    for name in imports(MODULES[module]):
        target = room(name)
        if home and target and target != home:
            assert target in MAY_IMPORT[home], f"{module} imports {name}"
        top = name.split(".")[0]
        if top == "click":
            assert module.split(".")[-1] == "cli", f"{module} imports click"
        if top in PINNED:
            assert any(within(module, place) for place in PINNED[top]), f"{module} imports {top}"


def test_every_arrow_between_rooms_points_down() -> None:
    assert rooms.faults(rooms.graph(MODULES)) == []


GOOD = {"attestation.formats.cbor": set(), "attestation.log.leaf": {"attestation.formats.cbor"}}
CIRCLE = {"attestation.formats.cbor": {"attestation.log.leaf"}}


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        (CIRCLE, "attestation.formats → attestation.log does not point down"),
        ({"attestation.x509.chain": {"attestation.log.leaf"}}, "does not point down"),
        ({"contracts.codec": {"contracts.localnet.cli"}}, "does not point down"),
        ({"miniapp.backend": set()}, "stands on no floor"),
    ],
    ids=["circle", "beside", "up", "no floor"],
)
def test_a_wrong_arrow_is_found(more: dict[str, set[str]], fault: str) -> None:
    assert rooms.faults(GOOD) == []
    found = rooms.faults(GOOD | more)
    assert len(found) == 1 and fault in found[0]


def test_what_only_type_checkers_follow_is_no_arrow() -> None:
    source = "if TYPE_CHECKING:\n    import attestation.log.leaf\ndef f():\n    import json\n"
    assert rooms.imported(ast.parse(source), {"attestation.log.leaf"}) == {"json"}


def test_no_module_is_overlong() -> None:
    long = [str(p) for p in MODULES.values() if len(p.read_text().splitlines()) > 400]
    assert not long


# The guest's software trust base

FOREIGN = (
    "dcap_qvl",
    "attestation.channel.client",
    "attestation.verify",
    "attestation.platforms.tdx.tcb",
)
"""What a guest has no use for: whoever verifies it needs these."""


def test_the_guests_trust_base_is_the_committed_list() -> None:
    assert trusted_base.text() == trusted_base.LIST.read_text()


def test_the_guests_trust_base_holds_no_verifier() -> None:
    ours, libraries = trusted_base.closure()
    assert not [name for name in ours | libraries for part in FOREIGN if within(name, part)]


def test_a_running_guest_imports_nothing_else() -> None:
    """All that its modules load at once; what they load later is the list's to say."""
    code = "import sys, attestation.process, enclave.guest.command; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    loaded = {name for name in done.stdout.decode().split() if room(name) or name == "attestation"}
    assert loaded <= trusted_base.closure()[0]
