"""Prompts that are scored, as each kind of tokenizer reads them; ``prompt_logprobs``; and two requests as one call."""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.fakes import WORDS, make_fakes, storyteller
from support.real_server import A, B, Served, serving
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.server.alignment import align
from unisono.server.limits import ServerLimits
from unisono.server.logprobs import IMPOSSIBLE
from unisono.testing import (
    FakeModel,
    LongestMatchTokenizer,
    byte_level_table,
    register_fake,
    sentencepiece_table,
)
from unisono.vocab.normal_forms import NORMAL_FORMS
from unisono.vocab.tokenizer import TokenTable

ACCENTED = "caf\u0065\u0301 sees e\u0323\u0302"
"""In no normal form of composed characters."""


class Normalising(LongestMatchTokenizer):
    """Reads the composed form of a text, as Gemma's and many others do."""

    def __init__(self, table: TokenTable, form: Literal["NFC", "NFKC"]) -> None:
        super().__init__(table)
        self._form = form

    def encode_prompt(self, text: str) -> list[int]:
        return super().encode_prompt(unicodedata.normalize(self._form, text))


class Stripping(LongestMatchTokenizer):
    """Reads a text without the spaces around it."""

    def encode_prompt(self, text: str) -> list[int]:
        return super().encode_prompt(text.strip(" "))


WITH_BOS, WITHOUT = (sentencepiece_table(WORDS["b"], adds_bos=adds_bos) for adds_bos in (True, False))
BYTES, OPENED = (byte_level_table(WORDS["a"], adds_bos=adds_bos) for adds_bos in (False, True))
TOKENIZERS: dict[str, LongestMatchTokenizer] = {
    "space": LongestMatchTokenizer(WITHOUT, leading_space=True),
    "bos-space": LongestMatchTokenizer(WITH_BOS, leading_space=True),
    "bos": LongestMatchTokenizer(WITH_BOS),
    "bytes": LongestMatchTokenizer(BYTES),
    "nfc": Normalising(BYTES, "NFC"),
    "bos-nfkc": Normalising(OPENED, "NFKC"),
    "strips": Stripping(BYTES),
}
NORMALISING = {"members": [{"name": "n", "model": "fake:nfc"}, {"name": "s", "model": "fake:space"}]}
EVEN = [  # two members that begin with a BOS and add no space
    {"name": "bos", "model": "fake:bos", "weight": 2},
    {"name": "opened", "model": "fake:opened"},
]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_fakes()
    opened = LongestMatchTokenizer(OPENED)
    for seed, (name, tokenizer) in enumerate({**TOKENIZERS, "opened": opened}.items()):
        register_fake(name, FakeModel(tokenizer, storyteller(tokenizer.table, seed)))
    alone = {name: {"members": [{"name": "m", "model": f"fake:{name}"}]} for name in TOKENIZERS}
    weighed = {"members": EVEN, "combine": "mean weights:perplexity"}
    pairs = {"duo": {"members": [A, B]}, "even": {"members": EVEN}, "weighed": weighed, "normalising": NORMALISING}
    with serving({**alone, **pairs}) as server:
        yield server
    FAKE_MODELS.clear()


@pytest.fixture(scope="module")
def strict(served: Served) -> Iterator[Served]:
    with serving(limits=ServerLimits(strict=True)) as server:
        yield server


def ask(served: Served, **keys: Any) -> Any:
    response = served.post("/v1/completions", {"model": "duo", "max_tokens": 0, **keys})
    assert response.status_code == 200, response.text
    return response.json()


def scored(served: Served, **keys: Any) -> Any:
    [choice] = ask(served, echo=True, logprobs=2, **keys)["choices"]
    return choice


@pytest.mark.parametrize(
    "text", ["the cat", " the cat", "  the cat ", "日本", " 日本", "t", " ", ACCENTED, "x² e\u0301"]
)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_each_piece_of_a_text_has_its_place_and_the_likelihood_that_it_has_among_token_ids(
    served: Served, name: str, text: str
) -> None:
    tokenizer, model = TOKENIZERS[name], f"{name}/m"
    ids = served.service.engines[model].members[0].encoder.encode(Prompt(text=text))
    if not ids:
        refused = served.post("/v1/completions", {"model": model, "prompt": text, "echo": True, "max_tokens": 0})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_prompt")
        return
    choice, its_ids = (scored(served, model=model, prompt=prompt, prompt_logprobs=0) for prompt in (text, ids))
    found, known = choice["logprobs"], its_ids["logprobs"]
    has_bos = ids[:1] == [tokenizer.table.bos_id]
    assert len(known["tokens"]) == len(ids)
    assert known["token_logprobs"][0] is None
    for key in ("tokens", "token_logprobs", "top_logprobs"):
        assert found[key] == known[key][has_bos:]
    assert (found["token_logprobs"][0] is None) == (not has_bos)
    assert None not in found["token_logprobs"][1:]
    assert choice["prompt_logprobs"] == its_ids["prompt_logprobs"]
    assert [each and next(iter(each.values()))["logprob"] for each in choice["prompt_logprobs"]] == (
        known["token_logprobs"]
    )
    assert choice["text"] == text
    assert_in_place(found["tokens"], found["text_offset"], text)


