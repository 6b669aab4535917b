"""The documents: every link leads somewhere, and every command and target named exists."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest

from attestation.verify.verifier import PLAN
from scripts import api_docs, check_cli, rooms
from scripts.rooms import TOPS
from tests.helpers.places import ROOT

PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "examples/*.md", "tests/**/*.md")
    for page in ROOT.glob(pattern)
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*)$", re.M)
FENCED = re.compile(r"^```[^\n]*\n.*?^```$", re.M | re.S)
TARGET = re.compile(r"^([a-z-]+):", re.M)
NAMED_TARGET = re.compile(r"(?:`|^(?:\$ )?)make ((?:[a-z-]+|\S+=\S+)(?: \S+=\S+)*)", re.M)
CODE = re.compile(r"`([^`\n]+)`")
IN_PATH = re.compile(
    rf"^(?:{'|'.join((*TOPS, 'tests', 'docs', 'scripts', 'examples'))})/[\w./*-]+$"
)
MODULE = re.compile(r"python -m ((?:scripts|tests|benchmarks)[\w.]*)")
COMMAND = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*(umay(?: .*|$))")


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as sites that host repositories make them."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(text))
    return {heading.replace(" ", "-") for heading in plain}


def command_lines(text: str) -> list[str]:
    """Every command line of `umay`: in code blocks, continued lines joined, and in code spans."""
    lines = [
        line for block in FENCED.findall(text) for line in block.replace("\\\n", " ").splitlines()
    ]
    spans = [span.replace("\\|", "|") for span in CODE.findall(FENCED.sub("", text))]
    found = [COMMAND.match(line.strip()) for line in (*lines, *spans)]
    return [match.group(1) for match in found if match]


def unknown_in(line: str) -> str | None:
    """The first word of a command line that is neither a command nor an option of it."""
    words = shlex.split(line.split("|")[0].split(" > ")[0], comments=True)[1:]
    command: click.Command = check_cli.umay
    context = click.Context(command, info_name="umay")
    for word in words:
        options = {name for param in command.get_params(context) for name in param.opts}
        if word.startswith("-"):
            if word.split("=")[0] not in options:
                return word
        elif isinstance(command, click.Group) and re.fullmatch(r"[a-z-]+", word):
            child = command.get_command(context, word)
            if child is None:
                return word
            command, context = child, click.Context(child, info_name=word, parent=context)
    return None


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text()
    for link in LINK.findall(FENCED.sub("", text)):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} does not exist"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{link} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_path_module_and_target_exists(page: Path) -> None:
    text = page.read_text()
    targets = set(TARGET.findall((ROOT / "Makefile").read_text()))
    for named in NAMED_TARGET.findall(text):
        assert {word for word in named.split() if "=" not in word} <= targets, named
    for module in MODULE.findall(text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or path.is_dir(), module
    for path in filter(IN_PATH.match, CODE.findall(text)):
        assert list(ROOT.glob(path.rstrip("/"))), f"{path} does not exist"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_command_exists_with_its_options(page: Path) -> None:
    for line in command_lines(page.read_text()):
        unknown = unknown_in(line)
        assert unknown is None, f"{line}: no {unknown}"


def test_every_make_target_is_explained() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    missing = [
        target
        for target in TARGET.findall((ROOT / "Makefile").read_text())
        if f"| `make {target}` |" not in text
    ]
    assert not missing


def test_every_document_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    links = LINK.findall(index.read_text())
    linked = {(index.parent / link.split("#")[0]).resolve() for link in links}
    assert names(sorted(set((ROOT / "docs").rglob("*.md")) - linked - {index})) == []


@pytest.mark.parametrize(
    ("line", "unknown"),
    [
        ("umay client chat --dir X 'Good morning.'", None),
        ("umay --https-proxy URL client verify", None),
        ("umay", None),
        ("umay client chatt hi", "chatt"),
        ("umay audit run --contract X --smaple 3", "--smaple"),
        ("umay --dir X up", "--dir"),
    ],
)
def test_a_wrong_command_line_is_found(line: str, unknown: str | None) -> None:
    assert unknown_in(line) == unknown


def test_command_lines_are_found_wherever_they_stand() -> None:
    text = "Run `umay up`.\n```\n$ umay client \\\n    verify\nX=1 umay audit run\n```\n`umay.toml`"
    assert command_lines(text) == ["umay client      verify", "umay audit run", "umay up"]


def test_an_older_help_page_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make check` compares the page itself; here one word of it is changed."""
    page = tmp_path / "cli.md"
    page.write_text(check_cli.PAGE.read_text().replace("Usage: umay up", "Usage: umay upp"))
    monkeypatch.setattr(check_cli, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["check_cli"])
    assert check_cli.main() == 1
    monkeypatch.setattr("sys.argv", ["check_cli", "--write"])
    assert check_cli.main() == 0 and "umay upp" not in page.read_text()


