"""The one tree of errors: as drawn, with a code and an exit code for each."""

from __future__ import annotations

import copy
import importlib
import pickle
import re

import pytest

from attestation import errors
from attestation.errors import NotAuthentic, NotChecked, UmayError, VerificationError
from attestation.verify.verifier import Verifier
from client_sdk.failures import code_of
from tests.helpers.world import NOW, World
from tests.test_house import MODULES, bases

DRAWN = re.compile(r"^[│├└─ ]*(\w+) +(?:(\d+)(?: +([a-z-]+)(?= ))?|\(its own codes\)) +\S", re.M)
OTHERS = {
    "enclave.guest.engines.chat_template": {"_SaidByTemplate", "_TooManySteps"},
    "attestation.net.leaving": {"Left"},
}
"""Jinja's own errors, which a template raises and the same module turns into ours; and what is as a
cancellation, nobody's error."""


def tree(root: type[UmayError] = UmayError) -> list[type[UmayError]]:
    return [root, *(found for child in root.__subclasses__() for found in tree(child))]


def test_the_tree_is_drawn_as_it_is() -> None:
    assert errors.__doc__
    drawn = {name: (number, code) for name, number, code in DRAWN.findall(errors.__doc__)}
    here = {kind for kind in tree() if kind.__module__ == errors.__name__}
    assert drawn.keys() == {kind.__name__ for kind in here}
    for kind in here:
        number, code = drawn[kind.__name__]
        if number:
            assert int(number) == kind.exit_code, kind
        if code and kind is not NotChecked:
            assert code == kind.code, kind


def test_every_exception_of_the_project_is_in_the_tree() -> None:
    for module, path in MODULES.items():
        if module == errors.__name__:
            continue
        outside = {
            name
            for name, parents in bases(path)
            if any(re.fullmatch(r"(Base)?Exception|\w+Error", parent) for parent in parents)
            and not any(hasattr(errors, parent) for parent in parents)
        }
        assert outside <= OTHERS.get(module, set()), module


def test_every_error_has_a_code_and_only_a_contradicting_log_is_a_violation() -> None:
    for module in ("enclave.guest.api", "contracts.logservice.witness", "enclave.host.forward"):
        importlib.import_module(module)
    for kind in tree():
        if not issubclass(kind, VerificationError):
            assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.code), kind
        if kind.__module__ == errors.__name__:
            violation = issubclass(kind, errors.LogError)
            assert kind.exit_code == 1 if violation else kind.exit_code in (2, 3, 4, 5, 6, 70)


def test_what_could_not_be_checked_is_neither_forged_nor_refused() -> None:
    error = NotChecked("no anchor was read")
    assert str(error) == "no anchor was read"
    error.step = "log"
    assert str(error) == "log: no anchor was read [not-checked]" == str(copy.copy(error))
    assert error.exit_code == 6 and not isinstance(error, NotAuthentic)
    assert code_of(error) == "log/not-checked"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_verify_raises_not_checked_with_the_step_and_the_report(world: World) -> None:
    """Callers cannot leave these arguments out; what the plan does then holds all the same."""
    presented, _ = world.logged(world.presented())
    with pytest.raises(NotChecked) as caught:
        Verifier(world.policy)._verify(presented, None, world.beacon, NOW)  # type: ignore[arg-type]
    error = caught.value
    assert (error.step, error.code, error.exit_code) == ("log", "not-checked", 6)
    assert error.report is not None and not error.report.ok and not error.report.failed
    assert [step.status for step in error.report.steps if step.name == "log"] == ["not checked"]


def test_a_missing_beacon_is_not_checked_too(world: World) -> None:
    presented, anchor = world.logged(world.presented())
    with pytest.raises(NotChecked, match="freshness: beacon block: expected one"):
        Verifier(world.policy)._verify(presented, anchor, None, NOW)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.start(tmp_path_factory.mktemp("simulator"))