def assert_in_place(tokens: list[str], offsets: list[int], text: str) -> None:
    """Whole characters begin where the text has them, in its own form or composed, but for a space that was added."""
    assert offsets == sorted(offsets)
    for place, (token, offset) in enumerate(zip(tokens, offsets, strict=True)):
        rest = [text[offset:], *(unicodedata.normalize(form, text[offset:]) for form in ("NFC", "NFKC"))]
        shown = token.removeprefix(" ") if place == 0 and not text.startswith(" ") else token
        assert token.startswith("bytes:") or any(each.startswith(shown) for each in rest), (token, offset)


@pytest.mark.parametrize("model", ["duo", "even", "normalising"])
@pytest.mark.parametrize("text", ["the cat", "  the cat ", "日本", ACCENTED])
def test_the_pieces_that_several_members_share_are_the_text(served: Served, model: str, text: str) -> None:
    choice = scored(served, model=model, prompt=text, prompt_logprobs=0)
    found = choice["logprobs"]
    assert b"".join(map(piece_of, found["tokens"])).decode() == text
    assert_in_place(found["tokens"], found["text_offset"], text)
    assert [value is None for value in found["token_logprobs"]] == [True] + [False] * (len(found["tokens"]) - 1)
    assert len(choice["prompt_logprobs"]) == len(found["tokens"])


def test_offsets_by_hand(served: Served) -> None:
    for model, text, tokens, offsets in (
        ("space/m", "日本", [" ", "日"], [0, 0]),
        ("space/m", " the t", [" ", " the", " ", "t"], [0, 0, 4, 5]),
        ("bos-space/m", "the t", [" the", " ", "t"], [0, 3, 4]),
        ("nfc/m", "e\u0301 日本", ["bytes:\\xc3", "bytes:\\xa9", " ", "日本"], [0, 0, 2, 3]),
        ("strips/m", "  日本", ["日本"], [2]),
        ("bytes/m", "t", ["t"], [0]),
    ):
        found = scored(served, model=model, prompt=text)["logprobs"]
        assert found["tokens"][: len(tokens)] == tokens
        assert found["text_offset"][: len(offsets)] == offsets


@pytest.mark.parametrize("model", ["space/m", "bos-space/m", "nfc/m"])
def test_what_is_written_stands_after_the_text_whatever_was_read_of_it(served: Served, model: str) -> None:
    text = "e\u0301 the"
    choice = scored(served, model=model, prompt=text, max_tokens=8, ignore_eos=True)
    tokens, offsets = (choice["logprobs"][key][-8:] for key in ("tokens", "text_offset"))
    assert offsets[0] == len(text)
    for token, offset in zip(tokens, offsets, strict=True):
        assert token.startswith("bytes:") or choice["text"][offset:].startswith(token)


@pytest.mark.parametrize(("model", "prompt"), [("duo", "t"), ("bytes/m", "t"), ("bytes/m", [100]), ("space/m", [1])])
def test_a_prompt_of_one_piece_has_no_likelihood_and_is_written_on(served: Served, model: str, prompt: Any) -> None:
    for most in (0, 3):
        keys = {"model": model, "prompt": prompt, "max_tokens": most, "ignore_eos": most > 0}
        choice = scored(served, **keys, prompt_logprobs=1)
        lists = choice["logprobs"]
        assert (lists["token_logprobs"][0], lists["top_logprobs"][0], choice["prompt_logprobs"]) == (None, None, [None])
        assert len(lists["tokens"]) == 1 + most
        if most:
            plain = ask(served, **keys)["choices"][0]["text"]
            assert choice["text"].endswith(plain)
            assert None not in lists["token_logprobs"][1:]
        assert choice["finish_reason"] == "length"
    assert ask(served, model=model, prompt=prompt, echo=True)["usage"]["prompt_tokens"] == 1
    served.free()


def test_a_prompt_of_one_piece_is_scored_beside_longer_ones(served: Served) -> None:
    texts = ["t", "the cat", "t", "so it sings"]
    together = [choice["logprobs"] for choice in ask(served, prompt=texts, echo=True, logprobs=1)["choices"]]
    assert together == [scored(served, prompt=text)["logprobs"] | each_top(1, served, text) for text in texts]


