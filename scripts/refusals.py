"""The reference of all coded refusals, read from the code that raises them.

`python -m scripts.refusals --write` writes docs/spec/refusals.md, which a test compares. What a
refusal says comes from the source itself: each value that is put into a message stands as "…".
"""

from __future__ import annotations

import argparse
import ast
import functools
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from attestation.platforms.tdx.attributes import NAMED_BITS
from attestation.platforms.tdx.tcb import _REFUSALS
from attestation.verify.advice import advice
from attestation.verify.explanation import explained
from attestation.verify.verifier import PLAN
from attestation.x509 import profile as profiles
from scripts.rooms import ROOT

PAGE = ROOT / "docs" / "spec" / "refusals.md"
ROOMS = ("attestation", "contracts", "enclave", "client_sdk")
RAISERS = {"NotAuthentic": 3, "Refused": 4}
"""Errors whose first three arguments are step, code and message, with their exit codes."""
MESSAGES = ("too_old", "in_future", "level_text", "_other_digest")
"""Functions that make a message: what they return stands in their place."""
CHECKS = ("accept", "check_reading")
"""Functions that raise for whichever step and subject they are given as first arguments."""
CALLS = {*RAISERS, *CHECKS, "broken", "_refused", "_check_register"}
"""Every function whose call is a refusal."""
CHAINS = "cpu-signature, cpu-tcb or gpu"
"""The step of a refusal that is about any vendor's certificates."""
CHAINS_TITLE = "Certificates of every vendor"
CHAINS_TEXT = """\
The step is `cpu-signature`, `cpu-tcb` or `gpu`, by the certificate that it is about. Where that is
the signer of a RIM, the code begins with `rim-`; where it is a responder of OCSP, with `ocsp-`.
Dates give `certificate-expired` and `certificate-not-yet-valid`, or `rim-…` and `ocsp-responder-…`.
"""
OUTSIDE = {
    "certificate": "`umay audit inspect` checks certificates that are given as files.",
    "chain": "The light client checks the proofs of a server of the chain "
    "([light client](light-client.md)).",
    "channel": "The client chooses a key of the guest ([channel](channel.md)).",
    "policy": "`umay client policy make` puts rules and a network together.",
    "receipt": "The client compares a receipt with its question, the answer and the prices.",
    "registry": "A log asks the Registry what is allowed ([Registry](registry.md)).",
}
"""What happens where a refusal is of no step of the plan."""
GAP = "…"
LAPSED = {
    "expired": "valid until …, now is …",
    "not-yet-valid": "valid from …, now is …",
}
"""What `lapse` returns: `word` and `text` on either side of a window of time."""
_CODE = re.compile(r"(\*-)?[a-z][a-z0-9*-]*")


HEAD = """# Refusals

<!-- Made by `python -m scripts.refusals --write` from the source. -->

Every refusal has a step and a code. Both are stable, and programs may rely on them: they are in
`error.step` and `error.code`, in the report's `steps`, and in the JSON of a command that fails. The
exit code is 3 where something is not authentic, and 4 where it is authentic and the policy, or
whoever was asked, does not accept it. In the messages below, "…" stands for a value.

Bytes that are not in their format fail a step with the code `malformed`. A step that has nothing to
run on has the code `not-checked` (exit code 6).

"""


@dataclass(frozen=True, order=True)
class Refusal:
    """`code` has "*" for a part that the source does not fix; `meaning` is its message."""

    step: str
    code: str
    exit_code: int
    meaning: str


def sources() -> Iterator[Path]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if "node_modules" not in path.parts:
                yield path


@functools.cache
def refusals() -> tuple[Refusal, ...]:
    """Every coded refusal of the source, in the order of step and code."""
    found = set(_tables())
    for path in sources():
        found.update(_module(path).refusals())
    return tuple(sorted(found))


def page() -> str:
    """The whole of docs/spec/refusals.md."""
    rows: dict[tuple[str, str], list[Refusal]] = {}
    for refusal in refusals():
        rows.setdefault((refusal.step, refusal.code), []).append(refusal)
    plan = [name for name, _ in PLAN]
    others = sorted({step for step, _ in rows} - set(plan))
    return HEAD + "\n".join(filter(None, (_section(step, rows) for step in (*plan, *others))))


