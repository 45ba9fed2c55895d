"""Choosing a piece by mouse and by keys, and going on from it."""

from __future__ import annotations

import json
from typing import Any

from support.served_page import DUO, ServedPage, letters, refused, streamed
from support.traces import step

ASKED = {"trace": True, "chunk_seconds": 0.2}


def test_a_click_pins_a_piece_until_it_is_released(served: ServedPage, page: Any) -> None:
    served.open()
    served.send("Hello")
    pieces = page.locator(".piece")
    pieces.nth(1).click()
    pieces.nth(3).hover()
    assert served.where == "piece 2"
    page.keyboard.press("Escape")
    pieces.nth(4).hover()
    assert served.where == "piece 5"
    for _ in range(2):
        pieces.nth(4).click()
    pieces.nth(0).hover()
    assert served.where == "piece 1"
    pieces.nth(2).click()
    pieces.nth(3).click()  # which moves the pin
    pieces.nth(0).hover()
    assert served.where == "piece 4"


def test_keys_go_from_a_piece_to_the_pane_and_back(served: ServedPage, page: Any) -> None:
    served.open()
    for words in ("Hello", "Once more"):
        served.send(words)
    text = page.locator(".text").first
    text.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#piece").text_content() == "Piece 2, “b”: All that were asked agreed."
    page.keyboard.press("Enter")
    assert page.locator("#pane button").first.evaluate("row => row === document.activeElement")
    page.locator(".text").nth(1).focus()  # on the way by Tab, other texts do not take the pane
    assert page.locator("#pane .where").text_content() == "piece 2 of 6, duo"
    page.locator("#pane button").nth(1).focus()
    page.keyboard.press("Escape")
    assert text.evaluate("text => text === document.activeElement")
    assert served.where == "piece 2"
    assert page.locator("[role=listbox], [role=option], #pane[aria-live]").count() == 0


def test_a_subtracted_member_carries_no_piece_and_is_shown_as_such(served: ServedPage, page: Any) -> None:
    members = [{"name": name, "weight": weight} for name, weight in {"a": 1.0, "b": 1.0, "c": -1.0}.items()]
    signed = {**DUO, "members": members, "combine": "logits"}
    served.models = (200, json.dumps({"data": [{"id": "duo", "unisono": signed}]}))
    sure, other = [{"bytes": [120], "p": 0.9}], [{"bytes": [121], "p": 0.9}]
    told = step(b"x", members={"a": 0.0, "b": 0.1, "c": 0.9}, top={"a": other, "b": sure, "c": other})
    vote = {**told, "kind": "overruled", "winners": ["b"], "subtracted": ["c"]}
    served.answer = lambda _request: streamed([vote, {**vote, "members": {"c": 0.9}}], signed)
    served.open()
    served.send("Hello")
    page.locator(".piece").first.click()
    assert page.locator("#pane .sentence").text_content() == "b carried it; a would have written “y”."
    assert page.locator("#pane h3").all_text_contents()[-1] == "c, subtracted, weight \u22121.00"
    page.locator("#colour").select_option("carrier")
    assert page.locator("#legend li").all_text_contents() == ["abc a", "abc b"]
    assert [each.get_attribute("class").split()[2] for each in page.locator(".piece").all()] == [
        "member-1",
        "member-none",
    ]
    page.locator("#settings summary").click()
    assert page.locator("#controls [name=lead] option").all_text_contents() == ["a", "b"]
    assert page.locator("#controls [name='weight:a']").is_disabled()


def test_keys_follow_the_direction_of_the_text(served: ServedPage, page: Any) -> None:
    served.answer = lambda _request: streamed([step(letter.encode()) for letter in "שלום"])
    served.open()
    served.send("Hello")
    page.locator(".text").focus()
    for key, where in (("ArrowLeft", "piece 2"), ("ArrowLeft", "piece 3"), ("ArrowRight", "piece 2")):
        page.keyboard.press(key)
        assert served.where == where


def test_each_line_has_the_direction_of_its_own_letters(served: ServedPage, page: Any) -> None:
    pieces = ("שלום", ".", "\n1 ", "Hello", ".")
    served.answer = lambda _request: streamed([step(piece.encode()) for piece in pieces])
    served.open()
    served.send("Hello")
    page.locator(".text").focus()
    spans = [page.locator(f".piece >> nth={place}").bounding_box() for place in range(len(pieces))]
    assert spans[1]["x"] < spans[0]["x"]
    assert spans[3]["x"] < spans[4]["x"] < spans[1]["x"]
    for key, where in (("ArrowLeft", "piece 2"), ("ArrowLeft", "piece 3"), ("ArrowRight", "piece 4")):
        page.keyboard.press(key)
        assert served.where == where


