"""The fakes do what a test may rely on."""

from __future__ import annotations

import numpy as np
import pytest

from unisono.backends.base import Feed, LoadRequest, ModelSource, Truncation
from unisono.backends.fake.backend import IMPOSSIBLE
from unisono.backends.registry import make_loader
from unisono.backends.top_logprobs import TopLogprobs
from unisono.backends.truncated import top_logprobs
from unisono.errors import ModelError, ModelNotFound, SpecError
from unisono.testing import (
    FakeBackend,
    FakeModel,
    LongestMatchTokenizer,
    byte_level_table,
    fake_member,
    hashed_rule,
    register_fake,
    scripted_rule,
    sentencepiece_table,
)
from unisono.vocab.pieces import read_vocabulary
from unisono.vocab.tokenizer import TokenTable

TEXTS = ["the cat", " the", "naïve 日本語 🤦🏽‍♀️", "a\x00b\r\n\t", "<|user|></s>", "", "   "]


@pytest.mark.parametrize("table", [byte_level_table([" the", "日本"]), sentencepiece_table([" the", "日本"])])
@pytest.mark.parametrize("text", TEXTS)
def test_a_tiny_vocabulary_spells_any_text_and_takes_none_for_control(table: TokenTable, text: str) -> None:
    tokenizer = LongestMatchTokenizer(table)
    ids = tokenizer.encode(text)
    assert read_vocabulary(table, table.declared_end_ids).join(ids) == text.encode()
    assert all(table.kinds[token] != "control" for token in ids)


def test_longer_tokens_are_taken_first_and_byte_tokens_last() -> None:
    tokenizer = LongestMatchTokenizer(sentencepiece_table([" the"]))
    texts = [tokenizer.table.texts[token] for token in tokenizer.encode(" theé\n")]
    assert texts == ["▁the", "<0xC3>", "<0xA9>", "\n"]


def test_prompts_get_what_the_tokenizer_adds() -> None:
    tokenizer = LongestMatchTokenizer(sentencepiece_table(), leading_space=True)
    assert [tokenizer.table.texts[token] for token in tokenizer.encode_prompt("a")] == ["<s>", "▁", "a"]
    assert [tokenizer.table.texts[token] for token in tokenizer.encode_rendered("<|user|>a</s>")] == [
        "<|user|>",
        "a",
        "</s>",
    ]


def test_bytes_can_be_missing() -> None:
    table = byte_level_table(without=[0xF1, 0x06])
    assert read_vocabulary(table, table.declared_end_ids).missing_bytes == {0xF1, 0x06}


def test_a_hashed_rule_is_fixed_by_its_seed_and_what_was_read() -> None:
    one, same, other = hashed_rule(50, seed=1), hashed_rule(50, seed=1), hashed_rule(50, seed=2)
    np.testing.assert_array_equal(one((3, 4)), same((3, 4)))
    assert not np.array_equal(one((3, 4)), one((4, 3)))
    assert not np.array_equal(one((3, 4)), other((3, 4)))


def test_a_script_gives_the_probabilities_it_names() -> None:
    table = byte_level_table([" cat", " dog"])
    rule = scripted_rule(table, {"": {" cat": 0.75, " dog": 0.25}, " cat": {"</s>": 1.0}})
    tokenizer = LongestMatchTokenizer(table)
    chances = np.exp(rule(tuple(tokenizer.encode("the"))))
    assert chances[tokenizer.encode(" cat")] == pytest.approx([0.75])
    assert chances.sum() == pytest.approx(1.0)
    assert rule(tuple(tokenizer.encode("the cat"))).argmax() == table.eos_id


def test_a_script_refuses_what_is_no_token() -> None:
    with pytest.raises(ValueError, match="' bird'"):
        scripted_rule(byte_level_table(), {"": {" bird": 1.0}})
    rule = scripted_rule(byte_level_table(), {"x": {"y": 1.0}})
    with pytest.raises(KeyError, match="no entry"):
        rule((10,))


