"""The layout: wings that import downwards only, few files at the root, a public API."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import oops_celery
from tests.support import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = ROOT / "oops_celery"

#: The layers of the contract, from the top down; those of one layer are together.
LAYERS = [
    layer.split(" | ")
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"][
        "importlinter"
    ]["contracts"]
    for layer in contract["layers"]
]


def lint_imports(folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of what the contract is about."""
    for name in ("oops_celery", "tasks"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_no_wing_imports_upwards() -> None:
    code, out = lint_imports(ROOT)
    assert code == 0, out


def a_module_of(folder: Path, layer: str) -> Path:
    path = folder / layer.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@pytest.mark.parametrize("number", range(1, len(LAYERS)))
def test_an_import_upwards_breaks_the_contract(copy: Path, number: int) -> None:
    """One in a function, too: that of each layer's module from the layer above."""
    (upper, *_), (lower, *_) = LAYERS[number - 1], LAYERS[number]
    module = a_module_of(copy, lower)
    module.write_text(f"{module.read_text()}\ndef up():\n    import {upper}\n")
    code, out = lint_imports(copy)
    assert code == 1, out
    assert f"{lower} is not allowed to import {upper}" in out


def test_every_wing_has_its_layer() -> None:
    named = {name.removeprefix("oops_celery.") for layer in LAYERS for name in layer}
    there = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert there - {"__init__"} == named - {"tasks"}


def test_few_files_are_beside_the_wings() -> None:
    files = [path.name for path in PACKAGE.iterdir() if path.is_file()]
    assert len(files) <= 8, files


def test_no_module_hides_a_public_name() -> None:
    """Importing ``oops_celery.publisher`` would replace the publisher of that name."""
    for path in PACKAGE.iterdir():
        assert path.stem not in oops_celery.__all__, path


def test_the_package_says_what_its_public_names_are() -> None:
    assert oops_celery.__doc__ is not None
    for name in oops_celery.__all__:
        assert getattr(oops_celery, name) is not None
        assert re.search(rf"^    (\w+, )?{name}\b", oops_celery.__doc__, re.M), name


def test_tests_mirror_the_wings() -> None:
    wings = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    apart = {"support", "journeys", "faults"}
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/__init__.py")}
    assert folders - apart <= wings


def test_the_guide_names_what_is_there() -> None:
    """Each path of CONTRIBUTING.md and of docs/design.md exists."""
    for page in ("CONTRIBUTING.md", "docs/design.md"):
        text = (ROOT / page).read_text()
        paths = re.findall(r"`((?:oops_celery|tasks|tests|docs)/[\w/.-]*)`", text)
        assert len(paths) > 10
        for path in paths:
            assert (ROOT / path).exists(), f"{page}: {path}"
