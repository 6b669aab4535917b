"""Every coded refusal in the source is named by a test, has advice, and is in the reference."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from attestation.verify.advice import advice
from attestation.verify.verifier import PLAN
from attestation.verify.wording import expected_and_got
from scripts import refusals
from scripts.refusals import Refusal
from tests.helpers.places import ROOT

EXCEPTIONS: dict[str, str] = {}
"""Codes that no test names, each with the reason why none can."""

_CODE = re.compile(r"([a-z][a-z-]*/)?([a-z][a-z0-9-]*)")
"""A code as a test names it, perhaps after its step."""


def is_named(code: str, named: set[str]) -> bool:
    if "*" not in code:
        return code in named
    pattern = re.compile(re.escape(code).replace(r"\*", "[a-z-]+"))
    return any(map(pattern.fullmatch, named))


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
    trees = (ast.parse(path.read_text()) for path in paths)
    found = (_CODE.fullmatch(text) for tree in trees for text in strings(tree))
    return {match[2] for match in found if match is not None}


@pytest.fixture(scope="module")
def found() -> tuple[Refusal, ...]:
    return refusals.refusals()


def test_every_code_is_named_by_a_test(named: set[str], found: tuple[Refusal, ...]) -> None:
    codes = {refusal.code for refusal in found} - EXCEPTIONS.keys()
    assert not {code for code in codes if not is_named(code, named)}


def test_the_exceptions_are_codes_that_no_test_names(
    named: set[str], found: tuple[Refusal, ...]
) -> None:
    codes = {refusal.code for refusal in found}
    assert not EXCEPTIONS.keys() - codes and not EXCEPTIONS.keys() & named


def test_codes_are_found(found: tuple[Refusal, ...]) -> None:
    """Each way in which the source writes a code."""
    literal, helper, table, dated = "no-proof", "chain-order", "sept-ve-disable", "crl-expired"
    given, prefixed, passed = "pq-required", "rim-bad-signature", "architecture-not-accepted"
    codes = {refusal.code for refusal in found}
    assert {literal, helper, table, dated, given, prefixed, passed} <= codes and len(codes) > 150


def test_every_refusal_has_advice(found: tuple[Refusal, ...]) -> None:
    """Write what to do about a new one into attestation/verify/advice.py."""
    silent = {
        f"{refusal.step}/{refusal.code}"
        for refusal in found
        if not advice(refusal.step, refusal.code, refused=refusal.exit_code == 4)
    }
    assert not silent


def test_every_message_of_the_plan_says_what_was_expected_and_what_came(
    found: tuple[Refusal, ...],
) -> None:
    """docs/style.md, "Errors", has the forms."""
    plan = {name for name, _ in PLAN} - {"log"}
    bad = [
        refusal.meaning
        for refusal in found
        if refusal.step in plan
        and re.search("[a-z]", refusal.meaning)
        and not all(expected_and_got(refusal.meaning))
    ]
    assert not bad


def test_the_reference_is_as_the_source() -> None:
    """Else run: python -m scripts.refusals --write"""
    assert refusals.PAGE.read_text() == refusals.page()