def test_bytes_that_are_shown_by_their_numbers_do_not_turn_their_line(served: ServedPage, page: Any) -> None:
    letter = "ش".encode()
    served.answer = lambda _request: streamed([step(letter[:1]), step(letter[1:]), step("لام".encode())])
    served.open()
    served.send("Hello")
    first, *others = [page.locator(f".piece >> nth={place}").bounding_box()["x"] for place in range(3)]
    assert all(other < first for other in others)


def test_a_branch_asks_what_its_parent_asked(served: ServedPage, page: Any) -> None:
    served.open()
    page.locator("#settings summary").click()
    page.locator("#controls [name=max_tokens]").fill("6")
    page.locator("#controls [name=temperature]").fill("1")
    served.answer = lambda _request: streamed(letters(6), seed=2**53 - 1)
    for words in ("Hello", "Once more"):
        served.send(words)
    served.answer = lambda _request: streamed([step(b"z")], seed=5)
    page.get_by_text("Again with these settings").first.click()  # the conversation would go on from this one
    page.locator(".tree li").nth(1).wait_for()
    page.locator("#send:enabled").wait_for()
    for place in (2, 5):
        page.locator(".turn").nth(1).locator(".text").first.locator(".piece").nth(place).click()
        with page.expect_request("**/v1/chat/completions"):
            page.locator("#pane button.chosen").first.click()
        page.locator("#send:enabled").wait_for()
    _, parent, _, branch, last = served.sent
    assert branch["messages"] == parent["messages"]
    assert branch["messages"][1]["content"] == "abcdef"
    assert (branch["max_tokens"], branch["seed"]) == (3, 2**53 - 1)
    assert [bytes(each["bytes"]) for each in branch["prefill"]] == [b"a", b"b", b"c"]
    assert last["max_tokens"] == 1


def test_answers_without_a_text_are_no_part_of_the_history(served: ServedPage, page: Any) -> None:
    served.open()
    served.answer = lambda _request: refused(503, "the queue is full")
    served.send("Hello")
    page.locator(".foot.problem").wait_for()
    served.answer = lambda _request: streamed(letters(2))
    served.send("Once more")
    assert served.sent[1]["messages"] == [{"role": "user", "content": "Once more"}]


def test_settings_send_what_is_changed_and_nothing_else(served: ServedPage, page: Any) -> None:
    told = json.loads(served.models[1])
    told["data"][0]["unisono"]["gate"] = {"kind": "confidence", "parameter": 0.5, "boundary": True}
    served.models = (200, json.dumps(told))
    served.open()
    page.locator("#settings summary").click()
    page.locator("#controls [name='weight:a']").fill("")
    served.send("Hello")
    assert served.sent[0]["unisono"] == ASKED
    page.locator("#controls [name=threshold]").fill("0.3")
    served.send("Hello")
    assert served.sent[1]["unisono"] == {**ASKED, "gate": "confidence:0.3 boundary"}
    page.locator("#controls [name=threshold]").fill("")
    page.locator("#controls [name='weight:b']").fill("0.1")
    served.send("Hello")
    assert served.sent[2]["unisono"] == {**ASKED, "weights": {"a": 0.5, "b": 0.1}}
    page.locator("#controls [name=max_tokens]").fill("0")  # which the server refuses in words
    served.send("Hello")
    assert served.sent[3]["max_tokens"] == 0


def test_a_piece_is_told_in_one_sentence_also_where_little_is_known_of_it(served: ServedPage, page: Any) -> None:
    top = {"a": [{"bytes": [97], "p": 0.5}], "b": [{"bytes": [98], "p": 0.5}]}
    known = {"kind": "carried", "winners": ["a"]}
    bare = step(b"a", **known)
    del bare["top"]
    served.answer = lambda _request: streamed([step(b"a", top=top, **known), bare])
    served.open()
    served.send("Hello")
    sentences = []
    for place in range(2):
        page.locator(".piece").nth(place).hover()
        sentences.append(page.locator("#pane .sentence").text_content())
    assert sentences == [
        "a carried it; b would have written “b”.",
        "Some would have written something else, not the lead.",
    ]
