"""The audit's JSON: its schema holds for good and bad audits, and the guide knows every code."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator

import jsonschema
import pytest

from attestation.log.leaf import Leaf
from client_sdk.auditing.auditor import Auditor, AuditScope
from client_sdk.auditing.results import Audit
from tests.client_sdk.test_break_audit import RELEASE, Net, boot, start
from tests.client_sdk.test_client_audit import CONTRACT
from tests.helpers.places import ROOT
from tests.helpers.world import NOW, World

SCHEMA = json.loads((ROOT / "docs/spec/audit.schema.json").read_text())
GUIDE = (ROOT / "docs/guides/auditor.md").read_text()
TOLD = {"violation": 0, "incomplete": 0, "finding": 0, "step": 1}
"""What makes a problem, and the argument that is its code."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return start(tmp_path_factory.mktemp("simulator"))


def audited(world: World, leaves: list[Leaf], gone: str = "", **scope: int) -> Audit:
    net = Net(world, leaves, world.presented(), [])
    for path in [path for path in net.answers if gone and path.startswith(gone)]:
        del net.answers[path]
    auditor = Auditor(policy=world.policy, chain=net, transport=net)  # type: ignore[arg-type]
    return auditor.run(CONTRACT, AuditScope(now=NOW, **scope))


def check(audit: Audit) -> None:
    """As a program reads it."""
    jsonschema.validate(json.loads(json.dumps(audit.to_json())), SCHEMA)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_audits_good_bad_and_incomplete_are_of_the_schema(world: World) -> None:
    good = [RELEASE, boot(world, release=0)]
    audits = [
        audited(world, good),
        audited(world, [*good, *good]),
        audited(world, good, gone="evidence/"),
        audited(world, good, gone="tile/"),
        audited(world, good, sample=1),
    ]
    assert [audit.exit_code for audit in audits] == [0, 1, 6, 6, 6]
    for audit in audits:
        check(audit)


def test_another_key_is_not_of_the_schema(world: World) -> None:
    said = audited(world, [RELEASE]).to_json()
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**said, "more": 1}, SCHEMA)
    del said["root"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(said, SCHEMA)


def codes() -> Iterator[str]:
    """Every code that stands in the auditor's source as a word."""
    for path in sorted((ROOT / "client_sdk/auditing").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            at = TOLD.get(_name(node.func)) if isinstance(node, ast.Call) else None
            for code in [] if at is None else node.args[at : at + 1]:
                if isinstance(code, ast.Constant):
                    yield str(code.value)


def _name(function: ast.expr) -> str:
    return getattr(function, "attr", getattr(function, "id", ""))


def test_the_guide_knows_every_code() -> None:
    found = set(codes())
    assert {"forked", "reused-key", "tree", "sampled"} <= found
    assert [code for code in sorted(found) if f"`{code}`" not in GUIDE] == ["registry-unavailable"]
