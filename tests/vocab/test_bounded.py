"""A tokenizer and a model of different sizes: ids that the model has no row for are ordinary text."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.command_line import Run
from unisono.build import prepare
from unisono.chat.messages import Message, Prompt
from unisono.config.ensemble import load_spec
from unisono.diagnosis import diagnose
from unisono.ensemble import Ensemble
from unisono.errors import PromptError
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, hashed_rule, register_fake
from unisono.vocab.bounded import within_rows
from unisono.vocab.pieces import end_ids, read_vocabulary
from unisono.vocab.tokenizer import TokenTable

WORDS = (" the", " cat", "日本", "<plain>")
MORE = (("<|call|>", "control"), ("<|think|>", "control"), ("<note>", "added"))


def enlarged(**fields: Any) -> TokenTable:
    """A vocabulary with three added tokens at its end."""
    table = byte_level_table(WORDS)
    texts, kinds = zip(*MORE, strict=True)
    return dataclasses.replace(table, texts=table.texts + texts, kinds=table.kinds + kinds, **fields)


SIZE = len(byte_level_table(WORDS).texts)


def member_of(name: str, table: TokenTable, rows: int, **keys: Any) -> dict[str, Any]:
    register_fake(name, FakeModel(LongestMatchTokenizer(table), hashed_rule(rows), rows=rows))
    return {"name": name, "model": f"fake:{name}", "backend": "fake", **keys}


def load(*members: dict[str, Any], **keys: Any) -> Ensemble:
    return Ensemble.load({"members": list(members), **keys})


def test_a_tokenizer_that_fits_is_left_alone() -> None:
    tokenizer = LongestMatchTokenizer(enlarged())
    assert within_rows(tokenizer, SIZE + 3) is tokenizer
    assert within_rows(tokenizer, SIZE + 9) is tokenizer


@given(st.lists(st.sampled_from([*"a<|>日本 thecatino", *(text for text, _ in MORE)]), max_size=20))
def test_text_is_spelled_exactly_with_the_rows_that_there_are(parts: list[str]) -> None:
    text = "".join(parts)
    for rows in (SIZE, SIZE + 1, SIZE + 2, SIZE - 2):
        tokenizer = within_rows(LongestMatchTokenizer(enlarged()), rows)
        vocabulary = read_vocabulary(tokenizer.table, ())
        for ids in (tokenizer.encode(text), tokenizer.encode_prompt(text)):
            assert max(ids, default=0) < rows
            assert vocabulary.join(ids) == text.encode()


def test_what_begins_and_ends_a_text_must_have_a_row() -> None:
    table = enlarged(bos_id=SIZE, eos_id=SIZE + 1, adds_bos=True, declared_end_ids=(2, SIZE + 2))
    tokenizer = within_rows(LongestMatchTokenizer(table), SIZE)
    assert (tokenizer.table.bos_id, tokenizer.table.eos_id, tokenizer.table.adds_bos) == (None, None, False)
    assert set(end_ids(tokenizer.table)) == {2}
    assert tokenizer.encode_prompt("<|call|>a") == tokenizer.encode("<|call|>a")
    assert tokenizer.table.controls_beyond == {"<|call|>": SIZE, "<|think|>": SIZE + 1}


@pytest.mark.parametrize("typed", ["<|call|>", "a <|think|> b", "<note>", "<|call|><|call|><note>"])
def test_a_user_who_types_a_token_without_a_row_is_read_as_text(typed: str) -> None:
    other = member_of("other", byte_level_table(["<|call|>", " the"]), SIZE + 5)
    for members in ([member_of("small", enlarged(), SIZE)], [member_of("small", enlarged(), SIZE), other]):
        with load(*members, speculate="ngram:2") as ensemble:
            assert ensemble.generate(f"{typed} the", max_new_tokens=6).text is not None
            question = [Message(role="user", content=typed)]
            assert ensemble.generate(messages=question, max_new_tokens=6).text is not None
            assert ensemble.score(f"a{typed}", typed)[0].logp < 0
        prompt = Prompt(messages=(Message(role="user", content=typed),))
        encoder = prepare(load_spec({"members": members})).members[0].encoder
        ids = encoder.encode(prompt)
        assert max(ids) < SIZE
        assert encoder.speller.vocabulary.join(ids) == typed.encode()


def test_a_template_that_needs_a_token_without_a_row_is_refused_by_its_name() -> None:
    template = "{% for m in messages %}<|think|>{{ m.content }}{% endfor %}"
    with load(member_of("small", enlarged(), SIZE, chat_template=template)) as ensemble:
        with pytest.raises(PromptError, match=rf"'small' writes '<\|think\|>', token {SIZE + 1}, .*below {SIZE}"):
            ensemble.generate(messages=[Message(role="user", content="a")], max_new_tokens=2)
        assert ensemble.generate("a", max_new_tokens=2).text is not None
    with load(member_of("whole", enlarged(), SIZE + 2, chat_template=template)) as ensemble:
        assert ensemble.generate(messages=[Message(role="user", content="a")], max_new_tokens=2).text is not None


@pytest.mark.parametrize(("rows", "more"), [(SIZE, 3), (SIZE + 2, 1), (SIZE + 3, 0), (SIZE + 13, -10)])
def test_the_diagnosis_says_which_is_larger(rows: int, more: int) -> None:
    prepared = prepare(load_spec({"members": [member_of("small", enlarged(), rows)]}))
    found = diagnose(prepared)
    [member] = found.members
    assert (member.rows, member.tokens, len(member.tokens_beyond)) == (rows, SIZE + 3, max(0, more))
    words = [warning for warning in found.warnings if "larger than its model" in warning]
    assert len(words) == (more > 0)
    if words:
        assert f"by {more} token" in words[0]
        assert "<note>" in words[0]


def test_a_model_that_ends_no_text_and_has_each_piece_once_can_write() -> None:
    table = TokenTable("byte-level", "bytes", byte_level_table().texts[6:], byte_level_table().kinds[6:])
    with load(member_of("endless", table, len(table.texts))) as ensemble:
        assert len(ensemble.generate("a", max_new_tokens=5).text) > 0


def test_doctor_says_it(run: Run, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    members = [member_of("small", enlarged(), SIZE + 1), member_of("padded", enlarged(), SIZE + 10)]
    spec.write_text(json.dumps({"members": members}))
    for flags in (("-q",), ("-q", "--weights")):
        said = run("doctor", spec, *flags)
        assert (said.out + said.err).count("the tokenizer of small is larger than its model") == 1
    shown = run("doctor", spec, "-q").out
    assert f"{SIZE + 1} (tokenizer: 2 more)" in shown
    assert f"{SIZE + 10} (tokenizer: 7 fewer)" in shown
    assert "! the tokenizer of small is larger than its model by 2 tokens (<|think|>, <note>)" in shown
    found = json.loads(run("doctor", spec, "-q", "--json").out)["members"]
    assert [(each["rows"], each["tokens"], each["tokens_beyond"]) for each in found] == [
        (SIZE + 1, SIZE + 3, ["<|think|>", "<note>"]), (SIZE + 10, SIZE + 3, [])
    ]  # fmt: skip
