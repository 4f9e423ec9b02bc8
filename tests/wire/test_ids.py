"""Ids as people paste them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oops_celery.errors import NoMatch
from oops_celery.wire.ids import clean_id, has_id, resolve

HEX = "68c5cd8feec37c1e2d9e2a8d9d2a5f3c"
WHOLE = f"OOPS-{HEX}"
OTHER = "OOPS-68c5cd00000000000000000000000000"
#: A different report that came with the id `WHOLE`.
BESIDE = f"{WHOLE}.2e390037ea71e05736cd751a86ae7881"

AROUND = [
    *("{}.", " {} ", "{}\n", "\t{}", "'{}'", '"{}"', "`{}`", "({})", "[{}]", "<{}>"),
    *("{},", "{};", "{}:", "{}?", "{}!", "{}...", "\u201c{}\u201d.", "\u00ab{}\u00bb"),
    *("\u200b{}", "\ufeff{}", "#{}", "*{}*", "{}\u2026"),
    *("https://oops.example/{}", "https://oops.example/a/{}/", "http://[::1]:80/{}"),
    *("https://oops.example/{}?tab=1&x=/a", "https://oops.example/{}#top"),
    *(
        "https://oops.example/{}/?a=b#c",
        "<https://oops.example/{}>.",
        "oops.example/{}",
    ),
    *("/srv/oopses/2024-05-01/{}", "https://oops.example/%20{}%0A"),
]


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize(
    "part", [WHOLE, HEX, WHOLE.lower(), WHOLE.upper(), HEX.upper(), "Oops-68C5cd8"]
)
def test_what_is_around_an_id_and_its_case_do_not_matter(
    around: str, part: str
) -> None:
    text = around.format(part)
    assert resolve(text, {WHOLE, OTHER, "order-17"}) == WHOLE
    assert has_id(WHOLE, text)
    assert not has_id("order-17", text)


@pytest.mark.parametrize("around", AROUND)
def test_reports_with_the_same_id_are_told_apart(around: str) -> None:
    for one in (WHOLE, BESIDE):
        for part in (one, one.upper(), one.removeprefix("OOPS-")):
            assert resolve(around.format(part), {WHOLE, BESIDE, OTHER}) == one


@pytest.mark.parametrize(
    "text",
    [
        f"Sorry! Please tell us this number: {WHOLE} (see https://help.example/oops)",
        f"https://oops.example/?oopsid={WHOLE}",
        f"https://oops.example/?oopsid={WHOLE.lower()}&from=mail",
        f"[{WHOLE}](https://oops.example/{WHOLE})",
        f"OOPS ID:{HEX}",
        f"{{'id': '{WHOLE}'}}",
    ],
)
def test_a_whole_id_is_found_in_a_text(text: str) -> None:
    assert resolve(text, {WHOLE, OTHER}) == WHOLE


def test_a_longer_number_is_no_id() -> None:
    assert not has_id(WHOLE, HEX + "0")


@pytest.mark.parametrize(
    "text", ["", " ", "...", "//", "https://", "?", "\u201c\u201d"]
)
def test_no_id_names_nothing(text: str) -> None:
    with pytest.raises(NoMatch):
        resolve(text, {WHOLE})


def test_an_id_of_somebody_elses_is_what_it_is() -> None:
    odd = "<mail/17@host.example>"
    assert resolve(odd, {odd, "17@host.example", WHOLE}) == odd
    assert resolve("a", {"a", "ab", "A"}) == "a"
    assert resolve("OOPS-AB", {"OOPS-ab", "OOPS-abc"}) == "OOPS-ab"
    # A part without the prefix is no whole id.
    with pytest.raises(NoMatch):
        resolve("ab", {"OOPS-ab", "OOPS-abc"})
    with pytest.raises(NoMatch) as caught:
        resolve("68c5cd", {WHOLE, OTHER})
    assert caught.value.candidates == sorted((WHOLE, OTHER))


@given(st.text())
def test_any_text_is_taken(text: str) -> None:
    found = clean_id(text)
    assert found == found.strip()
    assert clean_id(found) in (found, "") or "/" in found or "%" in found


@given(st.text(), st.text())
def test_an_id_that_is_there_is_found(one: str, other: str) -> None:
    if one:
        assert resolve(one, {one, other}) == one
