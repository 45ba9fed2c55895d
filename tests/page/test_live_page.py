"""The page of a server, driven in a browser: what is sent, shown, compared and kept."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from support.server_process import KEY, Process, process

LOST = "The connection to the server was lost."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with process(tmp_path_factory.mktemp("page"), 1) as served:
        yield served


def begin(page: Any, url: str, pieces: int = 12) -> None:
    page.goto(url)
    page.locator("#model option").first.wait_for(state="attached")
    page.locator("#settings summary").click()
    page.locator("#controls [name=max_tokens]").fill(str(pieces))


def send(page: Any, text: str) -> None:
    page.locator("#message").fill(text)
    page.keyboard.press("Enter")


def written(page: Any, count: int = 1) -> Any:
    """The texts of answers, once so many are done."""
    page.locator(".answer[data-state=done]").nth(count - 1).wait_for()
    return page.locator(".answer .text")


def shown(text: Any) -> list[str]:
    found: list[str] = text.evaluate("text => [...text.querySelectorAll('.piece')].map(each => each.textContent)")
    return found


def test_a_message_is_answered_as_by_the_api_and_every_piece_shows_its_votes(server: Process, page: Any) -> None:
    begin(page, server.url)
    send(page, "Hello")
    text = written(page)
    body = {"model": "duo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12}
    answer = httpx2.post(f"{server.url}/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    assert "".join(shown(text)) == answer.replace("\ufffd", "")  # its last character may be cut
    page.locator(".piece").nth(3).hover()
    pane = page.locator("#pane")
    assert pane.locator(".where").text_content() == "piece 4 of 12, duo"
    assert pane.locator("h3").all_text_contents() == ["combined", "a, weight 0.50", "b, weight 0.50"]
    assert 1 <= pane.locator(".columns section").first.locator("li").count() <= 10
    assert pane.locator(".row.chosen").count() >= 1
    words = pane.text_content()
    assert all(name in words for name in ("Mass of a", "b reads it as", "Entropy", "Apart", "Bytes"))
    text.focus()
    page.keyboard.press("ArrowRight")
    assert pane.locator(".where").text_content() == "piece 5 of 12, duo"
    page.keyboard.press("End")
    assert pane.locator(".where").text_content() == "piece 12 of 12, duo"


def test_the_browser_is_done_with_the_request_of_an_answer_that_is_written(server: Process, page: Any) -> None:
    begin(page, server.url)
    ended: list[str] = []
    for event in (
        "requestfinished",
        "requestfailed",
    ):  # which Chromium says where the end is read before it knows of it
        page.on(event, lambda request: ended.append(request.url))
    send(page, "Hello")
    written(page)
    for _ in range(100):
        if any("completions" in url for url in ended):
            return
        page.wait_for_timeout(50)
    raise AssertionError(ended)


def test_members_alone_stand_beside_the_ensemble_and_the_piece_is_marked_at_which_they_part(
    server: Process, page: Any
) -> None:
    begin(page, server.url)
    send(page, "Hello")
    written(page)
    page.get_by_text("Beside each member alone").click()
    texts = written(page, 3)
    assert page.locator(".answer h2").all_text_contents() == ["duo", "a alone", "b alone"]
    parts = page.locator(".parting").text_content()
    first, *others = [shown(texts.nth(place)) for place in range(3)]
    assert all(("parts from duo" in parts) == (other != first) for other in others)
    assert page.locator(".piece.parts").count() >= 2
    page.get_by_label("Hide: b alone").click()
    assert page.locator(".answer").count() == 2


def test_again_with_another_gate_shows_what_it_changes(server: Process, page: Any) -> None:
    begin(page, server.url)
    send(page, "Hello")
    written(page)
    page.locator("#controls [name=gate]").select_option("first")
    page.locator("#controls [name=threshold]").fill("2")
    page.get_by_text("Again with these settings").click()
    texts = written(page, 2)
    assert page.locator(".answer h2").all_text_contents() == ["duo", "again: duo, gate first:2"]
    assert texts.nth(1).locator(".is-shut").count() == 10
    page.locator("#controls [name=gate]").select_option("always")
    page.locator("#controls [name='weight:a']").fill("0.9")
    page.locator("#controls [name='weight:b']").fill("0.1")
    page.get_by_text("Again with these settings").click()
    page.locator(".answer h2").get_by_text("weights a=0.9 b=0.1").wait_for()
    written(page, 2)
    texts.nth(1).locator(".piece").first.hover()
    assert page.locator("#pane h3").nth(1).text_content() == "a, weight 0.90"
    page.locator("#colour").select_option("carrier")
    assert texts.nth(1).locator(".member-0").count() >= 10
    page.locator("#colour").select_option("entropy")
    assert texts.nth(0).locator("[class*=heat-]").count() == 12


def test_the_strip_counts_the_pieces_that_would_have_been_asked(server: Process, page: Any) -> None:
    begin(page, server.url)
    send(page, "Hello")
    written(page)
    strip, threshold = page.locator(".strip"), page.get_by_label("Threshold of the gate")
    for value, count in (("1", 12), ("0", 0)):
        threshold.fill(value)
        assert f"at {count} of 12 pieces" in strip.locator("output").text_content()


def test_an_answer_goes_on_from_any_piece_and_from_the_chosen_one_as_it_did(server: Process, page: Any) -> None:
    begin(page, server.url)
    send(page, "Hello")
    text = written(page)
    text.locator(".piece").nth(4).click()
    words = page.locator(".columns section").first.locator("button.chosen .words").text_content()
    page.locator(".columns section").first.locator("button.chosen").click()
    written(page, 2)
    assert page.locator(".answer h2").nth(1).text_content() == f"on from {words}, piece 5"
    assert page.locator(".parting").text_content() == f"on from {words}, piece 5 is as duo."
    first, again = (shown(page.locator(".answer .text").nth(place)) for place in range(2))
    assert again == first
    page.locator(".columns section").first.locator("button:not(.chosen)").first.click()
    page.locator(".answer h2").nth(1).get_by_text("at piece 5").wait_for()
    other = shown(written(page, 2).nth(1))
    assert other[:4] == first[:4]
    assert page.locator(".answer").nth(1).locator(".is-taken").count() == 1
    assert page.locator(".tree li").count() == 3
    assert "at piece 5" in page.locator(".parting").text_content()


def test_a_conversation_outlives_a_reload_and_another_tab(server: Process, page: Any) -> None:
    begin(page, server.url)
    send(page, "Hello")
    before = shown(written(page))
    tab = page.context.new_page()
    begin(tab, server.url)
    assert tab.locator(".turn").count() == 0
    send(tab, "Hello")
    assert shown(written(tab)) == before
    page.reload()
    assert shown(written(page)) == before
    page.locator(".piece").nth(2).hover()
    assert page.locator("#pane .where").text_content() == "piece 3 of 12, duo"
    page.locator("#model option").first.wait_for(state="attached")
    send(page, "the dog")
    page.locator(".turn").nth(1).locator(".answer[data-state=done]").wait_for()
    page.get_by_text("New conversation").click()
    assert page.locator(".turn").count() == 0


def test_a_server_that_dies_in_the_middle_is_told_in_words(tmp_path: Path, page: Any) -> None:
    with process(tmp_path, 40) as served:
        begin(page, served.url, 200)
        send(page, "Hello")
        page.locator(".piece").nth(2).wait_for()
        served.process.kill()
        page.locator(".foot.problem").wait_for()
    assert LOST in page.locator(".foot").text_content()
    assert page.locator("#status").text_content() == LOST
    assert page.locator(".piece").count() >= 3
    send(page, "Are you there?")
    page.get_by_text("The server cannot be reached.").first.wait_for()


DRAWN = """
() => {
  window.drawn = [];
  new MutationObserver(() => {
    const count = document.querySelectorAll(".piece").length;
    if (count !== window.drawn.at(-1)?.count) window.drawn.push({ count, moves: document.getAnimations().length });
  }).observe(document.querySelector("#conversation"), { subtree: true, childList: true });
}
"""


def test_an_answer_comes_in_few_drawings_can_be_stopped_and_outlives_a_reload_as_far_as_it_came(
    tmp_path: Path, page: Any
) -> None:
    with process(tmp_path, 40) as served:
        begin(page, served.url, 200)
        page.evaluate(DRAWN)
        send(page, "Hello")
        page.locator(".piece").nth(20).wait_for()
        page.get_by_text("Stop", exact=True).click()
        page.locator(".answer[data-state=stopped]").wait_for()
        drawn = page.evaluate("window.drawn")
        assert 3 <= len(drawn) <= drawn[-1]["count"] / 2, drawn
        assert not any(each["moves"] for each in drawn)
        assert page.locator("#send").is_enabled()
        assert (page.locator("#status").text_content() or "").startswith("Stopped. duo: ")
        send(page, "Hello")
        page.locator(".answer").nth(1).locator(".piece").nth(2).wait_for()
        page.reload()
        assert page.locator(".foot.problem").count() == 1  # its connection, or the page, went away
        assert page.locator(".answer").nth(1).locator(".piece").count() >= 3


def test_a_key_is_asked_for_and_kept_in_the_tab(tmp_path: Path, page: Any) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text(KEY)
    with process(tmp_path, 1, "--api-key-file", keys) as served:
        page.goto(served.url)
        for key in ("a-wrong-key-of-some-length", KEY):
            page.locator("#ask-key[open]").wait_for()
            page.locator("#key").fill(key)
            page.keyboard.press("Enter")
        page.locator("#model option").first.wait_for(state="attached")
        page.reload()
        page.locator("#model option").first.wait_for(state="attached")
        assert KEY not in page.content()


def test_it_fits_a_phone(server: Process, page: Any) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    begin(page, server.url)
    send(page, "Hello")
    written(page)
    page.get_by_text("Beside each member alone").click()
    written(page, 3)
    page.locator(".piece").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_the_page_needs_no_key_and_lets_nothing_else_run(server: Process) -> None:
    answer = httpx2.get(server.url)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    for name in re.findall(r'(?:src|href)="/(page/[^"]+)"', answer.text):
        its = httpx2.get(f"{server.url}/{name}")
        assert (its.status_code, its.headers["x-content-type-options"]) == (200, "nosniff")
    assert httpx2.get(f"{server.url}/page/nothing.js").status_code == 404
    assert httpx2.get(server.url, headers={"host": "elsewhere.example"}).status_code == 403