def each_top(count: int, served: Served, text: str) -> dict[str, Any]:
    [choice] = ask(served, prompt=text, echo=True, logprobs=count)["choices"]
    return {"top_logprobs": choice["logprobs"]["top_logprobs"]}


@pytest.mark.parametrize("model", ["duo", "even", "bos-space/m", "space/m"])
def test_prompt_logprobs_are_those_of_echo_by_the_ids_of_the_pieces(served: Served, model: str) -> None:
    text = "the cat 日本"
    both = scored(served, model=model, prompt=text, prompt_logprobs=3)
    plain = ask(served, model=model, prompt=text, prompt_logprobs=3, max_tokens=2)["choices"][0]
    assert plain["prompt_logprobs"] == both["prompt_logprobs"]
    assert plain["logprobs"] is None
    assert not plain["text"].startswith(text)
    lists, entries = both["logprobs"], [each for each in both["prompt_logprobs"] if each]
    assert both["prompt_logprobs"][0] is None
    assert "prompt_logprobs" not in ask(served, model=model, prompt=text, max_tokens=2)["choices"][0]
    engine = served.service.engines[model]
    member = engine.members[0]
    for token, logprob, top, entry in zip(
        *(lists[key][-len(entries) :] for key in ("tokens", "token_logprobs", "top_logprobs")), entries, strict=True
    ):
        [(own, first), *rest] = entry.items()
        assert first["logprob"] == logprob
        assert token.startswith("bytes:") or first["decoded_token"] == token
        column = int(own) if "/" not in model else int(member.map.column_V[int(own)])
        assert engine.union.piece(column) == piece_of(token)
        ranks = {each["rank"]: each["logprob"] for each in entry.values()}
        assert sorted(ranks)[:3] == [1, 2, 3]
        assert len(entry) == (3 if first["rank"] <= 3 else 4)
        assert [each["rank"] for _, each in rest] == sorted(each["rank"] for _, each in rest)
        assert [ranks[rank] for rank in sorted(ranks)] == sorted(ranks.values(), reverse=True)
        assert list(top.values()) == [ranks[1], ranks[2]]
    pieces = served.post("/v1/pieces", {"model": model, "text": text}).json()["data"]
    assert [str(piece["id"]) for piece in pieces[-3:]] == [next(iter(entry)) for entry in entries[-3:]]


def piece_of(token: str) -> bytes:
    return bytes.fromhex(token[6:].replace("\\x", "")) if token.startswith("bytes:") else token.encode()


def test_a_rank_counts_all_pieces_that_are_likelier(served: Served) -> None:
    """Of what no member would write there, too: with all but one piece cut off, the others are as unlikely."""
    cut = {"unisono": {"sampling": {"member_top_k": 1}}}
    [choice] = ask(served, prompt="t 日本", prompt_logprobs=2, model="bytes/m", **cut)["choices"]
    for entry in choice["prompt_logprobs"][1:]:
        [(own, first), *_] = entry.items()
        likeliest = min(entry.values(), key=lambda each: each["rank"])
        assert likeliest["logprob"] == pytest.approx(0, abs=1e-6)
        if first["rank"] > 1:
            assert first["logprob"] == IMPOSSIBLE
            assert first["rank"] - 2 <= int(own)
    wide = ask(served, prompt="the cat", prompt_logprobs=20)["choices"][0]["prompt_logprobs"]
    for entry in wide[1:]:
        own = next(iter(entry))
        by_likelihood = sorted(entry.values(), key=lambda each: -each["logprob"])
        assert entry[own]["rank"] > 20 or by_likelihood[entry[own]["rank"] - 1] == entry[own]


def test_a_strict_server_honours_them_too(served: Served, strict: Served) -> None:
    keys: dict[str, Any] = {"prompt": "the cat", "prompt_logprobs": 2, "max_tokens": 1}
    assert ask(strict, **keys)["choices"] == ask(served, **keys)["choices"]


def test_texts_of_several_prompts_each_have_the_list_of_their_prompt(served: Served) -> None:
    keys: dict[str, Any] = {"prompt": ["the cat", "so it"], "max_tokens": 3, "n": 2, "temperature": 1, "seed": 4}
    listed, plain = ask(served, **keys, prompt_logprobs=1), ask(served, **keys)
    assert [each["text"] for each in listed["choices"]] == [each["text"] for each in plain["choices"]]
    assert listed["usage"] == plain["usage"]
    alone = [ask(served, prompt=text, prompt_logprobs=1)["choices"][0] for text in keys["prompt"]]
    assert [each["prompt_logprobs"] for each in listed["choices"]] == [
        each["prompt_logprobs"] for each in alone for _ in range(2)
    ]
    assert [each["text"] for each in alone] == ["", ""]


