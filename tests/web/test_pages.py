"""What the pages show, from a real server, on both kinds of database."""

from __future__ import annotations

import json
import re
from html import unescape

import pytest

from oops_celery import wire
from tests.web.conftest import Serve
from tests.web.serving import a_report, csrf, file_letters, store, users


def text_of(page: str) -> str:
    """Return what a person reads of a page, on one line."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_the_first_page_has_the_groups_with_their_counts(
    serve: Serve, database: str
) -> None:
    pages = serve(database)
    store(
        database,
        *(a_report(number) for number in range(7)),
        *(a_report(n, type="OSError", tb_text="", topic="disk") for n in range(3)),
    )
    page = text_of(pages.get("/").text)
    assert "10 reports in 2 groups" in page
    assert page.index("LookupError") < page.index("OSError")
    assert "/srv/shop/views.py:buy" in page
    assert "1 report" not in text_of(pages.get("/?type=os").text).split(" in ")[0]
    assert "3 reports in 1 group" in text_of(pages.get("/?type=os").text)
    assert "3 reports in 1 group" in text_of(pages.get("/?topic=DISK&period=7d").text)
    found = pages.get("/groups.json").json()["groups"]
    assert {one["type"]: one["count"] for one in found} == {
        "LookupError": 7,
        "OSError": 3,
    }


def test_a_period_that_is_over_has_nothing_to_show(serve: Serve, sqlite: str) -> None:
    pages = serve(sqlite)
    assert "no report yet" in text_of(pages.get("/").text)
    store(sqlite, a_report(60 * 24 * 12))
    # Counts of a period are good for two seconds: this one was not asked for yet.
    assert "The last day with any report is" in text_of(pages.get("/?period=7d").text)
    assert "1 report in 1 group" in text_of(pages.get("/?period=30d").text)


@pytest.mark.parametrize(
    "path",
    ["/?period=1y", "/?show=none", "/?sort=x", "/?page=0", "/search?since=yesterday"],
)
def test_what_is_not_understood_is_named(serve: Serve, sqlite: str, path: str) -> None:
    answer = serve(sqlite).get(path)
    name, value = re.findall(r"(\w+)=(\w+)", path)[0]
    assert answer.status_code == 400
    assert f"{name}='{value}'" in text_of(answer.text)


def test_a_group_leads_to_its_reports_and_they_to_each_other(
    serve: Serve, database: str
) -> None:
    pages = serve(database)
    ids = store(database, *(a_report(number) for number in range(60)))
    group = pages.get("/groups/1").text
    assert "60" in text_of(group)
    assert "/buy 60" in text_of(group)
    assert "shop 60" in text_of(group)
    listed = re.findall(r'href="/(OOPS-[^"]+)"', group)
    assert listed == ids[:50]
    older = re.search(r'href="(\?after=[^"]+)"', group)
    assert older is not None
    more = pages.get(f"/groups/1{unescape(older[1])}").text
    assert re.findall(r'href="/(OOPS-[^"]+)"', more) == ids[50:]
    report = pages.get(f"/{ids[5]}").text
    assert f'href="/{ids[6]}"' in report  # before
    assert f'href="/{ids[4]}"' in report  # after
    assert 'href="/groups/1"' in report
    assert pages.get("/groups/2").status_code == 404


def test_a_report_has_all_that_it_holds(serve: Serve, sqlite: str) -> None:
    pages = serve(sqlite)
    (report_id,) = store(sqlite, a_report(3))
    page = pages.get(f"/{report_id}").text
    text = text_of(page)
    for part in (
        *("LookupError", "not sold: 3", "REMOTE_ADDR 10.0.0.7", "branch main"),
        *("SELECT 1", "12.5 ms", "GET /price", "topic /buy"),
        *("KeyError: 'coffee'", "It was raised from this one:"),
        "1 frame of libraries, to inner",
    ):
        assert part in text
    # The last exception first, and its own frames open.
    assert text.index("LookupError: not sold") < text.index("KeyError: 'coffee'")
    own = re.findall(r'class="frame own">\s*<p class="at"><bdi>([^<]+)', page)
    assert own == ["/srv/shop/views.py", "/srv/shop/cart.py"]


def test_the_downloads_are_the_report(serve: Serve, sqlite: str) -> None:
    pages = serve(sqlite)
    report = a_report(3)
    (report_id,) = store(sqlite, report)
    answer = pages.get(f"/{report_id}.bson")
    assert answer.content == wire.encode(report).body
    assert f'filename="{report_id}.bson"' in answer.headers["content-disposition"]
    assert pages.get(f"/{report_id}.json").json()["req_vars"]["item"] == "coffee"


def test_a_part_of_an_id_leads_to_the_report(serve: Serve, database: str) -> None:
    pages = serve(database)
    ids = store(database, *(a_report(number) for number in range(3)))
    for part in (ids[1][5:17], ids[1].lower(), ids[1][12:]):
        for path in (f"/{part}", f"/search?q={part}"):
            assert pages.get(path).headers["location"] == f"/{ids[1]}"
    several = pages.get("/search?q=oops-")
    assert all(one in several.text for one in ids)
    assert pages.get("/oops-").headers["location"] == "/search?q=oops-"


def test_a_search_finds_reports_by_what_the_index_has(
    serve: Serve, database: str
) -> None:
    pages = serve(database)
    wanted, _ = store(
        database,
        a_report(1, type="StockError", topic="/stock", reporter="depot"),
        a_report(2),
    )

    def found(query: str) -> list[str]:
        listed = pages.get(f"/search.json?{query}").json()["reports"]
        return [one["id"] for one in listed]

    for query in (
        *("type=StockError", "type=stock", "topic=/stock", "reporter=depot"),
        *("q=SOLD:%201", "type=StockError&q=sold", "type=stock&since=2020-01-01"),
    ):
        assert found(query) == [wanted], query
    assert found("type=StockError&until=2020-01-01") == []
    assert found("type=NoSuchError") == []


def test_a_dead_letter_is_shown_by_its_id(serve: Serve, database: str) -> None:
    pages = serve(database)
    (report_id,) = file_letters(database, "OSError: the disk is full", a_report(1))
    text = text_of(pages.get(f"/{report_id}").text)
    assert "Dead letter Reason OSError: the disk is full" in text
    assert "not sold: 1" in text
    dead = pages.get("/dead").text
    assert "1 dead letter" in text_of(dead)
    letters = re.search(r'href="(/dead/letters[^"]+)"', dead)
    assert letters is not None
    assert f'href="/{report_id}"' in pages.get(unescape(letters[1])).text
    assert "<button formaction" not in dead  # nobody is logged in


def test_discarding_takes_exactly_what_was_on_the_page(
    serve: Serve, database: str, tmp_path
) -> None:
    pages = serve(database, "--htpasswd", users(tmp_path))
    file_letters(database, "ENOSPC: 1", *(a_report(number) for number in range(4)))
    file_letters(database, "KeyError", a_report(50))
    pages.log_in()
    page = pages.get("/dead").text
    file_letters(database, "ENOSPC: 2", a_report(60))  # later, in the same group
    (form,) = (
        one for one in re.findall(r"<form.*?</form>", page, re.S) if "ENOSPC" in one
    )
    fields = {
        name: unescape(value)
        for name, value in re.findall(r'name="(\w+)" value="([^"]*)"', form)
    }
    question = pages.client.post("/dead/discard", data=fields)
    assert "Discard 4 dead letters for good?" in text_of(question.text)
    assert pages.get("/dead.json").json()["groups"][0]["count"] == 5
    done = pages.client.post("/dead/discard", data={**fields, "sure": "1"})
    assert done.status_code == 303
    after = pages.get("/dead").text
    assert "4 of 4 dead letters discarded." in text_of(after)
    assert "2 dead letters" in text_of(after)
    told = "'ann' from 127.0.0.1: 4 of 4 dead letters discarded."
    assert told in pages.log.read_text()


def test_what_somebody_else_took_is_told_from_what_remains() -> None:
    from oops_celery.web.changes import _Done

    assert _Done(9, 4, [], True, "").words("replayed") == (
        "4 of 9 dead letters replayed. 5 had been taken by somebody else."
    )
    assert "5 remain: go on" in _Done(9, 4, [], False, "").words("replayed")
    assert "1 not: full" in _Done(9, 8, ["full"], True, "").words("replayed")


def test_a_replay_without_a_broker_keeps_the_letters_and_says_so(
    serve: Serve, database: str, tmp_path
) -> None:
    pages = serve(database, "--htpasswd", users(tmp_path))
    file_letters(database, "gave up", *(a_report(number) for number in range(3)))
    pages.log_in()
    page = pages.get("/dead").text
    (form,) = (f for f in re.findall(r"<form.*?</form>", page, re.S) if "gave up" in f)
    fields = {
        name: unescape(value)
        for name, value in re.findall(r'name="(\w+)" value="([^"]*)"', form)
    }
    assert pages.client.post("/dead/replay", data=fields).status_code == 303
    after = text_of(pages.get("/dead").text)
    assert "0 of 3 dead letters replayed. amqp://127.0.0.1:1/" in after
    assert "3 dead letters" in after
    assert "0 of 3 dead letters replayed" in pages.log.read_text()


def test_a_search_says_which_types_it_left_out(serve: Serve, sqlite: str) -> None:
    pages = serve(sqlite)
    store(sqlite, *(a_report(n, type=f"E{n:02}Error") for n in range(23)))
    found = pages.get("/search.json?type=error").json()
    assert len(found["reports"]) == 20
    assert found["types_left_out"] == ["E20Error", "E21Error", "E22Error"]
    assert "3 that were seen least lately" in text_of(
        pages.get("/search?type=error").text
    )


def test_a_group_is_resolved_and_opened_again(
    serve: Serve, database: str, tmp_path
) -> None:
    pages = serve(database, "--htpasswd", users(tmp_path))
    store(database, a_report(1))
    pages.log_in()

    def become(state: str) -> str:
        token = csrf(pages.get("/groups/1").text)
        form = {"csrf": token, "state": state}
        assert pages.client.post("/groups/1/state", data=form).status_code == 303
        return text_of(pages.get("/groups/1").text)

    # Counts are good for two seconds, but not over a change.
    assert "1 report in 1 group" in text_of(pages.get("/").text)
    assert "State resolved" in become("resolved")
    assert "1 report" not in text_of(pages.get("/").text)
    assert "1 report in 1 group" in text_of(pages.get("/?show=resolved").text)
    assert "State muted" in become("muted")
    assert "State open" in become("open")
    assert "'ann' from 127.0.0.1: group 1 is muted" in pages.log.read_text()


def test_the_state_for_load_balancers(serve: Serve, database: str) -> None:
    pages = serve(database)
    answer = pages.get("/health")
    assert answer.status_code == 200
    state = json.loads(answer.text)
    assert state["database"] == "ok"
    assert "nothing listens there" in state["broker"]
    page = pages.get("/health", headers={"Accept": "text/html"}).text
    assert "oopses.retry.1" in text_of(page)
    assert "oops_celery_broker_up 0.0" in pages.get("/metrics").text


def test_a_database_that_is_gone_is_told(serve: Serve, sqlite: str, tmp_path) -> None:
    pages = serve(sqlite)
    for file in tmp_path.glob("oopses.db*"):
        file.rename(f"{file}.away")
    (tmp_path / "oopses.db").mkdir()
    for path in ("/", "/dead", "/search?type=x", "/groups.json"):
        answer = pages.get(path)
        assert answer.status_code == 503, path
        assert str(tmp_path) in answer.text
    assert pages.get("/health").status_code == 503
    page = pages.get(f"/OOPS-{'0' * 32}")
    assert page.status_code == 503
    assert "The database cannot be read now" in text_of(page.text)
    assert page.headers["refresh"] == "3"
