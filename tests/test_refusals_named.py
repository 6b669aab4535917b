"""Every coded refusal in the source is named by a test: its code stands there as a string."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from attestation.platforms.tdx.attributes import NAMED_BITS
from attestation.platforms.tdx.tcb import _REFUSALS
from tests.helpers.places import ROOT

ROOMS = ("attestation", "contracts", "enclave", "client_sdk")
CODE_AT = {"NotAuthentic": 1, "Refused": 1, "broken": 0, "_refused": 0, "_check_register": 3}
"""Which argument of a call is the code. A call whose argument has no constant part is a helper
that passes a code on, or `_refused` of another module; the tables below hold such codes."""

TABLES = {code for code, _ in (*NAMED_BITS.values(), *_REFUSALS.values())}
EXCEPTIONS: dict[str, str] = {}
"""Codes that no test names, each with the reason why none can."""

_CODE = re.compile(r"[a-z][a-z0-9-]*")


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def sources() -> Iterator[Path]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if "node_modules" not in path.parts:
                yield path


def name_of(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def patterns(node: ast.expr) -> Iterator[str]:
    """Regular expressions for the codes that an argument can be."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        if _CODE.fullmatch(node.value):
            yield re.escape(node.value)
    elif isinstance(node, ast.IfExp):
        yield from patterns(node.body)
        yield from patterns(node.orelse)
    elif isinstance(node, ast.JoinedStr):
        parts = (
            re.escape(part.value) if isinstance(part, ast.Constant) else "[a-z-]+"
            for part in node.values
        )
        yield "".join(parts)


def codes() -> dict[str, str]:
    """Where each pattern of a code is raised."""
    found = {re.escape(code): "tables of attestation/platforms/tdx" for code in TABLES}
    for path in sources():
        for node in ast.walk(parsed(path)):
            at = CODE_AT.get(name_of(node)) if isinstance(node, ast.Call) else None
            if isinstance(node, ast.Call) and at is not None and len(node.args) > at:
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                found |= dict.fromkeys(patterns(node.args[at]), where)
    return found


def strings(tree: ast.Module) -> Iterator[str]:
    """Constants of a test's code; docstrings and other bare strings name nothing."""
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.value


@pytest.fixture(scope="module")
def named() -> set[str]:
    here = Path(__file__).resolve()
    paths = (path for path in (ROOT / "tests").rglob("test_*.py") if path.resolve() != here)
    return {text for path in paths for text in strings(parsed(path)) if _CODE.fullmatch(text)}


def test_every_code_is_named_by_a_test(named: set[str]) -> None:
    missing = {
        code: where
        for code, where in codes().items()
        if code not in EXCEPTIONS and not any(re.fullmatch(code, text) for text in named)
    }
    assert not missing


def test_the_exceptions_are_codes_that_no_test_names(named: set[str]) -> None:
    assert not EXCEPTIONS.keys() - codes().keys() and not EXCEPTIONS.keys() & named


def test_codes_are_found() -> None:
    """Each way in which the source writes a code."""
    found = codes()
    literal, helper, table = "no-proof", "chain-order", "sept-ve-disable"
    assert {re.escape(code) for code in (literal, helper, table)} <= found.keys()
    assert re.escape("crl-") + "[a-z-]+" in found and len(found) > 150
