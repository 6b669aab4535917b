"""How the tests run: the hypothesis profile, and what starts first."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.helpers.progress import Progress

SLOW = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)
settings.register_profile("short", max_examples=60, deadline=None, suppress_health_check=SLOW)
settings.load_profile("short")
"""Long searches are `make fuzz`'s."""

LONGEST_FIRST = (
    "tests/contracts/test_contracts_log.py",
    "tests/contracts/test_crash.py",
    "tests/e2e/",
    "tests/hostile/",
    "tests/contracts/test_contracts_quote.py",
    "tests/enclave/test_engine_torch.py",
    "tests/contracts/",
)
"""Files by how long they take: what starts last and takes long leaves one core idle."""


WITH_SERVICES = (
    "tests/attestation/test_evidence_index.py",
    "tests/attestation/test_fetch.py",
    "tests/attestation/test_process.py",
    "tests/attestation/test_serve.py",
    "tests/client_sdk/test_audit_cli.py",
    "tests/client_sdk/test_commands.py",
    "tests/client_sdk/test_face.py",
    "tests/client_sdk/test_keeping.py",
    "tests/enclave/test_guest_boot.py",
    "tests/enclave/test_guest_server.py",
    "tests/enclave/test_host_agent.py",
    "tests/enclave/test_host_relay.py",
)
"""Further files that --fast leaves out: they start services or programs, or judge all evidence."""

END = len(LONGEST_FIRST)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="leave out services and what takes long")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --fast slow files are not even imported."""
    name = collection_path.relative_to(config.rootpath).as_posix()
    return True if config.option.fast and _is_slow_file(name) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest files first; with --fast, only what needs no services and takes no minutes."""
    if config.option.fast:
        slow = {item for item in items if _is_slow(item)}
        config.hook.pytest_deselected(items=[*slow])
        items[:] = [item for item in items if item not in slow]
    items.sort(key=lambda item: _place(item.nodeid))


def _is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("e2e") is not None or _is_slow_file(item.nodeid)


def _is_slow_file(name: str) -> bool:
    return _place(name) < END or name.startswith(WITH_SERVICES)


def _place(nodeid: str) -> int:
    places = (place for place, start in enumerate(LONGEST_FIRST) if nodeid.startswith(start))
    return next(places, END)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and getattr(config.option, "numprocesses", None):
        config.pluginmanager.register(Progress(terminal))