def _section(step: str, rows: Mapping[tuple[str, str], list[Refusal]]) -> str:
    lines = [_row(code, found) for (named, code), found in rows.items() if named == step]
    if not lines:
        return ""
    known = {item.name: item.checks for item in explained()}
    title = CHAINS_TITLE if step == CHAINS else f"`{step}`"
    says = CHAINS_TEXT if step == CHAINS else known.get(step, OUTSIDE.get(step, ""))
    table = "| Code | Exit | What the message says | What to do |\n| --- | --- | --- | --- |\n"
    return f"## {title}\n\n{says.strip()}\n\n{table}{''.join(lines)}"


def _row(code: str, found: list[Refusal]) -> str:
    exits = " or ".join(map(str, sorted({item.exit_code for item in found})))
    spoken = [item.meaning for item in found if re.search("[a-z]", item.meaning)]
    meaning = "<br>".join(spoken) or "which part could not be read, and why"
    says = {advice(item.step, code, refused=item.exit_code == 4): None for item in found}
    cells = (f"`{code}`", exits, meaning, "<br>".join(says))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="The reference of all coded refusals.")
    parser.add_argument("--write", action="store_true", help=f"Write it to {PAGE}.")
    if parser.parse_args().write:
        PAGE.write_text(page())
    else:
        sys.stdout.write(page())
    return 0


def _tables() -> Iterator[Refusal]:
    """Refusals whose codes stand in tables of the source."""
    for bit, (code, text) in NAMED_BITS.items():
        meaning = f"td_attributes: expected bit {bit} clear, got it set ({text})"
        yield Refusal("cpu-attributes", code, 4, meaning)
    reserved = f"td_attributes: expected bit {GAP} clear, got it set (reserved)"
    yield Refusal("cpu-attributes", "reserved-bit", 4, reserved)
    for code, message in _REFUSALS.values():
        yield Refusal("cpu-tcb", code, 4, f"{message} ({GAP})")


@functools.cache
def _module(path: Path) -> _Module:
    return _Module(ast.parse(path.read_text()))