def test_tables_keep_their_shape_in_the_reference() -> None:
    text = "First.\nSecond line.\n\n1 parse     strictly\n2 check     the rest\n\n├── child"
    assert api_docs.with_tables(text).split("\n\n") == [
        "First.\nSecond line.",
        "    1 parse     strictly\n    2 check     the rest",
        "    ├── child",
    ]


def test_a_public_name_without_a_docstring_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from dataclasses import dataclass\n"
        "def told(): 'So.'\ndef untold(): ...\ndef _own(): ...\n"
        "class Base: 'So.'\nclass Kind(Base): ...\n"
        "@dataclass\nclass Fields: size: int\n"
    )
    module = ModuleType("face", "A face.")
    monkeypatch.setitem(sys.modules, "face", module)
    exec(code, vars(module))
    assert list(api_docs.undocumented([module])) == ["face.untold", "face.Kind", "face.Fields"]
    vars(module)["__all__"] = ["told"]
    assert list(api_docs.undocumented([module])) == []
    module.__doc__ = None
    assert list(api_docs.undocumented([module])) == ["face"]


# The plan


def test_the_architecture_has_the_steps_of_the_verifier() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (\d+) \| `([a-z-]+)` \| [A-Z].*\. \|$", page, re.M)
    expected = [(str(number), name) for number, (name, _) in enumerate(PLAN, 1)]
    assert rows == expected


# Troubleshooting quotes messages

FOREIGN = ("No such command", "Connection refused", "Connection error")
"""Messages of libraries and of the operating system."""
QUOTED = re.compile(r"^\| (``.+?``|`[^`]+`)[^|]*\|", re.M)


LONG = 14
"""Characters of a piece of text that is of one message only."""


def literals() -> set[str]:
    """Every piece of text in the source."""
    trees = (ast.parse(path.read_text()) for path in rooms.modules().values())
    constants = (node.value for tree in trees for node in ast.walk(tree) if _is_text(node))
    return {text.strip() for text in constants}


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def stale(page: str, known: set[str]) -> list[str]:
    """Messages of the page's tables of which no piece stands in the source."""
    quoted = [re.sub(r" \[[a-z-]+\]$", "", span.strip("`")) for span in QUOTED.findall(page)]
    own = [text for text in quoted if not any(part in text for part in FOREIGN)]
    return [
        text
        for text in own
        if not any(part in text for part in known if len(part) >= min(LONG, len(text) // 2))
    ]


def test_the_messages_in_troubleshooting_are_those_of_the_code() -> None:
    """A message that is written anew must be quoted anew."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    assert len(QUOTED.findall(page)) > 25
    assert stale(page, literals()) == []


def test_a_message_that_the_code_no_longer_has_is_found() -> None:
    page = "| `model: cf9c70ef… is no accepted model [unknown-model]` | x |\n| `truncated` | x |\n"
    assert stale(page, {"unknown-model", "model", "truncated"}) == [
        "model: cf9c70ef… is no accepted model"
    ]