def test_a_scored_prompt_has_the_weights_of_a_text_before_which_nothing_was_asked(served: Served) -> None:
    """As `Engine.score` weighs after an empty prompt; the text that follows has those of the whole prompt."""
    text, engine = "the cat sees it", served.service.engines["weighed"]
    found = scored(served, model="weighed", prompt=text)["logprobs"]
    [whole] = engine.score([(Prompt(text=""), text)])
    assert found["tokens"] == [(piece.piece or b"").decode() for piece in whole.pieces]
    assert found["token_logprobs"][1:] == pytest.approx([piece.logp for piece in whole.pieces[1:]], abs=1e-6)
    assert found == scored(served, model="even", prompt=text)["logprobs"]
    first = found["tokens"][0]
    [asked] = engine.score([(Prompt(text=first), text.removeprefix(first))])
    assert [piece.logp for piece in asked.pieces] != pytest.approx(found["token_logprobs"][1:], abs=1e-3)
    keys: dict[str, Any] = {"model": "weighed", "prompt": text, "max_tokens": 6}
    one, other = (ask(served, **keys, logprobs=1, **more)["choices"][0] for more in ({"echo": True}, {}))
    assert one["text"] == text + other["text"]
    ends = other["finish_reason"] == "stop"
    count = len(other["logprobs"]["tokens"])
    assert one["logprobs"]["token_logprobs"][len(found["tokens"]) :][:count] == other["logprobs"]["token_logprobs"]
    assert len(one["logprobs"]["tokens"]) == len(found["tokens"]) + count + ends


def test_a_prompt_that_is_scored_and_written_on_is_queued_and_cancelled_as_a_whole() -> None:
    make_fakes()
    body = {"model": "duo", "prompt": "the cat", "echo": True, "logprobs": 1, "max_tokens": 2}
    with serving(batch=1, queue=2) as served:
        known = ask(served, **body)
        many = served.post("/v1/completions", {**body, "prompt": ["the cat", "so it"]})
        assert many.status_code == 400
        assert "a list of 2, each scored and written on" in many.json()["error"]["message"]
        running = [threading.Thread(target=long_text, args=(served,)) for _ in range(2)]
        for thread in running:
            thread.start()
        served.wait(lambda: served.service.waiting == 1 and served.service.served == 1)
        refused = served.post("/v1/completions", body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert (served.service.waiting, served.service.served) == (1, 1)
        for call in list(served.engine._calls):
            served.call(lambda call=call: call.fail(RuntimeError("enough")))  # type: ignore[misc]
        for thread in running:
            thread.join(20)
        served.free()
        assert ask(served, **body)["choices"] == known["choices"]
        begun = threading.Thread(target=served.post, args=("/v1/completions", {**body, "max_tokens": 3000}))
        begun.start()
        served.wait(lambda: served.service.waiting == 1)
        for call in list(served.engine._calls):
            served.call(lambda call=call: call.fail(RuntimeError("enough")))  # type: ignore[misc]
        begun.join(20)
        served.free()
    FAKE_MODELS.clear()


def long_text(served: Served) -> None:
    served.post("/v1/completions", {"model": "duo", "prompt": "the", "max_tokens": 4000, "ignore_eos": True})


TEXTS = st.text(st.sampled_from("ab é\u0301\u0323\u0302e\u1100\u1161\u11a8가ﬁ日"), max_size=12)


@given(TEXTS, st.sampled_from([None, *NORMAL_FORMS]), st.integers(0, 2))
def test_what_was_read_of_a_text_is_found_in_it(text: str, form: Any, added: int) -> None:
    read = " " * added + (unicodedata.normalize(form, text) if form else text)
    places = align(read, text)
    assert len(places) == len(read) + 1
    assert places == sorted(places)
    assert places[-1] == len(text)
    for place, start in enumerate(places):
        before = unicodedata.normalize(form, text[:start]) if form else text[:start]
        assert len(before) <= place
        if places[place - 1 : place] != [start]:  # it begins there
            assert read[:place].replace(" ", "") == before.replace(" ", "")


@pytest.mark.parametrize(
    ("read", "text", "places"),
    [
        (" the", " the", [0, 1, 2, 3, 4]),
        (" the", "the", [0, 0, 1, 2, 3]),
        ("  the", " the", [0, 0, 1, 2, 3, 4]),
        ("the", "  the ", [2, 3, 4, 6]),
        ("a , b", "a, b", [0, 1, 1, 2, 3, 4]),
        ("é!", "e\u0301!", [0, 2, 3]),
        ("fi!", "ﬁ!", [0, 0, 1, 2]),
        ("가", "\u1100\u1161", [0, 2]),
        ("other", "text", [0, 1, 2, 3, 4, 4]),
    ],
)
def test_characters_begin_where_their_text_does(read: str, text: str, places: list[int]) -> None:
    assert align(read, text) == places
