"""docs/repository.md: its commands and its snippet, in the order of the page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from oops_celery import FolderPublisher
from tests.support import ROOT, Node, environment
from tests.support.parking import Parking, make_report

PAGE = (ROOT / "docs/repository.md").read_text()
COMMANDS = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
(SNIPPET,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_commands(tmp_path: Path, broker: Node) -> None:
    parking = Parking(broker, f"sqlite:///{tmp_path}/oopses.db")
    reasons = {"OperationalError: away": "1", "OSError: ENOSPC": "2", "again": "3"}
    for reason, name in reasons.items():
        parking.park(make_report(KeyError(name)), reason=reason)
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/KeyError/MendedError/g' $1\n")
    editor.chmod(0o755)
    part = parking.letters()[2][5:13]
    (tmp_path / "commands").write_text(COMMANDS.replace("68c5cd", part))
    keep = FolderPublisher(tmp_path / "oopses", sync=False)
    ids = [keep({"type": kind})[0] for kind in ("ValueError", "KeyError")]
    programs = Path(sys.executable).parent
    done = subprocess.run(
        ["sh", "-ex", "commands"],
        input="",
        cwd=tmp_path,
        env=environment(
            PATH=f"{programs}:{os.environ['PATH']}",
            RABBITMQ_URL=broker.url,
            EDITOR=str(editor),
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert broker.count("oopses") == 1  # replayed
    assert len(parking.letters()) == 2
    assert "MendedError" in done.stdout or "is now OOPS-" in done.stdout
    parking.close()
    assert sorted(one.name for one in tmp_path.glob("copy/*/*")) == sorted(ids)
    assert [one.name for one in tmp_path.glob("week/*/*")] == [ids[0]]


def test_the_snippet(tmp_path: Path) -> None:
    program = f"{SNIPPET}\nprint(*config.publish(config.create({{'type': 'E'}})))\n"
    for command in (["-c", program], ["-m", "oops_celery.cli", "report"]):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environment(OOPS_REPOSITORY="sqlite:///oopses.db"),
            capture_output=True,
            text=True,
            check=True,
        )
    (file,) = tmp_path.glob("oopses/*/*")
    assert file.name in done.stdout
