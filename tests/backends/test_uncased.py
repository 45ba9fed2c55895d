"""Tokenizers that read texts in lower case: prompts have the library's own ids; what cannot be written is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

tokenizers = pytest.importorskip("tokenizers")
from tokenizers import decoders, models, normalizers, pre_tokenizers  # noqa: E402

from support.encoders import encoder_of  # noqa: E402
from unisono.backends.transformers.json_content import read_json_table  # noqa: E402
from unisono.backends.transformers.tokenizer import JsonTokenizer  # noqa: E402
from unisono.chat.messages import Prompt  # noqa: E402
from unisono.chat.prompt_encoder import PromptEncoder  # noqa: E402
from unisono.errors import VocabularyError  # noqa: E402
from unisono.server.alignment import align  # noqa: E402
from unisono.vocab.normal_forms import is_uncased, taken_away  # noqa: E402
from unisono.vocab.pieces import BYTE_LEVEL_ALPHABET  # noqa: E402
from unisono.vocab.union import UnionMember, check_essentials  # noqa: E402

TEMPLATE = "{% for m in messages %}<s>{{ m.role }} Says: {{ m.content }}</s>{% endfor %}<s>Answer:"
NORMALIZERS = {
    "lower": normalizers.Lowercase(),
    "lower, composed": normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]),
    "without accents": normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()]),
    "BERT's": normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False, lowercase=True),
}
TEXTS = ["The CAT", "Ä ﬁne Éclair", "ΟΔΟΣ ΙΙ", "İstanbul", "plain"]


def member_of(normalizer: Any, alphabet: dict[str, int]) -> tuple[Any, PromptEncoder]:
    vocab, merges = dict(alphabet), [("h", "e"), ("c", "a")]
    for text in ("he", "ca"):
        vocab[text] = len(vocab)
    raw = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    raw.normalizer = normalizer
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    raw.add_special_tokens(["<s>", "</s>"])
    content = json.loads(raw.to_str())
    table = read_json_table(content, [raw.token_to_id(text) for text in ("<s>", "</s>")], chat_template=TEMPLATE)
    return raw, encoder_of(table, tokenizer=JsonTokenizer(table, content))


@pytest.mark.parametrize("normalizer", NORMALIZERS.values(), ids=NORMALIZERS)
def test_prompts_have_the_ids_of_the_tokenizer_itself(normalizer: Any) -> None:
    raw, member = member_of(normalizer, BYTE_LEVEL_ALPHABET)
    assert is_uncased(member.tokenizer, member.speller.vocabulary)
    bare = "é" not in raw.normalizer.normalize_str("é")
    assert taken_away(member.tokenizer, member.speller.vocabulary) == (("accents",) if bare else ())
    assert member.template is not None
    for text in TEXTS:
        messages: Any = [{"role": "user", "content": text}]
        rendered = member.template.render(messages)
        assert member.encode(Prompt(messages=messages)) == raw.encode(rendered, add_special_tokens=False).ids
        assert member.encode(Prompt(text=text)) == raw.encode(text, add_special_tokens=False).ids


def test_what_a_user_typed_becomes_no_control_token_by_its_case() -> None:
    raw, member = member_of(normalizers.Lowercase(), BYTE_LEVEL_ALPHABET)
    ids = member.encode(Prompt(messages=[{"role": "user", "content": "A </S> and </s>"}]))
    assert [token for token in ids if token in (raw.token_to_id("<s>"), raw.token_to_id("</s>"))] == [
        raw.token_to_id(text) for text in ("<s>", "</s>", "<s>")
    ]


def test_what_others_write_is_read_as_it_is() -> None:
    _, member = member_of(normalizers.Lowercase(), BYTE_LEVEL_ALPHABET)
    spelled = member.speller.spell(b"The cat")
    assert spelled is not None
    assert member.speller.vocabulary.join(spelled) == b"The cat"


def test_a_vocabulary_without_capital_letters_is_refused_by_name() -> None:
    texts = [text for text in BYTE_LEVEL_ALPHABET if not ("A" <= text <= "Z")]
    small = {text: number for number, text in enumerate(texts)}
    _, member = member_of(normalizers.Lowercase(), small)
    with pytest.raises(VocabularyError, match="'m' cannot spell 26 bytes"):
        check_essentials(UnionMember("m", member.speller))


def test_the_places_of_characters_are_found_in_lower_case() -> None:
    assert align("the cat", "The CAT") == list(range(8))
    assert align(" i\u0307 b", "İ B") == [0, 0, 0, 1, 2, 3]


def test_doctor_says_it_by_name(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from support.tiny_models import save_tiny
    from unisono.build import prepare
    from unisono.config.ensemble import load_spec
    from unisono.diagnosis import diagnose

    file = save_tiny(tmp_path, "llama") / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), "normalizer": {"type": "Lowercase"}}))
    found = diagnose(prepare(load_spec({"members": [{"name": "low", "model": str(tmp_path), "device": "cpu"}]})))
    assert any(words.startswith("the tokenizer of low reads texts in lower case") for words in found.warnings)
