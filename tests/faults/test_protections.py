"""The list in `protections.py` is whole, and each of its edits takes something out."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.faults.protections import PROTECTIONS, WITHOUT, Protection
from tests.support import ROOT

#: They test the tests.
ABOUT_ITSELF = ("test_nodes.py", "test_protections.py")


@pytest.mark.parametrize("protection", PROTECTIONS, ids=lambda one: one.name)
def test_its_edits_take_it_out(protection: Protection) -> None:
    for file, text, instead in protection.edits:
        source = (ROOT / file).read_text()
        assert text in source, file
        if file.endswith(".py"):
            compile(source.replace(text, instead), file, "exec")


def test_every_test_of_a_fault_is_in_the_list() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0"]
        + ["tests/faults", "-o", "addopts=-p no:cacheprovider"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    prefix = "tests/faults/"
    there = {
        line.removeprefix(prefix)
        for line in done.stdout.splitlines()
        if line.startswith(prefix)
        and not line.removeprefix(prefix).startswith(ABOUT_ITSELF)
    }
    assert there == {*WITHOUT, *(test for one in PROTECTIONS for test in one.tests)}
