"""Prompts that are scored through the server: as the library scores them, of an ensemble and of a member alone."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from support.fakes import WORDS, make_fakes, storyteller
from support.real_server import SAY, A, B, Served, load_fakes, serving
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.engine.request import Ended, Event, GenerationRequest
from unisono.engine.scoring import AT_ONCE
from unisono.errors import PromptError, SpecError
from unisono.records import PieceScore
from unisono.server.chat_answers import CompletionResponse
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, register_fake

LONG = "the cat sings so it sees " * 12


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_fakes()
    gated = {"members": [A, B], "lead": "a", "gate": "confidence:0.5", "sampling": "0.7 top_k:3"}
    with serving({"duo": {"members": [A, B]}, "gated": gated}) as server:
        yield server
    FAKE_MODELS.clear()


def ask(served: Served, **keys: Any) -> Any:
    body = {"model": "duo", "max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0, **keys}
    response = served.post("/v1/completions", body)
    assert response.status_code == 200, response.text
    return response.json()


def known(served: Served, model: str, text: str) -> Sequence[PieceScore]:
    """What the library says of a text after its first piece, and of this nothing."""
    engine = served.service.engines[model]
    [first, *_] = engine.score([(Prompt(text="the"), text)])[0].pieces
    begin = (first.piece or b"").decode()
    return [first, *engine.score([(Prompt(text=begin), text.removeprefix(begin))])[0].pieces]


@pytest.mark.parametrize("model", ["duo", "duo/a", "gated"])
@pytest.mark.parametrize("text", ["the cat", "so it 日本 sings", LONG])
def test_an_echoed_prompt_is_scored_as_the_library_scores_it(served: Served, model: str, text: str) -> None:
    for more in ({"max_tokens": 0}, {"max_tokens": 2}):
        answer = ask(served, model=model, prompt=text, **more)
        [choice] = answer["choices"]
        found, pieces = choice["logprobs"], known(served, model, text)
        assert choice["text"].startswith(text)
        assert (choice["text"] == text) == (more["max_tokens"] == 0)
        count = len(pieces)
        assert found["tokens"][0].strip() in ("t", "s", "the", "so")
        assert (found["token_logprobs"][0], found["top_logprobs"][0]) == (None, None)
        for number, piece in enumerate(pieces[1:], 1):
            assert math.isclose(found["token_logprobs"][number], piece.logp, abs_tol=1e-6)
            [top] = found["top_logprobs"][number].values()
            assert (found["token_logprobs"][number] == top) == piece.is_likeliest
        assert len({len(each) for each in found.values()}) == 1
        assert len(found["tokens"]) == count + answer["usage"]["completion_tokens"]
        assert "".join(choice["text"][place:] for place in found["text_offset"][:1]) == choice["text"]
    served.free()


def test_long_lists_are_written_while_others_are_answered(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    choice = CompletionResponse.choice
    monkeypatch.setattr(
        CompletionResponse, "choice", lambda *given: threads.append(threading.get_ident()) or choice(*given)
    )
    short = ask(served, model="duo", prompt=LONG, max_tokens=0)
    monkeypatch.setattr("unisono.server.answer.AT_ONCE", 0)
    assert ask(served, model="duo", prompt=LONG, max_tokens=0)["choices"] == short["choices"]
    assert len(set(threads)) == 2
    served.free()


@pytest.mark.parametrize("model", ["duo/a", "duo/b"])
def test_text_is_scored_as_its_own_token_ids(served: Served, model: str) -> None:
    encoder = served.service.engines[model].members[0].encoder
    ids = encoder.encode_text("so it 日本 sings")
    text, tokens = (ask(served, model=model, prompt=prompt)["choices"][0] for prompt in ("so it 日本 sings", ids))
    shown = len(ids) - (ids[0] == encoder.tokenizer.table.bos_id)
    assert len(text["logprobs"]["tokens"]) == shown + 1
    for name in ("tokens", "token_logprobs", "top_logprobs"):
        assert text["logprobs"][name][1:] == tokens["logprobs"][name][-shown:]


def test_what_follows_an_echoed_prompt_is_what_follows_it_otherwise(served: Served) -> None:
    keys: dict[str, Any] = {"prompt": ["the cat", "so it"], "max_tokens": 6, "temperature": 1, "seed": 5, "n": 2}
    scored, plain = ask(served, **keys), ask(served, **keys, echo=False)
    assert scored["usage"] == plain["usage"]
    for number, (one, other) in enumerate(zip(scored["choices"], plain["choices"], strict=True)):
        assert one["text"] == keys["prompt"][number // 2] + other["text"]
        its, others = one["logprobs"], other["logprobs"]
        ends = other["finish_reason"] == "stop"
        count = len(others["tokens"])
        assert its["tokens"][-count - ends :][:count] == others["tokens"]
        assert its["token_logprobs"][-count - ends :][:count] == others["token_logprobs"]
        assert not ends or its["tokens"][-1] == ""
    streamed = served.post("/v1/completions", {"model": "duo", "prompt": "the cat", "echo": True, "stream": True})
    assert streamed.status_code == 200


@pytest.mark.parametrize("model", ["duo/a", "duo/b"])
def test_token_ids_of_a_member_alone_are_read_and_scored_as_they_are(served: Served, model: str) -> None:
    engine = served.service.engines[model]
    encoder = engine.members[0].encoder
    context, text = encoder.tokenizer.encode("the cat"), "so it sings"
    ids = [*context, *encoder.tokenizer.encode(text)]
    answer = ask(served, model=model, prompt=[ids, ids[:-1]])
    assert answer["usage"]["prompt_tokens"] == 2 * len(ids) - 1
    for choice, its in zip(answer["choices"], (ids, ids[:-1]), strict=True):
        found = choice["logprobs"]
        assert len(found["tokens"]) == len(its) + 1
        [score] = engine.score(
            [
                (
                    Prompt(ids=its[:1]),
                    b"".join(engine.members[0].speller.vocabulary.pieces[token] or b"" for token in its[1:]).decode(),
                )
            ]
        )
        if [piece.piece for piece in score.pieces] == [token.encode() for token in found["tokens"][1:-1]]:
            known = [piece.logp for piece in score.pieces]
            assert found["token_logprobs"][1:-1] == pytest.approx(known, abs=1e-6)
    texts = [ask(served, model=model, prompt=given, max_tokens=5, logprobs=None, echo=False) for given in (ids, [ids])]
    assert texts[0]["choices"][0]["text"] == texts[1]["choices"][0]["text"]
    own = encoder.encode_text("the cat")
    plain = [
        ask(served, model=model, prompt=given, max_tokens=5, echo=False)["choices"][0] for given in (own, "the cat")
    ]
    assert plain[0] == plain[1]


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens", "n_predict"])
def test_echo_alone_and_with_nothing_to_write_returns_the_prompt(served: Served, limit: str) -> None:
    body = {"model": "duo", "prompt": "the cat", "echo": True, limit: 0}
    answer = served.post("/v1/completions", body).json()
    assert (answer["choices"][0]["text"], answer["choices"][0]["logprobs"]) == ("the cat", None)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 0


def test_a_prompt_is_scored_whole_or_refused_whatever_context_a_member_has(served: Served) -> None:
    text, seen = "the" + " 🎉" * 80, set[str]()
    for context in (300, 310, 312, 314, 330, 400):
        with contextlib.closing(Scored(context)) as scored:
            seen.add(scored.outcome(text))
    assert seen == {"refused", "whole"}


class Scored:
    """A service whose second member has a context of its own."""

    def __init__(self, context: int) -> None:
        self._service = load_fakes({"duo": {"members": [A, {**B, "context": context}]}})
        self.close = self._service.unload

    def outcome(self, text: str) -> str:
        request = GenerationRequest("", Prompt(text=text), model="duo", score=True, top_logprobs=1)
        try:
            prepared = self._service.prepare(request)
        except PromptError:
            return "refused"
        self._service.submit(prepared)
        events = list[Event]()
        while self._service.busy:
            events += self._service.step()
        last = events[-1]
        assert isinstance(last, Ended)
        return "whole" if len(last.generation.steps or ()) == len(prepared.given) else "cut short"


def test_texts_are_scored_and_written_in_the_same_steps(served: Served) -> None:
    engine, service = served.service.engines["duo"], served.service
    long = engine.prepare(GenerationRequest("", Prompt(text=LONG), score=True, model="duo", top_logprobs=1))
    assert len(long.given) > 2 * AT_ONCE
    wanted = known(served, "duo", LONG)
    bodies = [{"prompt": text, "max_tokens": most} for text, most in ((LONG, 0), ("so it", 20), (LONG, 3))]
    found = [ask(served, **body)["choices"][0]["logprobs"]["token_logprobs"] for body in bodies]
    assert found[0][1:] == pytest.approx([piece.logp for piece in wanted][1:], abs=1e-6)
    assert found[2][1 : len(wanted)] == pytest.approx(found[0][1:], abs=1e-6)
    request_id = service.submit(long)
    service.cancel(request_id)
    served.free()


def test_what_has_no_likelihood_cannot_be_given() -> None:
    make_fakes()
    service = load_fakes({"duo": {"members": [A, B]}}, alone=True)
    engine = service.engines["duo/a"]
    ends = sorted(engine.members[0].speller.vocabulary.end_ids)
    for ids in ([5, ends[0]], [5, 0], [5, 10**6]):
        request = GenerationRequest("", Prompt(ids=ids), score=True, model="duo/a")
        with pytest.raises(PromptError, match=r"no text|no token"):
            service.prepare(request)
    with pytest.raises(SpecError, match="messages"):
        service.prepare(GenerationRequest("", Prompt(messages=SAY), score=True, model="duo"))  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="one member's"):
        service.prepare(GenerationRequest("", Prompt(ids=[5]), model="duo"))
    service.submit(service.prepare(GenerationRequest("", Prompt(text="the cat"), score=True, model="duo")))
    [generation] = [event.generation for event in service.step() if isinstance(event, Ended)]
    assert (generation.text, generation.finish_reason) == ("he cat", "length")
    service.unload()


def test_a_prompt_that_fills_another_members_context_is_refused_and_never_cut_short() -> None:
    make_fakes()
    text = "the" + " 🎉" * 80
    outcomes = set()
    for context in range(310, 416, 3):
        service = load_fakes({"duo": {"members": [A, {**B, "context": context}]}})
        try:
            prepared = service.prepare(GenerationRequest("", Prompt(text=text), model="duo", score=True))
        except PromptError:
            outcomes.add("refused")
        else:
            service.submit(prepared)
            [ended] = [event for _ in range(9) for event in service.step() if isinstance(event, Ended)]
            assert (ended.generation.finish_reason, ended.generation.usage.pieces) == ("length", len(prepared.given))
            outcomes.add("scored")
        service.unload()
    assert outcomes == {"refused", "scored"}
    FAKE_MODELS.clear()


class Stripping(LongestMatchTokenizer):
    """Reads a text without the spaces around it, as some models' normalizers do."""

    def encode_prompt(self, text: str) -> list[int]:
        return super().encode_prompt(text.strip(" "))


def test_a_scored_prompt_begins_with_what_every_member_reads() -> None:
    make_fakes()
    table = byte_level_table(WORDS["a"])
    register_fake("stripping", FakeModel(Stripping(table), storyteller(table, 5)))
    service = load_fakes({"duo": {"members": [A, {"name": "s", "model": "fake:stripping"}]}})
    prepared = service.prepare(GenerationRequest("", Prompt(text="  the cat"), model="duo", score=True))
    assert all(prepared.ids.values())
    service.unload()
    FAKE_MODELS.clear()
