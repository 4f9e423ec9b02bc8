"""The pages in a browser: by clicks, without JavaScript, on a phone, read aloud."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import kombu
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from oops_celery import wire
from oops_celery.dead_letters.letters import Choice, Letters
from oops_celery.repository.store import Repository
from oops_celery.topology.model import Topology
from tests.support import ROOT, Node, environment, eventually
from tests.support.browser import of_scheme, of_width, start_browser, with_script
from tests.web.serving import PASSWORD, Pages, a_report, file_letters, store, users

#: Where screenshots go: `make screenshots` says docs.
SCREENSHOTS = os.environ.get("SCREENSHOTS")

AXE = ROOT / "var/axe/node_modules/axe-core/axe.min.js"

#: What would show that something of a report ran.
EVIL = (
    "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'>"
    "<svg onload='window.ran = 3'></svg>\"'><b>bold</b> javascript:alert(1) "
    "\u202eright to left\u2066 \x1b[31m \x00 {{ 7 * 7 }}"
)


def hostile() -> dict[str, Any]:
    return a_report(
        2,
        **{
            "type": f"Evil{EVIL}",
            "value": EVIL + "x" * 1_000_000,
            "topic": EVIL,
            "reporter": EVIL,
            f"key {EVIL}": {EVIL: [EVIL]},
            "url": f"javascript:window.ran=4//{EVIL}",
            "req_vars": {EVIL: EVIL, "long": "y" * 1_000_000},
            "timeline": [(n, n + 0.5, EVIL, EVIL) for n in range(10_000)],
            "tb_text": f'  File "/srv/{EVIL}.py", line 1, in {EVIL}\n    {EVIL}\n'
            * 300,
        },
    )


class Shop:
    """The pages of a shop, with what goes wrong there."""

    def __init__(self, node: Node, folder: Path) -> None:
        node.clean()
        with kombu.Connection(node.url) as connection:
            Topology.load().declare(connection.channel)
        self.node = node
        self.database = f"sqlite:///{folder}/oopses.db"
        Repository(self.database).upgrade()
        self.ids = store(
            self.database,
            *(a_report(number * 7) for number in range(60)),
            *(
                a_report(
                    number * 40,
                    type="OperationalError",
                    value="could not connect to server: Connection refused",
                    topic="/stock",
                    reporter="depot",
                    tb_text='  File "/srv/depot/stock.py", line 31, in count\n',
                )
                for number in range(20)
            ),
        )
        self.refill()
        self.pages = Pages(
            folder,
            self.database,
            *("--htpasswd", users(folder), "--public"),
            RABBITMQ_URL=node.url,
        )
        self.url = self.pages.url

    def refill(self) -> None:
        """Have ten dead letters of one reason, and three of another."""
        disk = "OSError: [Errno 28] No space left on device: '/srv/oopses'"
        self.dead = file_letters(
            self.database, disk, *(a_report(n, n=os.urandom(4)) for n in range(10))
        )
        file_letters(
            self.database,
            "undecodable: no BSON document",
            *(a_report(n, type="Strange", n=os.urandom(4)) for n in range(3)),
        )


class Stage(Shop):
    """A shop that also had reports of somebody who means harm."""

    def __init__(self, node: Node, folder: Path) -> None:
        super().__init__(node, folder)
        (self.evil,) = store(self.database, hostile())
        self.file_hostile()
        self.export = folder / "page.html"
        command = ("report", "--days=2", f"--html={self.export}")
        subprocess.run(
            [sys.executable, "-m", "oops_celery.cli", *command],
            env=environment(OOPS_REPOSITORY=self.database),
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def file_hostile(self) -> None:
        """Have one more dead letter, of the same person."""
        (self.evil_letter,) = file_letters(
            self.database, EVIL, a_report(3, type=f"Evil{EVIL}", value=EVIL)
        )

    def every_page(self) -> list[str]:
        return [
            *("/", "/?period=30d&show=new", "/?type=nothing", "/dead"),
            *(link for path in ("/", "/dead") for link in self._links(path)),
            *(f"/{self.ids[0]}", f"/{self.evil}"),
            *(f"/{self.dead[0]}", f"/{self.evil_letter}"),
            *("/search", "/search?type=lookup", "/search?type=evil"),
            *("/health", "/login", f"/OOPS-{'0' * 32}", "/nothing", "/?page=x"),
            *(f"/search?q={quote(EVIL[:60])}", f"/?text={quote(EVIL[:60])}"),
        ]

    def _links(self, path: str) -> list[str]:
        """Return the pages of the groups of a page."""
        page = self.pages.get(path).text
        links = re.findall(r'class="name" href="([^"]+)"', page)
        assert len(links) >= 3
        return [html.unescape(link) for link in links]


def visit(browser: Chrome, stage: Stage) -> Iterator[str]:
    """Load each page there is; yield its name when it is shown."""
    for path in stage.every_page():
        browser.get(f"{stage.url}{path}")
        yield path
    browser.get(stage.export.as_uri())
    yield "report --html"
    browser.get(f"{stage.url}/dead")
    if browser.find_elements(By.CSS_SELECTOR, "form.who"):
        click(browser, "Discard")
        assert heading(browser).startswith("Discard ")
        yield "the question"


@pytest.fixture(scope="module")
def stage(rabbitmq: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(rabbitmq, tmp_path_factory.mktemp("web"))
    yield stage
    assert stage.pages.stop() == 0
    stage.node.clean()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    browser = start_browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.quit()


@pytest.fixture(params=["script", "no script"])
def browser(chromium: Chrome, request: pytest.FixtureRequest) -> Iterator[Chrome]:
    """The browser, with and without JavaScript, at first without a login."""
    of_width(chromium, 1280)
    of_scheme(chromium, "light")
    chromium.delete_all_cookies()
    with_script(chromium, request.param == "script")
    yield chromium
    with_script(chromium, True)


def go(browser: Chrome, element: WebElement) -> None:
    """Click it, and wait until all of another page is there: its end is the footer.

    Between two pages there is no element at all.
    """
    before = browser.find_elements(By.TAG_NAME, "footer")
    element.click()
    eventually(lambda: browser.find_elements(By.TAG_NAME, "footer") not in ([], before))


def click(browser: Chrome, text: str) -> None:
    """Click a link or a button, and wait until another page is there."""
    xpath = f"//*[self::a or self::button][contains(normalize-space(), {text!r})]"
    go(browser, browser.find_element(By.XPATH, xpath))


def heading(browser: Chrome) -> str:
    return browser.find_element(By.TAG_NAME, "h1").text


def log_in(browser: Chrome, stage: Shop) -> None:
    browser.get(f"{stage.url}/dead")
    click(browser, "Log in")
    browser.find_element(By.NAME, "user").send_keys("ann")
    browser.find_element(By.NAME, "password").send_keys(PASSWORD)
    go(browser, browser.find_element(By.CSS_SELECTOR, ".login button"))
    assert "/dead" in browser.current_url


def test_from_the_groups_to_a_report_and_back_by_clicks(
    browser: Chrome, stage: Stage
) -> None:
    browser.get(stage.url)
    click(browser, "LookupError")
    assert heading(browser).startswith("LookupError")
    click(browser, stage.ids[3])
    assert browser.current_url == f"{stage.url}/{stage.ids[3]}"
    assert "not sold: 21" in browser.find_element(By.ID, "main").text
    click(browser, "before")
    assert browser.current_url == f"{stage.url}/{stage.ids[4]}"
    click(browser, "60 reports of this group")
    assert heading(browser).startswith("LookupError")
    click(browser, "oops-celery")
    assert "reports in" in heading(browser)


def test_half_an_id_is_enough(browser: Chrome, stage: Stage) -> None:
    browser.get(f"{stage.url}/dead")
    browser.find_element(By.NAME, "q").send_keys(stage.ids[5][5:21])
    click(browser, "Find")
    assert browser.current_url == f"{stage.url}/{stage.ids[5]}"


def test_the_page_of_a_report_that_is_on_its_way_becomes_the_report(
    browser: Chrome, stage: Stage
) -> None:
    late = a_report(0, type="LateError", n=os.urandom(4))
    report_id = wire.encode(late).id
    browser.get(f"{stage.url}/{report_id}")
    assert heading(browser) == "This report is not stored yet"
    store(stage.database, late)
    eventually(lambda: browser.title.startswith("LateError"))  # nobody loads it again


def test_dead_letters_are_replayed_by_their_reason(
    browser: Chrome, stage: Stage
) -> None:
    with Letters(stage.database) as letters:
        while old := letters.choose(Choice(), 100):
            letters.remove(old)
    stage.refill()
    before = stage.node.count("oopses")
    log_in(browser, stage)
    assert heading(browser) == "13 dead letters"
    click(browser, "Replay")  # of the largest group
    assert "10 of 10 dead letters replayed." in browser.page_source
    assert heading(browser) == "3 dead letters"
    eventually(lambda: stage.node.count("oopses") == before + 10)
    click(browser, "Discard")
    assert heading(browser) == "Discard 3 dead letters for good?"
    click(browser, "Discard")
    assert "3 of 3 dead letters discarded." in browser.page_source
    stage.refill()
    stage.file_hostile()


@pytest.mark.parametrize("user", ["ann", "nobody"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_cut_off_or_scrolls_sideways(
    chromium: Chrome, stage: Stage, width: int, user: str
) -> None:
    chromium.delete_all_cookies()
    if user == "ann":
        log_in(chromium, stage)
    of_width(chromium, width)
    wrong = {}
    for path in visit(chromium, stage):
        wide = chromium.execute_script("""
            const seen = [...document.querySelectorAll("body *")].filter(one => {
                if (one.closest(".hidden, .skip, thead, datalist, svg")) return false;
                const box = one.getBoundingClientRect();
                return box.width && (box.right > innerWidth + 1 || box.left < -1);
            });
            const cut = [...document.querySelectorAll("body *")].filter(one =>
                one.scrollWidth > one.clientWidth + 1 && one.clientWidth
                && getComputedStyle(one).overflowX !== "visible"
                && !one.closest(".hidden, thead, svg, input"));
            return [document.documentElement.scrollWidth > innerWidth,
                [...seen, ...cut].slice(0, 3).map(one => one.outerHTML.slice(0, 200))];
        """)
        if wide != [False, []]:
            wrong[path] = wide
    assert wrong == {}


def test_on_a_phone_the_numbers_of_queues_have_names(
    chromium: Chrome, stage: Stage
) -> None:
    of_width(chromium, 390)
    chromium.get(f"{stage.url}/health")
    names = chromium.execute_script("""
        return [...document.querySelectorAll("tbody tr:first-child .n")].map(
            one => getComputedStyle(one, "::before").content);
    """)
    assert names == ['"Messages "', '"Consumers "']


def test_on_a_phone_the_headings_of_a_timeline_are_above_their_columns(
    chromium: Chrome, stage: Stage
) -> None:
    of_width(chromium, 390)
    chromium.get(f"{stage.url}/{stage.ids[0]}")
    heads, cells = chromium.execute_script("""
        return [".timeline th", ".timeline tbody tr:first-child td"].map(
            found => [...document.querySelectorAll(found)].map(
                one => one.getBoundingClientRect()).filter(box => box.width)
                .map(box => [box.left, box.right]));
    """)
    assert len(heads) == 3  # no bars
    assert heads == cells


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_problem(
    chromium: Chrome, stage: Stage, scheme: str
) -> None:
    of_width(chromium, 1280)
    of_scheme(chromium, scheme)
    chromium.delete_all_cookies()
    log_in(chromium, stage)
    source = AXE.read_text()
    wrong = {}
    for path in visit(chromium, stage):
        chromium.execute_script(source)
        found = chromium.execute_async_script("""
            const done = arguments[arguments.length - 1];
            axe.run(document, {resultTypes: ["violations"]}).then(result => done(
                result.violations.map(one => [one.id, one.impact,
                    one.nodes.slice(0, 2).map(node => node.html.slice(0, 200))])));
        """)
        serious = [one for one in found if one[1] in ("serious", "critical")]
        if serious:
            wrong[path] = serious
    assert wrong == {}


def test_nothing_of_a_report_runs(chromium: Chrome, stage: Stage) -> None:
    of_width(chromium, 1280)
    chromium.delete_all_cookies()
    log_in(chromium, stage)
    chromium.get_log("browser")
    wrong = {}
    for path in visit(chromium, stage):  # a dialog would raise
        found = chromium.execute_script("""
            const elements = [...document.querySelectorAll("body *")];
            return [window.ran, ...elements.filter(one =>
                one.matches("script, main img, main svg svg, main b b")
                || [...one.attributes].some(each => each.name.startsWith("on")
                    || /^javascript:/i.test(each.value) && each.name !== "value")
            ).map(one => one.outerHTML.slice(0, 200))];
        """)
        said = [
            one["message"]
            for one in chromium.get_log("browser")
            # The page's own status, of one that is not found.
            if not one["message"].startswith(f"{chromium.current_url} - Failed to load")
        ]
        if found != [None] or said:
            wrong[path] = (found, said)
    assert wrong == {}


def test_a_huge_report_is_shown_shortened(chromium: Chrome, stage: Stage) -> None:
    page = chromium.get(f"{stage.url}/{stage.evil}") or chromium.page_source
    text = chromium.find_element(By.ID, "main").text
    assert "<script>window.ran = 1</script>" in text
    assert r"\u202eright to left\u2066 \x1b[31m" in text
    assert "{{ 7 * 7 }}" in text
    assert "\u202e" not in page
    assert "more characters: see the JSON" in text
    assert "10,000 steps in" in text
    assert "the 300 longest are shown" in text
    assert len(page) < 2_000_000


#: Of the shop in the pictures: type, value, file, line, minutes between two.
_FAILURES = (
    ("TimeoutError", "the bank did not answer within 10 s", "payment", 88, 31),
    ("KeyError", "'postcode'", "delivery", 40, 150),
    ("DataError", "value too long for type character varying(80)", "basket", 61, 420),
)

_PICTURES = {
    "groups": ("/", 1280, "light"),
    "report": ("/{id}", 1280, "light"),
    "report-dark": ("/{id}", 1280, "dark"),
    "phone": ("/", 390, "light"),
    "dead": ("/dead", 1280, "light"),
}


@pytest.mark.skipif(not SCREENSHOTS, reason="make screenshots")
def test_screenshots(chromium: Chrome, rabbitmq: Node, tmp_path: Path) -> None:
    shop = Shop(rabbitmq, tmp_path)
    for name, value, file, line, minutes in _FAILURES:
        tb_text = f'  File "/srv/shop/{file}.py", line {line}, in {file}\n'
        more = {"type": name, "value": value, "topic": f"/{file}", "tb_text": tb_text}
        store(shop.database, *(a_report(n, **more) for n in range(5, 1300, minutes)))
    chromium.delete_all_cookies()
    log_in(chromium, shop)
    for name, (path, width, scheme) in _PICTURES.items():
        of_width(chromium, width, 900)
        of_scheme(chromium, scheme)
        chromium.get(shop.url + path.format(id=shop.ids[0]))
        assert chromium.save_screenshot(f"{SCREENSHOTS}/web-{name}.png")
    assert shop.pages.stop() == 0