def test_the_passes_tell_who_was_fed_what() -> None:
    model = fake_member("told", [" the"], seed=7)
    first, second = FakeBackend(model, "first", slots=2), FakeBackend(model, "second")
    slot = first.open()
    first.advance([Feed(slot, [8, 9, 10])])
    first.rewind(slot, 1)
    assert first.read(slot) == (8,)
    assert [(step.member, [list(feed.ids) for feed in step.feeds]) for step in model.passes] == [
        ("first", [[8, 9, 10]])
    ]
    assert model.tokens_read("first") == 3
    assert model.tokens_read("second") == 0
    assert second.facts.slots == 1


def test_a_registered_fake_is_loaded_by_name() -> None:
    table = byte_level_table()
    register_fake("padded", FakeModel(LongestMatchTokenizer(table), hashed_rule(300), context=16, rows=300))
    loader = make_loader("fake", LoadRequest("m", ModelSource("fake", "padded"), context=8, slots=3))
    assert loader.facts().rows == 300
    backend = loader.load(lambda fraction, words: None)
    assert (backend.facts.rows, backend.facts.context, backend.facts.slots) == (300, 8, 3)


def test_a_fake_that_is_not_there_is_named() -> None:
    fake_member("present")
    with pytest.raises(ModelNotFound, match="did you mean 'present'"):
        make_loader("fake", LoadRequest("m", ModelSource("fake", "presnt")))
    with pytest.raises(SpecError, match="context is 9999999"):
        make_loader("fake", LoadRequest("m", ModelSource("fake", "present"), context=9999999))


def told(**changes: object) -> TopLogprobs:
    fields = {"ids_NK": [[2, 0, -1]], "logp_NK": [[-1.0, -2.0, -np.inf]], "unseen_N": [0.4], "kth_N": [0.1]} | changes
    kinds = {"ids_NK": np.int32, "logp_NK": np.float32, "unseen_N": np.float64, "kth_N": np.float64}
    return TopLogprobs(**{key: np.asarray(fields[key], kind) for key, kind in kinds.items()}, rows=4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"logp_NK": [[np.nan, -2, 0]]}, "no probabilities"),
        ({"logp_NK": [[np.inf, -2, 0]]}, "no probabilities"),
        ({"unseen_N": [np.nan]}, "no probabilities"),
        ({"ids_NK": [[4, 0, -1]]}, "beyond the model's 4 rows"),
        ({"ids_NK": [[0, 0, -1]]}, "an id twice"),
        ({"unseen_N": [-0.1]}, "negative"),
        ({"logp_NK": [[-0.1, -0.2, 0]]}, "more mass than 1"),
        ({"unseen_N": [0.0]}, "no mass for ids"),
    ],
)
def test_what_is_told_has_to_be_part_of_a_distribution(changes: dict[str, object], words: str) -> None:
    assert len(told()) == 1
    with pytest.raises(ModelError, match=words):
        told(**changes)


def test_a_truncated_fake_tells_the_likeliest_ids_and_the_mass_of_the_others() -> None:
    table = byte_level_table()
    logits_V = np.full(len(table.texts), IMPOSSIBLE, np.float32)
    logits_V[[5, 3, 9]] = np.log([0.5, 0.3, 0.2])
    register_fake("told", FakeModel(LongestMatchTokenizer(table), lambda read: logits_V, top=Truncation(2, 4, 2)))
    backend = make_loader("fake", LoadRequest("m", ModelSource("fake", "told"))).load(lambda fraction, words: None)
    slot = backend.open()
    first = backend.advance([Feed(slot, [1, 2], 2)])
    assert first.ids_NK.tolist() == [[5, 3]] * 2
    np.testing.assert_allclose([first.unseen_N, first.kth_N], [[0.2] * 2, [0.3] * 2], rtol=1e-6)
    more = backend.advance([Feed(slot, [3], also=(7, 5))])
    assert more.ids_NK.tolist() == [[5, 3, 7]]
    for wrong in ({"top": 5}, {"also": (1, 2, 3)}, {"also": (1, 1)}, {"also": (len(table.texts),)}):
        with pytest.raises(ValueError, match="asked for"):
            backend.advance([Feed(slot, [3], **wrong)])
    assert first.ids_NK.tolist() == [[5, 3]] * 2


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused_and_not_ranked(odd: float) -> None:
    with pytest.raises(ModelError, match="no probabilities"):
        top_logprobs(np.array([[0.0, odd, 1.0]], np.float32), [(2, ())])
