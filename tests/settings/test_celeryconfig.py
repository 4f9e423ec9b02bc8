"""A celeryconfig.py that imports from the application, which uses oops_celery."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import Node, environment

SHOP = """
import oops, oops_celery
config = oops.Config()
config.publisher = oops_celery.publisher
repr(config.publisher)
"""

#: The files of an application; each is fine without oops_celery.
APPLICATIONS = {
    "a name of the package": {
        "shop/__init__.py": SHOP + "QUEUE = 'shop'\n",
        "celeryconfig.py": "from shop import QUEUE as task_default_queue\n",
    },
    "a module of the package": {
        "shop/__init__.py": "from shop import work\nfrom shop.work import config\n",
        "shop/work.py": "from shop import rest\n" + SHOP + "QUEUE = 'shop'\n",
        "shop/rest.py": "",
        "celeryconfig.py": "from shop.work import QUEUE as task_default_queue\n",
    },
    "the package's settings": {
        "shop/__init__.py": SHOP + "from shop import settings\n",
        "shop/settings.py": "from shop import config\nQUEUE = 'shop'\n",
        "celeryconfig.py": "from shop.settings import QUEUE as task_default_queue\n",
    },
    "a value that comes later": {
        "shop/__init__.py": "EXCHANGE = 'early'\n" + SHOP + "EXCHANGE = 'oopses'\n",
        "celeryconfig.py": "import shop\nOOPS_EXCHANGE = shop.EXCHANGE\n",
    },
    "a module inside of the package": {
        "shop/__init__.py": SHOP + "LIMIT = 5\n",
        "shop/celeryconfig.py": "from shop import LIMIT as OOPS_PUBLISH_TIMEOUT\n",
    },
    "its own Celery app": {
        "shop/__init__.py": SHOP
        + "from celery import Celery\napp = Celery('shop')\n"
        + "app.config_from_object('celeryconfig')\n"
        + "oops_celery.report_failures(app, config)\n",
        "celeryconfig.py": "import shop\ntask_default_queue = shop.__name__\n",
    },
    "a publisher of its own": {
        "shop/__init__.py": SHOP
        + "config.publisher = oops_celery.Publisher()\nQUEUE = 'shop'\n",
        "celeryconfig.py": "from shop import QUEUE as task_default_queue\n",
    },
}

PROGRAM = "import shop; print(len(shop.config.publish(shop.config.create())))"


def write(folder: Path, files: dict[str, str]) -> dict[str, str]:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    inside = "shop/celeryconfig.py" in files
    return {"CELERY_CONFIG_MODULE": "shop.celeryconfig"} if inside else {}


def python(folder: Path, program: str, **environ: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment(**environ),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.mark.parametrize("name", APPLICATIONS)
def test_an_application_that_its_celeryconfig_imports(
    broker: Node, tmp_path: Path, name: str
) -> None:
    environ = write(tmp_path, APPLICATIONS[name])
    done = python(tmp_path, PROGRAM, RABBITMQ_URL=broker.url, **environ)
    assert (done.stdout, done.stderr) == ("1\n", "")
    assert broker.count("oopses") == 1


def test_a_report_during_that_import(broker: Node, tmp_path: Path) -> None:
    """It is not published; the next one is, by the settings in force."""
    write(
        tmp_path,
        {
            "shop.py": SHOP + "first = config.publish({})\nEXCHANGE = 'oopses'\n",
            "celeryconfig.py": "from shop import EXCHANGE as OOPS_EXCHANGE\n",
        },
    )
    program = "import time, shop; time.sleep(0.3);" + PROGRAM + "; print(shop.first)"
    done = python(tmp_path, program, RABBITMQ_URL=broker.url)
    assert done.stdout == "1\n[]\n"
    assert "Traceback" not in done.stderr
    assert "celeryconfig.py cannot be read: ImportError" in done.stderr


def test_a_celeryconfig_that_is_just_being_imported(
    broker: Node, tmp_path: Path
) -> None:
    """It has no setting yet: those that come later count, too."""
    write(
        tmp_path,
        {
            "shop.py": SHOP + "first = config.publish({})\n",
            "celeryconfig.py": "import shop\nOOPS_EXCHANGE = 'of the file'\n",
        },
    )
    program = "import celeryconfig, shop; print(shop.first)\n"
    program += "print(shop.config.publisher.exchange_name)"
    done = python(tmp_path, program, RABBITMQ_URL=broker.url)
    assert done.stdout == "[]\nof the file\n"


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("1 / 0", {}, "celeryconfig.py cannot be read: ZeroDivisionError"),
        ("raise SystemExit(3)", {}, "celeryconfig.py cannot be read: SystemExit: 3"),
        ("import no_such_module", {}, "there is no module 'no_such_module'"),
        ("OOPS_TOPOLGY = 1", {}, "did you mean OOPS_TOPOLOGY?"),
        ("", {"OOPS_MAX_SIZE": "big"}, "OOPS_MAX_SIZE='big' (environment): must be"),
        ("", {"OOPS_PUBLISH_TIMEOUT": "0"}, "a number of seconds over 0"),
        ("", {"RABBITMQ_URL": "http://h/"}, "RABBITMQ_URL"),
    ],
)
def test_settings_that_cannot_be_used(
    tmp_path: Path, text: str, environ: dict[str, str], expected: str
) -> None:
    """The application goes on, is told once, and the fallback has the report."""
    write(tmp_path, {"celeryconfig.py": text})
    program = """
import oops, oops_celery
kept = []
config = oops.Config()
config.publisher = oops.publish_with_fallback(
    oops_celery.publisher, lambda report: kept.append(report) or ["kept"]
)
for _ in range(50):
    assert config.publish(config.create()) == ["kept"]
assert list(oops_celery.publisher.publish_many([{}, {}])) == [[], []]
print(len(kept))
"""
    done = python(tmp_path, program, **environ)
    assert done.stdout == "50\n", done.stderr
    assert done.stderr.count("reports are not published") == 1
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_that_cannot_be_used_within_a_command(tmp_path: Path) -> None:
    """Of the application's own, as ``flask run`` or ``celery -A shop worker``."""
    program = """
import click, oops_celery
@click.command()
def command():
    print(oops_celery.publisher({}), list(oops_celery.publisher.publish_many([{}])))
command(["x"][1:])
"""
    done = python(tmp_path, program, OOPS_MAX_SIZE="big")
    assert done.stdout == "[] [[]]\n", done.stderr
    assert "OOPS_MAX_SIZE='big' (environment): must be" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_and_a_command_end_with_a_line(tmp_path: Path) -> None:
    write(tmp_path, {"celeryconfig.py": "1 / 0"})
    for words in (["oops_celery.cli", "doctor"], ["celery", "-A", "oops_celery"]):
        command = [sys.executable, "-m", *words]
        if words[0] == "celery":
            command.append("worker")
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode != 0
        assert "celeryconfig.py cannot be read: ZeroDivisionError" in (
            done.stdout + done.stderr
        )
        assert "Traceback" not in done.stderr
