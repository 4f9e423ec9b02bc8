"""Flower with our flowerconfig, in a real browser: what a person sees of reports."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path

import kombu
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from oops_celery import Publisher
from oops_celery.celery import app
from oops_celery.transport.sender import Sender
from oops_celery.wire.task import TASK_NAME, task_options
from tests.support import Node, Worker, environment, eventually
from tests.support.browser import start_browser
from tests.support.management import management_url

#: Where screenshots go: `make screenshots` says docs.
SCREENSHOTS = os.environ.get("SCREENSHOTS")

#: Takes some reports, filters some, and refuses others.
CONFIG = """
import oops

def publish(report):
    if report["topic"] == "search":
        raise OSError("the disk is full")
    return [report["id"]]

config = oops.Config()
config.filters.append(lambda report: report["topic"] == "health")
config.publisher = publish
"""

SECRET = "s3cr3t"


def report(kind: str, topic: str) -> dict[str, object]:
    return {
        "type": kind,
        "value": f"the value {SECRET}",
        "topic": topic,
        "reporter": "shop",
        "url": f"https://shop.example/{topic}?token={SECRET}",
        "req_vars": {"password": SECRET},
        "username": SECRET,
        "tb_text": f"a traceback with {SECRET}",
    }


class Stage:
    """A worker that has had reports of each kind, and a Flower that has heard of it."""

    def __init__(self, node: Node, folder: Path) -> None:
        node.clean()
        self._node = node
        api = management_url(node)
        node.ctl("add_user", "spy", SECRET)
        node.ctl("set_permissions", "spy", ".*", ".*", ".*")
        node.ctl("set_user_tags", "spy", "monitoring")
        url = f"amqp://spy:{SECRET}@{node.host}/"
        (folder / "mine.py").write_text(CONFIG)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.flower = f"http://127.0.0.1:{port}"
        self.name = "worker@example"
        with (folder / "flower.log").open("wb") as log:
            self._process = subprocess.Popen(
                [Path(sys.executable).with_name("celery"), "-A", "oops_celery"]
                + ["flower", f"--port={port}", "--address=127.0.0.1"]
                + [f"--broker_api={api.replace('//', f'//spy:{SECRET}@')}/api/"],
                cwd=folder,  # without a flowerconfig.py: the package has one
                env=environment(RABBITMQ_URL=url, OOPS_WEB_URL="https://o.example"),
                stdout=log,
                stderr=log,
            )
        log_file = folder / "flower.log"
        eventually(lambda: "Connected to" in log_file.read_text(errors="replace"))
        self._worker = Worker(
            folder, url, "-c", "1", "-n", self.name, OOPS_CONFIG="mine:config"
        )
        publish = Publisher(lambda: kombu.Connection(url), "oopses", "", timeout=60)
        self.kept, self.filtered, self.refused = (
            publish(report(kind, topic))[0]
            for kind, topic in (
                ("ValueError", "checkout"),
                ("TimeoutError", "health"),
                ("ZeroDivisionError", "search"),
            )
        )
        self.undecodable = f"OOPS-{md5(b'undecodable').hexdigest()}"
        options = task_options(app, TASK_NAME, self.undecodable, "(KeyError)")
        Sender(lambda: kombu.Connection(url), 5).send(
            f"no BSON, but {SECRET}".encode(), exchange="oopses", **options
        )

    def end(self) -> None:
        self._worker.kill()
        self._process.terminate()
        self._process.wait(120)
        self._node.ctl("delete_user", "spy")
        self._node.clean()


@pytest.fixture(scope="module")
def stage(rabbitmq: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(rabbitmq, tmp_path_factory.mktemp("flower"))
    yield stage
    stage.end()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    browser = start_browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.quit()


def rows(browser: Chrome, stage: Stage) -> dict[str, list[str]]:
    """Return the rows of the tasks page, by the id, once it has all of them."""
    browser.get(f"{stage.flower}/tasks")

    def found() -> dict[str, list[str]]:
        table: list[list[str]] = browser.execute_script("""
            return [...document.querySelectorAll("#tasks-table tbody tr")].map(
                row => [...row.children].map(cell => cell.innerText.trim()))
        """)
        return {cells[0]: cells[1:] for cells in table if len(cells) > 1}

    ids = {stage.kept, stage.filtered, stage.refused, stage.undecodable}
    return eventually(lambda: seen if set(seen := found()) == ids else None)


def settled(browser: Chrome, stage: Stage) -> dict[str, list[str]]:
    """Return the rows when each report has come to its end, or waits for a retry."""
    ends = ("SUCCESS", "FAILURE", "RETRY")

    def done() -> dict[str, list[str]] | None:
        seen = rows(browser, stage)
        return seen if all(row[0] in ends for row in seen.values()) else None

    found: dict[str, list[str]] = eventually(done)
    return found


def screenshot(browser: Chrome, name: str) -> None:
    if SCREENSHOTS:
        assert browser.save_screenshot(f"{SCREENSHOTS}/flower-{name}.png")


def test_each_report_is_a_row_that_says_what_became_of_it(
    browser: Chrome, stage: Stage
) -> None:
    found = settled(browser, stage)
    screenshot(browser, "tasks")
    summary = "topic=checkout, reporter=shop"
    assert found[stage.kept][:3] == [
        "SUCCESS",
        f"ValueError, {summary}",
        f"kept: https://o.example/{stage.kept}",
    ]
    assert found[stage.filtered][0] == "SUCCESS"
    assert found[stage.filtered][2] == "filtered"
    state, _, result = found[stage.refused][:3]
    assert state == "RETRY"
    assert result == "retried later: OSError: the disk is full"
    state, arguments, result = found[stage.undecodable][:3]
    assert (state, arguments) == ("FAILURE", "KeyError")
    assert result.startswith("dead letter: ")


def test_a_report_is_found_by_its_id(browser: Chrome, stage: Stage) -> None:
    settled(browser, stage)
    search = browser.find_element(By.CSS_SELECTOR, "input[type=search]")
    search.send_keys(stage.refused)
    links = "#tasks-table tbody a[href*='OOPS-']"
    eventually(lambda: len(browser.find_elements(By.CSS_SELECTOR, links)) == 1)
    browser.find_element(By.PARTIAL_LINK_TEXT, stage.refused).click()
    eventually(lambda: stage.refused in browser.current_url)
    browser.execute_script("localStorage.clear()")  # the page remembers the search
    page = browser.find_element(By.ID, "task-page").text
    assert stage.refused in page
    assert "ZeroDivisionError, topic=search, reporter=shop" in page
    assert "retried later: " in page
    screenshot(browser, "report")


def test_the_broker_tab_has_the_queue_of_reports(browser: Chrome, stage: Stage) -> None:
    def cells() -> list[str]:
        browser.get(f"{stage.flower}/broker")
        row = browser.find_elements(By.CSS_SELECTOR, "#queue-table tr#oopses td")
        return [cell.text for cell in row]

    # RabbitMQ counts every five seconds.
    eventually(lambda: cells()[:1] == ["oopses"] and cells()[4] == "1")
    screenshot(browser, "broker")


def test_no_page_shows_a_secret(browser: Chrome, stage: Stage) -> None:
    settled(browser, stage)
    assert SECRET not in browser.page_source
    ids = (stage.kept, stage.filtered, stage.refused, stage.undecodable)
    shown = {
        "workers": stage.name,
        f"worker/{stage.name}": stage.name,
        "broker": "oopses",
        "metrics": "flower_events_total",
        **{f"task/{each}": each for each in ids},
    }
    for page, what in shown.items():
        browser.get(f"{stage.flower}/{page}")
        eventually(lambda what=what: what in browser.page_source)
        assert SECRET not in browser.page_source
