"""The items of responses, from what models write, and the conversations that are kept of them."""

from __future__ import annotations

import codecs
import json
from types import SimpleNamespace
from typing import Any

import pytest

from support.tool_templates import PING, WEATHER
from unisono.chat.call_form import CallForm
from unisono.chat.messages import Prompt
from unisono.engine.beginning import Beginning
from unisono.engine.request import Ended, GenerationRequest, Wrote
from unisono.records import Finish, Generation, Limits, Seconds, Usage
from unisono.server.call_reader import Calling
from unisono.server.errors import Refusal
from unisono.server.responses_api.answers import ResponseAnswer
from unisono.server.responses_api.items import Conversation
from unisono.server.responses_api.requests import ResponseCall, own_items
from unisono.server.responses_api.schemas import ResponseRequest
from unisono.server.responses_api.store import ResponseStore, Stored
from unisono.step_records import StepRecord

FORM = CallForm("<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>", "name", "arguments")
CALLING = Calling((WEATHER, PING), FORM, None)
CALL = '<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>'
CUT = 'So: <tool_call>\n{"name": "get_weather", "arguments": {"city": "Pa'


def answered(
    pieces: list[str | bytes], *, finish: Finish = "end", stream: bool = False, calling: Calling | None = CALLING,
    reasoning: str = "", begin: Any = None, store: ResponseStore | None = None, text: Any = "the cat",
    inside: bool = False, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """The response to an answer that is written in such pieces."""
    request = GenerationRequest("", Prompt(text="x"), Limits(99), begin=begin)
    asked = ResponseRequest(model="duo", input=text, **more.pop("asked", {}))
    call = ResponseCall((request,), "a", stream, False, 0, calling=calling, asked=asked, own=own_items(asked), **more)
    answer = ResponseAnswer(call, ResponseStore(9) if store is None else store)
    whole = [piece.encode() if isinstance(piece, str) else piece for piece in pieces]
    steps = tuple(StepRecord(piece, 0.5, ("a",), {"a": 0.5}) for piece in whole)
    data = b"".join(whole)
    usage, seconds = Usage({"a": 1}, len(pieces), 0), Seconds(1.0, 1.0, {})
    generation = Generation(data.decode(errors="ignore"), data, finish, usage, seconds, reasoning or None, None, steps)
    bodies: list[bytes] = []
    if stream:
        events = [Wrote("r", 0, "", (), reasoning)] * bool(reasoning)
        decode = codecs.getincrementaldecoder("utf-8")().decode
        events += [Wrote("r", 0, decode(step.piece or b""), (step,)) for step in steps]
        for event in (*events, Ended("r", 0, generation)):
            bodies += answer.chunks(0, event)
    bodies += answer.last_bodies(
        SimpleNamespace(ended={0: generation}, prepared=[SimpleNamespace(begins_inside=inside)])
    )  # type: ignore[arg-type]
    last = json.loads(bodies[-1])
    response: dict[str, Any] = last["response"] if stream else last
    return response


def told(response: dict[str, Any]) -> list[Any]:
    """The items without their ids."""
    items = []
    for item in response["output"]:
        text = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        items.append((item["type"], item["status"], text))
    return items


def likely(response: dict[str, Any]) -> list[list[str]]:
    messages = [item for item in response["output"] if item["type"] == "message"]
    return [[entry["token"] for entry in item["content"][0]["logprobs"]] for item in messages]


@pytest.mark.parametrize(
    ("pieces", "finish", "items", "tokens"),
    [
        (["So:", " ", *CALL, " and", " so"], "end",
         [("message", "completed", "So:"), ("function_call", "completed", "{}"), ("message", "completed", " and so")],
         [["So:"], [" and", " so"]]),
        ([*CALL], "end", [("function_call", "completed", "{}")], []),
        ([*CUT], "length",
         [("message", "completed", "So:"), ("function_call", "incomplete", '{"city": "Pa')], [["S", "o", ":"]]),
        (["It", " is ", "日".encode()[:1], "日".encode()[1:], "本".encode()[:2]], "length",
         [("message", "incomplete", "It is 日")], [["It", " is ", "�", "��", "�"]]),
    ],
)  # fmt: skip
def test_the_same_items_come_whole_and_streamed(pieces: Any, finish: Finish, items: Any, tokens: Any) -> None:
    whole, streamed = (answered(pieces, finish=finish, stream=stream) for stream in (False, True))
    assert told(whole) == told(streamed) == items
    assert [len(each) for each in likely(whole)] == [len(each) for each in tokens]
    assert likely(whole) == likely(streamed)
    if all(isinstance(piece, str) for piece in pieces):
        assert likely(whole) == tokens


def test_an_answer_that_is_cut_off_within_reasoning_has_no_message() -> None:
    for stream in (False, True):
        cut = answered([], finish="length", reasoning="hm", stream=stream)
        assert told(cut) == [("reasoning", "incomplete", "hm")]
        assert told(answered([], reasoning="hm", stream=stream))[1] == ("message", "completed", "")


@pytest.mark.parametrize(
    ("begin", "more", "follows"),
    [
        ("The dog", {}, [("user", "the cat"), ("assistant", "The dog sees")]),
        (["reasoning_begin", b"hm", "reasoning_end", b"The"], {"reasoning": "so"},
         [("user", "the cat"), ("reasoning", "hmso"), ("assistant", "The sees")]),
        (["reasoning_begin", b"hm", "reasoning_end", b"The"], {},
         [("user", "the cat"), ("reasoning", "hm"), ("assistant", "The sees")]),
        ([b"hm"], {"reasoning": "so", "inside": True},
         [("user", "the cat"), ("reasoning", "hmso"), ("assistant", " sees")]),
        (None, {"text": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "prefix": True}],
                "continued": "b"},
         [("user", "a"), ("assistant", "b sees")]),
        (None, {"text": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "prefix": True},
                         {"type": "reasoning", "summary": []}], "continued": "b"},
         [("user", "a"), ("assistant", "b sees")]),
    ],
)  # fmt: skip
def test_what_follows_a_response_has_what_its_answer_began_with(begin: Any, more: Any, follows: Any) -> None:
    store = ResponseStore(9)
    if isinstance(begin, list):
        begin = Beginning(pieces=tuple(begin))
    response = answered([" sees"], begin=begin, store=store, **more)
    assert response["output"][-1]["content"][0]["text"] == " sees"
    items = store.conversation(response["id"], b"", 10_000)
    kinds = [item.get("role") or item["type"] for item in items]
    contents = [item["content"] for item in items]
    texts = [each if isinstance(each, str) else each[0]["text"] for each in contents]
    assert list(zip(kinds, texts, strict=True)) == follows
    told_back = json.loads(store.get(response["id"], b"").told)
    assert told_back["output"][-1]["content"][0]["text"] == " sees"
    assert "unisono" not in told_back


