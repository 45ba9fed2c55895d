"""Members that vote on bytes: held to the sum over all cuts, and to themselves alone."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from support.bytes_ensembles import EXACT, essence, load, written
from support.enumeration import Enumeration
from support.fakes import PROMPTS, STORY, fail, step_in_spite_of_failures
from unisono.backends.fake.backend import scripted_rule
from unisono.chat.messages import Prompt
from unisono.config.combine import Combine
from unisono.engine import byte_scoring
from unisono.engine.byte_cursor import ByteCursor
from unisono.engine.byte_reference import PlainBytes
from unisono.engine.byte_stepper import rows
from unisono.engine.engine import Engine
from unisono.engine.request import GenerationRequest
from unisono.ensemble import Ensemble
from unisono.errors import SpecError
from unisono.fusion.byte_beam import next_symbols
from unisono.records import Limits
from unisono.testing import (
    FakeModel,
    LongestMatchTokenizer,
    byte_level_table,
    register_fake,
    sentencepiece_table,
)

TEXTS = (b" then", b"the", b"n t")


pytestmark = pytest.mark.usefixtures("bytes_fakes")


def plain(engine: Engine, prompt: Prompt) -> list[PlainBytes]:
    return [
        PlainBytes(member, member.encoder.encode(prompt), opening=prompt.begins_answer and member.opens())
        for member in engine.members
    ]


@pytest.mark.parametrize("prompt", [PROMPTS[0], PROMPTS[6]])
@pytest.mark.parametrize("name", ["p", "q"])
def test_a_beam_that_drops_nothing_has_the_probability_of_all_cuts(name: str, prompt: Prompt) -> None:
    with load([name], EXACT) as ensemble:
        engine = ensemble._engine
        [oracle] = plain(engine, prompt)
        for text in TEXTS:
            sequence = engine.add(prompt)
            walk, runner = engine._bytes.walk(sequence), engine._runner
            written, likelihood = b"", 1.0
            for byte in text:
                while any(cursor.unread() for cursor in walk.voters.cursors.values()):
                    runner.read_rows(rows(walk))
                [cursor] = walk.voters.cursors.values()
                q_C = next_symbols([path.hypothesis for path in cursor.paths])
                np.testing.assert_allclose(q_C, oracle.next_symbols(written), rtol=1e-4, atol=1e-9)
                assert q_C.sum() == pytest.approx(1)
                likelihood *= q_C[byte]
                walk.take_byte(byte)
                written += bytes([byte])
            assert likelihood == pytest.approx(oracle.prefix(text), rel=1e-4)
            engine.drop(sequence)
        assert engine.members[0].backend.facts.slots == 2 * 64
        assert engine.free == engine.slots


@pytest.mark.parametrize("rule", ["mean", "geometric", "max", "minimum"])
@pytest.mark.parametrize("prompt", [PROMPTS[0], PROMPTS[6]])
def test_a_score_is_that_of_the_bytes_however_they_are_cut(rule: str, prompt: Prompt) -> None:
    texts = [" then the", "hen"]
    with load(["p", "q"], EXACT, combine=rule) as ensemble:
        engine = ensemble._engine
        oracles = plain(engine, prompt)
        scores = engine.score([(prompt, text) for text in texts])
        for text, score in zip(texts, scores, strict=True):
            data, expected = text.encode(), 0.0
            for place, byte in enumerate(data):
                q_KC = [oracle.next_symbols(data[:place])[None] for oracle in oracles]
                expected += math.log(Combine(rule)(q_KC, [0.5, 0.5])[0, byte])
            assert score.logp == pytest.approx(expected, rel=1e-4)
            assert b"".join(piece.piece or b"" for piece in score.pieces) == data
        assert engine.free == engine.slots
        alone = [engine.score([(prompt, text)])[0].logp for text in texts]
    assert alone == pytest.approx([score.logp for score in scores], rel=1e-6)


def test_a_text_is_scored_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [(Prompt(text=STORY), STORY[:40])]
    with load(["a", "b"], "bytes beam:8 least:0", batch=1) as ensemble:
        scores = []
        for block in (32, 5, 1):
            monkeypatch.setattr(byte_scoring, "AT_ONCE", block)
            scores += ensemble._engine.score(asked)
    for score in scores:
        assert score.logp == pytest.approx(scores[0].logp, rel=1e-6)
        assert [each.is_likeliest for each in score.pieces] == [each.is_likeliest for each in scores[0].pieces]


@pytest.mark.parametrize("name", ["a", "b", "c", "p", "q"])
def test_one_member_is_itself_when_it_is_greedy(name: str) -> None:
    with load([name], "union") as union, load([name]) as walked:
        for prompt in PROMPTS:
            of_union = written(union, prompt)
            of_bytes = written(walked, prompt)
            assert of_bytes.data == of_union.data
            assert [step.piece for step in of_bytes.steps or ()] == [step.piece for step in of_union.steps or ()]
            assert of_bytes.usage.parted == 0
            for one, other in zip(of_bytes.steps or (), of_union.steps or (), strict=True):
                assert one.p == pytest.approx(other.p, rel=1e-4)


def test_the_same_model_twice_is_that_model() -> None:
    with load(["a"]) as once, load(["a", "a"]) as twice:
        for prompt in PROMPTS:
            assert essence(written(twice, prompt)) == essence(written(once, prompt))


def test_order_changes_no_text() -> None:
    with load(["a", "b"], lead="b1") as one, load(["b", "a"], lead="b0") as other:
        for prompt in PROMPTS:
            assert essence(written(one, prompt)) == essence(written(other, prompt))


def test_cuts_that_part_are_walked_and_told() -> None:
    with load(["a", "b", "c"]) as ensemble:
        generation = written(ensemble, PROMPTS[4])
    steps = generation.steps or ()
    assert b"".join(step.piece or b"" for step in steps) == generation.data
    assert generation.usage.parted == sum(bool(step.walked) for step in steps)
    assert 0 < generation.usage.parted < len(steps)
    for step in steps:
        assert step.walked is not None
        assert 0 <= step.walked <= len(step.piece or b"") + (step.piece is None)
        assert 0 < step.p <= 1
        assert step.to_json()["walked"] == step.walked


def test_batches_change_no_text() -> None:
    for sampling in ("greedy", "1 seed:5"):
        with load(["a", "b"], sampling=sampling, batch=8) as ensemble:
            alone = [essence(written(ensemble, prompt)) for prompt in PROMPTS]
            engine = ensemble._engine
            texts = [engine.add(prompt, Limits(12), trace=True) for prompt in PROMPTS]
            while engine.active:
                engine.step()
            assert [essence(text.generation()) for text in texts] == alone
            assert engine.free == engine.slots


def test_several_texts_of_a_prompt_have_seeds_of_their_own() -> None:
    with load(["a", "b"], sampling="1 seed:7", batch=3) as ensemble:
        engine = ensemble._engine
        several = ensemble.generate(PROMPTS[0].text, max_new_tokens=6, n=3)
        alone = [
            ensemble.generate(PROMPTS[0].text, max_new_tokens=6, sampling=f"1 seed:{7 + more}") for more in range(3)
        ]
        assert [essence(each) for each in several] == [essence(each) for each in alone]
        assert engine.free == engine.slots


def test_a_failed_pass_changes_no_text() -> None:
    with load(["a", "b"], batch=4) as ensemble:
        expected = [essence(written(ensemble, prompt)) for prompt in PROMPTS[:4]]
        engine = ensemble._engine
        count = iter(range(10_000))
        fail(engine, "b1", lambda feeds: next(count) % 3 == 0)
        texts = [engine.add(prompt, Limits(12)) for prompt in PROMPTS[:4]]
        assert step_in_spite_of_failures(engine) > 3
        assert [essence(text.generation()) for text in texts] == expected
        assert engine.free == engine.slots


def test_stop_strings_and_the_least_length_hold() -> None:
    with load(["a", "b"]) as ensemble:
        free = ensemble.generate(PROMPTS[4].text, max_new_tokens=12)
        stop = free.text[3:6]
        stopped = ensemble.generate(PROMPTS[4].text, max_new_tokens=12, stop=stop)
        assert stopped.text == free.text[: free.text.index(stop)]
        assert stopped.finish_reason == "stop"
    table = byte_level_table(["ab"])
    rule = scripted_rule(table, {"": {"</s>": 0.6, "ab": 0.4}})
    for name in ("x", "y"):
        register_fake(name, FakeModel(LongestMatchTokenizer(table), rule))
    with load(["x", "y"]) as ensemble:
        request = {"prompt": "a", "max_new_tokens": 5}
        assert ensemble.generate(**request).text == ""
        engine = ensemble._engine
        text = engine.add(Prompt(text="a"), Limits(5, min_new_tokens=2))
        while engine.active:
            engine.step()
        assert text.generation().data == b"abab"


def test_a_grammar_masks_bytes() -> None:
    with load(["a", "b", "c"]) as ensemble:
        for sampling in ("greedy", "1 seed:2"):
            bound = ensemble.generate(
                PROMPTS[4].text, max_new_tokens=30, constraint="regex:(cat|dog|日本)+ends", sampling=sampling
            )
            assert re.fullmatch("(cat|dog|日本)+ends", bound.text) or bound.finish_reason == "length"
        free = ensemble.generate(PROMPTS[4].text, max_new_tokens=12)
        same = ensemble.generate(PROMPTS[4].text, max_new_tokens=12, constraint="regex:(.|\\n)*")
        assert same.text == free.text


def test_what_a_union_alone_tells_is_refused() -> None:
    with load(["a", "b"]) as ensemble:
        engine = ensemble._engine
        for request, words in (
            (GenerationRequest("", PROMPTS[0], top_logprobs=2), "logprobs"),
            (GenerationRequest("", PROMPTS[0], score=True), "the score of a prompt"),
            (GenerationRequest("", PROMPTS[0], begin="x", constraint="regex:x*"), "a beginning"),
        ):
            with pytest.raises(SpecError, match=f"{words}.* does not go with vocabulary: bytes"):
                engine.prepare(request)
        with pytest.raises(SpecError, match="one reading"):
            engine.setting()
        begun = ensemble.generate(PROMPTS[4].text, max_new_tokens=6, begin=" the cat")
        assert begun.usage.pieces == 6


def test_marks_are_chosen_beside_bytes() -> None:
    table = byte_level_table(["ab"])
    scripts = {
        "x": {"": {"<|user|>": 0.6, "ab": 0.4}, "b": {"</s>": 1.0}},
        "y": {"": {"ab": 0.9, "</s>": 0.1}, "b": {"</s>": 1.0}},
    }
    for name, script in scripts.items():
        model = FakeModel(LongestMatchTokenizer(table), scripted_rule(table, script))
        register_fake(name, model)
    marks = {"call_begin": "<|user|>", "call_end": "<|system|>"}
    members = [{"name": "x", "model": "fake:x", "marks": marks, "weight": 9}, {"name": "y", "model": "fake:y"}]
    for count in (1, 2):
        found = []
        for vocabulary in ("union", "bytes"):
            spec = {"members": members[:count], "vocabulary": vocabulary, "sampling": "greedy"}
            with Ensemble.load(spec, batch=2) as ensemble:
                written = ensemble.generate("z", max_new_tokens=3, trace=True)
                found.append([(step.mark, step.piece) for step in written.steps or ()])
                assert ensemble._engine.free == ensemble._engine.slots
        assert found[0] == found[1] == [("call_begin", b"")] * 3


def test_drawn_texts_are_distributed_as_the_members_texts_are() -> None:
    """Of one member: the sum over its cuts of each text, which is not what its own drawing shows piece by piece."""
    table = byte_level_table(["ab", "abc", "bc"])
    script = {
        "": {"ab": 0.3, "a": 0.3, "abc": 0.4},
        "ab": {"c": 0.5, "</s>": 0.5},
        "a": {"bc": 0.4, "b": 0.6},
        "bc": {"</s>": 1.0},
    }
    model = FakeModel(LongestMatchTokenizer(table), scripted_rule(table, script))
    register_fake("x", model)
    with load(["x"], EXACT, sampling="1 seed:0") as ensemble:
        drawn = Enumeration(lambda: ensemble.generate("z", max_new_tokens=20).data)
        oracle = plain(ensemble._engine, Prompt(text="z"))[0]
        expected = {text: oracle.whole(text, 0) for text in drawn}
    assert sum(expected.values()) == pytest.approx(1, abs=1e-5)
    assert len(drawn) > 1
    for text, p in drawn.items():
        assert p == pytest.approx(expected[text], abs=1e-5)


def test_several_members_draw_from_the_mean_of_their_bytes() -> None:
    table = byte_level_table(["ab"])
    shares = {"x": {"": {"ab": 0.5, "a": 0.5}, "ab": {"</s>": 1.0}, "a": {"b": 1.0}}}
    shares["y"] = {"": {"a": 0.2, "b": 0.8}, "a": {"</s>": 1.0}, "b": {"</s>": 1.0}}
    for name, script in shares.items():
        register_fake(name, FakeModel(LongestMatchTokenizer(table), scripted_rule(table, script)))
    with load(["x", "y"], EXACT, sampling="1 seed:0") as ensemble:
        drawn = Enumeration(lambda: ensemble.generate("z", max_new_tokens=1).data)
    first: defaultdict[bytes, float] = defaultdict(float)
    for text, p in drawn.items():
        first[text[:1]] += p
    assert first == pytest.approx({b"a": 0.6, b"b": 0.4}, abs=1e-6)


def test_a_byte_that_one_member_cannot_spell_is_notwritten() -> None:
    table = byte_level_table(["ab"])
    lacking = sentencepiece_table(["ab", *map(chr, range(0x20, 0x7F)), "\n"], byte_fallback=False)
    register_fake("x", FakeModel(LongestMatchTokenizer(table), scripted_rule(table, {"": {b"\xf1": 0.9, "a": 0.1}})))
    register_fake("y", FakeModel(LongestMatchTokenizer(lacking), scripted_rule(lacking, {"": {"a": 1.0}})))
    with load(["x", "y"]) as ensemble:
        assert ensemble.generate("a", max_new_tokens=3).text == "aaa"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"gate": "certain"}, "the gate 'certain'"),
        ({"sampling": "1 truncated_sampling"}, "truncated_sampling"),
        ({"speculate": "ngram"}, "speculate ngram:6"),
        ({"sampling": "beam_width:2"}, "beam_width 2"),
        ({"sampling": "mixture"}, "mixture"),
        ({"sampling": "0.7"}, "temperature 0.7"),
        ({"sampling": "1 top_p:0.9"}, "top_p"),
        ({"sampling": "frequency_penalty:0.5"}, "frequency_penalty"),
        ({"sampling": "member_repetition_penalty:1.2"}, "member_repetition_penalty"),
        ({"combine": "mean sharpen:0.5"}, "sharpen 0.5"),
        ({"combine": "mean truncate:10"}, "truncate 10"),
        ({"combine": "mean weights:entropy"}, "the weights 'entropy'"),
        ({"reasoning": 8}, "reasoning 8"),
    ],
)
def test_what_needs_pieces_of_a_union_is_refused_by_name(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=f"{words} does not go with vocabulary: bytes") as caught:
        load(["a", "b"], **keys)
    assert "vocabulary: union" in str(caught.value)
    with load(["a", "b"], "union", batch=5) as ensemble, pytest.raises(SpecError, match=words):
        ensemble.generate("a", vocabulary="bytes", **keys)


def test_a_form_that_is_none_is_refused() -> None:
    for vocabulary in ("byte", "bytes beam:0", "bytes beam:2 beam:3", "union beam:3", "bytes width:3", "bytes least:2"):
        with pytest.raises(SpecError, match=r"vocabulary|beam|least"):
            load(["a"], vocabulary)
    with load(["a"], "union") as ensemble, pytest.raises(SpecError, match="5 cuts of a text"):
        ensemble.generate("a", vocabulary="bytes")


def register_writers() -> None:
    """``n`` has no tokens for single bytes; ``m`` spells all."""
    ascii_ = [*map(chr, range(0x20, 0x7F)), "\n"]
    some = sentencepiece_table(["é", "è", *ascii_], byte_fallback=False)
    for name, table, said in (
        ("n", some, {"é": 0.6, "è": 0.3, "a": 0.1}),
        ("m", byte_level_table(["é", "ü"]), {"é": 0.4, "ü": 0.6}),
    ):
        register_fake(name, FakeModel(LongestMatchTokenizer(table), scripted_rule(table, {"": said})))


def test_characters_that_all_have_are_written_and_others_are_left_out() -> None:
    register_writers()
    drawn = {}
    for names in (["n"], ["n", "n"], ["m", "n"]):
        with load(names, batch=8, sampling="1 seed:0") as ensemble:
            drawn["".join(names)] = dict(Enumeration(lambda e=ensemble: e.generate("z", max_new_tokens=1).text))
    assert drawn["n"] == pytest.approx({"é": 0.6, "è": 0.3, "a": 0.1})
    assert drawn["nn"] == pytest.approx(drawn["n"])
    assert set(drawn["mn"]) == {"é", "è", "a"}, "no ü, which n cannot spell"
    with load(["m", "n"], batch=8) as ensemble:
        assert ensemble.generate("z", max_new_tokens=2, constraint="regex:é+").text == "éé"
        assert ensemble.score("é", "z")[0].logp > -3


def test_a_byte_that_failed_halfway_fails_the_text_and_writes_nothing_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ByteCursor.take_byte
    calls = 0

    def fails_once(cursor: ByteCursor, byte: int, *ahead: Any, **where: Any) -> None:
        nonlocal calls
        calls += cursor.member.name == "q1"
        if calls == 2 and cursor.member.name == "q1":
            raise RuntimeError("once")
        right(cursor, byte, *ahead, **where)

    with load(["p", "q"], batch=4, sampling="1 seed:3") as ensemble:
        expected = ensemble.generate("the", max_new_tokens=6).text
        monkeypatch.setattr(ByteCursor, "take_byte", fails_once)
        with pytest.raises(RuntimeError, match="once"):
            ensemble.generate("the", max_new_tokens=6)
        monkeypatch.undo()
        assert ensemble.generate("the", max_new_tokens=6).text == expected
        assert ensemble._engine.free == ensemble._engine.slots
