"""Type a line with pip in an empty environment."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import venv
from hashlib import md5
from pathlib import Path

import pytest

from tests.support.project import ROOT


def install(tmp_path_factory: pytest.TempPathFactory, line: str) -> Path:
    """See `installed`; once for all processes of this run."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # the same for each process of this run
    folder = base / f"venv-{md5(line.encode()).hexdigest()}"
    with (base / "venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            venv.create(folder, with_pip=True)
            shutil.copytree(ROOT, folder / "checkout", ignore=_not_of_a_checkout)
            program, *words = shlex.split(line)
            command = [folder / "bin" / program, *words, "-q"]
            environ = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
            subprocess.run(command, cwd=folder / "checkout", check=True, env=environ)
            (folder / "ready").touch()
    return folder / "bin"


_not_of_a_checkout = shutil.ignore_patterns(
    ".*", "build", "dist", "var", "*.egg-info", "__pycache__"
)