def test_a_call_behind_a_beginning_follows_its_text() -> None:
    store = ResponseStore(9)
    response = answered([*CALL], begin="Well:", store=store)
    kinds = [item["type"] for item in store.conversation(response["id"], b"", 10_000)]
    assert kinds == ["message", "message", "function_call"]


def test_probabilities_and_other_alphabets_do_not_make_a_conversation_too_long() -> None:
    store = ResponseStore(9)
    response = answered(["日本"] * 50, store=store, text="日" * 100)
    assert len(response["output"][0]["content"][0]["logprobs"]) == 50
    assert len(store.conversation(response["id"], b"", 1200)) == 2


def stored(owner: bytes, size: int) -> Stored:
    return Stored(owner, None, b"[]", b"[]", b"x" * (size - 4))


def test_who_keeps_most_gives_up_first() -> None:
    store = ResponseStore(5, 1000)
    assert store.put("theirs", stored(b"b", 100))
    assert all(store.put(f"mine{number}", stored(b"a", 400)) for number in range(4))
    assert store.get("theirs", b"b")
    assert [store._kept.keys() >= {f"mine{number}"} for number in range(4)] == [False, False, True, True]
    assert not store.put("large", stored(b"b", 1001))
    assert all(store.put(f"small{number}", stored(b"a", 10)) for number in range(9))
    assert store.get("theirs", b"b")
    store.delete("theirs", b"b")
    with pytest.raises(Refusal):
        store.get("theirs", b"b")
    assert store._bytes.total() == sum(each.size for each in store._kept.values())


def test_a_response_that_is_not_kept_says_so() -> None:
    assert answered(["So"], store=ResponseStore(9, 100))["store"] is False
    assert answered(["So"])["store"] is True


def read(*items: Any) -> tuple[list[Any], dict[int, str]]:
    conversation = Conversation(None)
    for number, item in enumerate(items):
        conversation.add(f"input[{number}]", item)
    return [message for _, message in conversation.messages], conversation.thoughts


def test_items_of_one_answer_are_one_message() -> None:
    says: Any = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b"}]}
    call: Any = {"type": "function_call", "name": "f", "call_id": "c", "arguments": "{}"}
    thought: Any = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]}
    user: Any = {"role": "user", "content": "a"}
    made = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    text = [{"type": "text", "text": "b"}]
    messages, thoughts = read(user, thought, says, call, says)
    assert messages == [user, {"role": "assistant", "content": text * 2, "tool_calls": [made]}]
    assert thoughts == {1: "hm"}
    messages, thoughts = read(user, thought, user, call, says)
    assert messages == [user, {"role": "assistant", "content": ""}, user,
                        {"role": "assistant", "content": text, "tool_calls": [made]}]  # fmt: skip
    assert thoughts == {1: "hm"}
    for calls in (None, []):
        messages, _ = read(user, {"role": "assistant", "content": "b", "tool_calls": calls}, call)
        assert messages[1]["tool_calls"] == [made]
    assert read(user, {"role": "assistant", "content": "b", "tool_calls": 5}, call)[0][1]["tool_calls"] == 5


def test_what_an_input_refers_to_stands_in_its_place_and_is_bounded() -> None:
    store = ResponseStore(2)
    response = answered([" sees"], begin="The cat", store=store)
    other = answered([CALL], store=store)
    refers = [{"type": "item_reference", "id": each["output"][-1]["id"]} for each in (response, other)]
    message, call, again = store.resolve([*refers, refers[0]], b"", 1000)
    assert message["content"][0]["text"] == "The cat sees"
    assert (call["name"], again) == ("ping", message)
    for most in (100, 400):
        with pytest.raises(Refusal, match="longer than"):
            store.resolve(refers[:1] * 9, b"", most)
    with pytest.raises(Refusal, match="which is no item of a response's output here"):
        store.resolve(refers, b"another", 1000)
    answered(["So"], store=store)  # the store keeps two
    with pytest.raises(Refusal) as lost:
        store.resolve(refers, b"", 1000)  # the first was asked for last
    assert lost.value.param == "input[1].id"
