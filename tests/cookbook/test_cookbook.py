"""Every recipe of docs/guides/cookbook.md, as it stands there, against a simulated network.

Each runs in an environment of its own with the packages that the recipe names.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from client_sdk.localnet.devnet import Network
from tests.helpers.places import ROOT
from tests.helpers.waiting import HANG_S

pytestmark = pytest.mark.cookbook
PAGE = ROOT / "docs" / "guides" / "cookbook.md"
RECIPE = re.compile(
    r"^## (?P<name>[^\n]+)\n+(?:`pip install (?P<packages>[^\n]+)`\n+)?"
    r"```(?P<language>sh|python)\n(?P<code>.*?)^```$",
    re.M | re.S,
)
RECIPES = {found["name"]: found for found in RECIPE.finditer(PAGE.read_text())}


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What a user has after `umay up`, and nothing of this checkout."""
    with Network(tmp_path_factory.mktemp("net"), threads=1) as network:
        network.start()
        base = network.start_proxy()
        kept = {name: os.environ[name] for name in os.environ if name != "PYTHONPATH"}
        token = network.files.api_token()
        yield {**kept, "OPENAI_BASE_URL": base, "OPENAI_API_KEY": token}


def installed(packages: str, directory: Path) -> Path:
    """The interpreter of a new environment with these packages."""
    subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True, timeout=HANG_S)
    python = directory / "bin" / "python"
    words = [name.strip('"') for name in packages.split()]
    install = [str(python), "-m", "pip", "install", "--quiet", *words]
    subprocess.run(install, check=True, timeout=HANG_S)
    return python


def test_the_page_has_the_recipes() -> None:
    names = ["curl", "openai 2", "openai 3", "LangChain", "LlamaIndex", "LiteLLM"]
    assert list(RECIPES) == names


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_as_it_stands(name: str, environ: dict[str, str], tmp_path: Path) -> None:
    recipe = RECIPES[name]
    program = tmp_path / "recipe"
    program.write_text(recipe["code"])
    runner = "sh"
    if recipe["language"] == "python":
        runner = str(installed(recipe["packages"], tmp_path / "env"))
    done = subprocess.run(
        [runner, str(program)],
        capture_output=True,
        text=True,
        env={**environ, "HOME": str(tmp_path)},
        cwd=tmp_path,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 8, done.stdout
    if recipe["language"] == "sh":
        assert done.stdout.endswith("data: [DONE]\n\n")
