"""What the page keeps, draws again, and says where something is missing."""

from __future__ import annotations

from typing import Any

import pytest

from support.served_page import DUO, MODELS, URL, ServedPage, letters, refused, streamed
from support.traces import step

BLOCKED = "Object.defineProperty(window, 'sessionStorage', {get() { throw new DOMException('no', 'SecurityError'); }})"
FULL = """
const set = Storage.prototype.setItem;
Storage.prototype.setItem = function (name, words) {
  if (words.length > 1200) throw new Error('full');
  set.call(this, name, words);
};
"""


@pytest.mark.parametrize(
    ("script", "words", "turns"),
    [(BLOCKED, "keeps nothing for this page", 0), (FULL, "a reload keeps the texts and not the votes", 1)],
)
def test_what_the_browser_does_not_keep_is_said(
    served: ServedPage, page: Any, script: str, words: str, turns: int
) -> None:
    page.add_init_script(script)
    served.open()
    served.send("Hello")
    assert page.locator(".answer[data-state=done] .piece").count() == 6
    assert words in page.locator("#kept").text_content()
    page.reload()
    page.locator("#model option").first.wait_for(state="attached")
    assert page.locator(".turn").count() == turns


def test_escape_keeps_the_key_and_one_dialog_asks_for_all(served: ServedPage, page: Any) -> None:
    served.open()
    served.send("Hello")
    page.evaluate("sessionStorage.setItem('unisono.key', 'good')")
    served.answer = lambda _request: refused(401, "an API key is needed")
    page.get_by_text("Beside each member alone").click()
    page.locator("#ask-key[open]").wait_for()
    page.keyboard.press("Escape")
    page.locator("#send:enabled").wait_for()
    assert page.evaluate("sessionStorage.getItem('unisono.key')") == "good"
    assert len(served.sent) == 3


def test_what_keeps_an_answer_from_being_asked_for_is_said(served: ServedPage, page: Any) -> None:
    served.open()
    served.send("Hello")
    served.models = refused(503, "the models are loading")
    page.reload()
    page.get_by_text("the models are loading").wait_for()
    for name in ("Again with these settings", "Beside each member alone"):
        page.get_by_text(name).click()
        assert "has not said yet which models it has" in page.locator("#status").text_content()
    assert len(served.sent) == 1


def test_without_a_key_the_page_asks_again_when_it_is_needed(served: ServedPage, page: Any) -> None:
    known, served.models = served.models, refused(401, "an API key is needed")
    page.goto(URL)
    page.locator("#ask-key[open]").wait_for()
    page.keyboard.press("Escape")
    page.locator("#ask-key").wait_for(state="hidden")
    assert "an API key is needed" in page.locator("#status").text_content()
    served.models = known
    page.locator("#message").fill("Hello")
    page.keyboard.press("Enter")
    page.locator("#model option").first.wait_for(state="attached")


def test_a_member_has_one_colour_alone_and_with_others(served: ServedPage, page: Any) -> None:
    served.open()
    abouts = dict(MODELS)
    served.answer = lambda request: streamed([step(b"x", members={"b": 0.9})], abouts[request["model"]])
    served.send("Hello")
    page.get_by_text("Beside each member alone").click()
    page.locator(".answer[data-state=done]").nth(2).wait_for()
    page.locator("#colour").select_option("carrier")
    assert page.locator(".piece.member-1").count() == 3
    page.locator("#model").select_option("duo/b")
    assert page.locator("#legend li").all_text_contents() == ["abc a", "abc b"]


def strip_colour(page: Any) -> str:
    colour: str = page.locator(".strip canvas").evaluate(
        "canvas => [...canvas.getContext('2d').getImageData(1, canvas.height - 1, 1, 1).data].join()"
    )
    return colour


def test_the_strip_has_its_colours_after_a_reload_and_in_the_dark(served: ServedPage, page: Any) -> None:
    served.open()
    served.send("Hello")
    first = strip_colour(page)
    page.reload()
    page.locator("#legend li").first.wait_for()
    page.wait_for_timeout(100)
    assert strip_colour(page) == first
    assert first != "0,0,0,255"
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(100)
    assert strip_colour(page) != first


@pytest.mark.parametrize(
    ("gate", "scores", "words"),
    [
        (
            {"kind": "confidence", "parameter": 0.5},
            [0.4, 0.4, 0.9],
            "At 0.50, the others would have been asked at 1 of 3",
        ),
        (
            {"kind": "entropy", "parameter": 7.5},
            [8.0, 8.0, 6.0],
            "At 7.50, the others would have been asked at 1 of 3",
        ),
        ({"kind": "every", "parameter": 4}, [0, 1, 2], "At 0.50,"),
    ],
)
def test_the_strip_counts_as_the_gate_would(
    served: ServedPage, page: Any, gate: dict[str, Any], scores: list[float], words: str
) -> None:
    steps = [
        {**each, "gate": {"score": score, "threshold": 0.5, "asked": True, "inside": "b" if place == 1 else None}}
        for place, (each, score) in enumerate(zip(letters(3), scores, strict=True))
    ]
    served.answer = lambda _request: streamed(steps, {**DUO, "gate": gate})
    served.open()
    served.send("Hello")
    assert page.locator(".strip output").text_content().startswith(words)