class _Module:
    """One module's constants and functions, and the refusals that it raises."""

    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree
        self._functions = {
            node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
        }
        self._constants = _constants(tree)

    def refusals(self) -> Iterator[Refusal]:
        for function in self._functions.values():
            for call in ast.walk(function):
                if isinstance(call, ast.Call):
                    yield from self._raised(call, function)

    def _raised(self, call: ast.Call, function: ast.FunctionDef) -> Iterator[Refusal]:
        name = _name(call.func)
        if name not in CALLS:
            return
        values = self._values(function, call.lineno)
        if name in RAISERS and len(call.args) >= 3:
            steps = [self._text(call.args[0], values)]
            exit_code, code, message = RAISERS[name], call.args[1], call.args[2]
        elif name == "broken" and isinstance(call.func, ast.Attribute) and len(call.args) >= 2:
            yield from self._broken(call, values)
            return
        elif name == "_refused" and len(call.args) == 2:
            steps, exit_code, (code, message) = ["cpu-attributes"], 4, call.args
        elif name in CHECKS and len(call.args) >= 2:
            given = [self._text(argument, values) for argument in call.args[:2]]
            yield from _holder(name).checked(name, given)
            return
        elif name == "_check_register" and len(call.args) == 4:
            text = f"{self._text(call.args[0], values)}: expected {GAP}, got {GAP}"
            yield Refusal("cpu-attributes", self._text(call.args[3], values), 4, text)
            return
        else:
            return
        for either in _either(code, function):
            yield from self._rows(steps[0], exit_code, either, message, values)

    def checked(self, name: str, given: list[str]) -> Iterator[Refusal]:
        """What a function of CHECKS raises for the step and the subject that it is given."""
        function = self._functions[name]
        names = [argument.arg for argument in function.args.args]
        bound = dict(zip(names, given, strict=False))
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and _name(call.func) in RAISERS:
                values = {**self._values(function, call.lineno, bound), **bound}
                step, exit_code = given[0], RAISERS[_name(call.func)]
                yield from self._rows(step, exit_code, call.args[1], call.args[2], values)

    def _broken(self, call: ast.Call, values: Mapping[str, str]) -> Iterator[Refusal]:
        owner = call.func.value if isinstance(call.func, ast.Attribute) else call.func
        profile = getattr(profiles, _name(owner), None)
        step = profile.step if profile else CHAINS
        prefix = profile.prefix if profile else ""
        for given in _either(call.args[0]):
            for row in self._rows(step, 3, given, call.args[1], values):
                yield Refusal(row.step, prefix + row.code, row.exit_code, row.meaning)

    def _rows(
        self,
        step: str,
        exit_code: int,
        code: ast.expr,
        message: ast.expr,
        values: Mapping[str, str],
    ) -> Iterator[Refusal]:
        for word, text in LAPSED.items():
            known = {**values, "word": word, "text": values.get("text", "")}
            known["text"] = known["text"].replace("{lapsed}", text)
            written = self._text(code, known).replace(GAP, "*")
            if _CODE.fullmatch(written) and step != GAP:
                yield Refusal(step, written, exit_code, _tidy(self._text(message, known)))

    def _values(
        self, function: ast.FunctionDef, line: int, bound: Mapping[str, str] = {}
    ) -> dict[str, str]:
        """What each local name holds just before `line`, as text."""
        values = dict(bound)
        assigned = [
            node
            for node in ast.walk(function)
            if isinstance(node, ast.Assign | ast.AugAssign) and node.lineno < line
        ]
        for node in sorted(assigned, key=lambda node: node.lineno):
            target = node.target if isinstance(node, ast.AugAssign) else node.targets[0]
            if isinstance(target, ast.Tuple):
                if "text" in map(_name, target.elts):
                    values["text"] = "{lapsed}"
            elif isinstance(node, ast.AugAssign):
                values[_name(target)] = values.get(_name(target), GAP) + self._text(
                    node.value, values
                )
            else:
                values[_name(target)] = self._text(node.value, values)
        return values

    def _text(self, node: ast.expr, values: Mapping[str, str]) -> str:
        """The text of an expression; GAP for what only a run can tell."""
        text = GAP
        match node:
            case ast.Constant():
                text = str(node.value)
            case ast.JoinedStr():
                text = "".join(self._text(part, values) for part in node.values)
            case ast.FormattedValue():
                text = self._text(node.value, values)
            case ast.BinOp(op=ast.Add()):
                text = self._text(node.left, values) + self._text(node.right, values)
            case ast.Name() | ast.Attribute():
                text = values.get(_name(node), self._constants.get(_name(node), GAP))
            case ast.Call() if _name(node.func) in MESSAGES:
                text = self._made(node, values)
        return text

    def _made(self, call: ast.Call, values: Mapping[str, str]) -> str:
        function = _makers()[_name(call.func)]
        names = [argument.arg for argument in function.args.args]
        given = {name: self._text(arg, values) for name, arg in zip(names, call.args, strict=False)}
        returned = next(node for node in function.body[::-1] if isinstance(node, ast.Return))
        inside = self._values(function, returned.lineno, given)
        return self._text(returned.value, inside) if returned.value else GAP


@functools.cache
def _holder(name: str) -> _Module:
    """The module that has a function of CHECKS."""
    return next(found for found in map(_module, sources()) if name in found._functions)


@functools.cache
def _makers() -> dict[str, ast.FunctionDef]:
    trees = (_module(path)._tree for path in sources())
    functions = (node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef))
    return {node.name: node for node in functions if node.name in MESSAGES}


def _constants(tree: ast.Module) -> dict[str, str]:
    """Texts and numbers at the top of a module, and the STEP that it has from another one."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            found[_name(node.targets[0])] = str(node.value.value)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                home = node.module if alias.name == "STEP" else f"{node.module}.{alias.name}"
                path = ROOT / f"{str(home).replace('.', '/')}.py"
                if path.exists() and "\nSTEP = " in path.read_text():
                    found.setdefault("STEP", _constants(ast.parse(path.read_text()))["STEP"])
    return found


def _either(code: ast.expr, function: ast.FunctionDef | None = None) -> list[ast.expr]:
    """The codes that an argument can be, also where a local name was given one of two before."""
    if isinstance(code, ast.Name) and function is not None:
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and _name(node.targets[0]) == code.id:
                return _either(node.value)
    return [code.body, code.orelse] if isinstance(code, ast.IfExp) else [code]


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _tidy(text: str) -> str:
    text = re.sub(rf"{GAP}[{GAP}x, ]*{GAP}", GAP, " ".join(text.split()))
    return text.replace("{lapsed}", GAP)


if __name__ == "__main__":
    sys.exit(main())
