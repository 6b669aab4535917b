"""The house's rules: who may import whom, and which room may use which library."""

from __future__ import annotations

import ast
import re
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


WRITERS = {
    "attestation": {"attestation.process", "attestation.net.serve"},
    "enclave.guest": {"enclave.guest.command"},
    "enclave.host": {"enclave.host.cli", "enclave.host.models.cli", "enclave.host.top"},
    "enclave.importer": {"enclave.importer.command"},
    "client_sdk": {
        *(f"client_sdk.{name}.cli" for name in (
            "auditing", "auditing.files", "commands", "localnet", "network_files", "proxy",
            "receipts",
        )),
        "client_sdk.cli", "client_sdk.auditing.progress", "client_sdk.auditing.view",
        "client_sdk.inspection.view", "client_sdk.localnet.demo_view", "client_sdk.receipts.view",
        "client_sdk.report_view",
    },
}  # fmt: skip
"""Modules that write to a log or to standard output and error: what they write was read. Those of
the client's commands show answers to whoever asked; the others hold nothing of a request."""

_WRITE = re.compile(
    r"\b(print\(|getLogger\(|logging\.(?!disable|CRITICAL)|sys\.std(out|err)|click\.echo\(|"
    r"console\.|warnings\.warn|traceback\.|os\.write\()"
)


@pytest.mark.parametrize("room", WRITERS)
def test_only_known_modules_write_logs(room: str) -> None:
    """Who adds one reads what it writes, and names it here."""
    found = {
        module
        for module, path in MODULES.items()
        if within(module, room) and _WRITE.search(ast.unparse(_code(path)))
    }
    assert found <= WRITERS[room]


def _code(path: Path) -> ast.Module:
    """Without docstrings, whose examples print."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not _is_text(part)] or [ast.Pass()]
    return tree


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
