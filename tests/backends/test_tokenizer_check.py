"""A tokenizer that the library made otherwise than its `tokenizer.json` says is found by comparing both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tokenizers")

from tokenizers import Tokenizer

from unisono.backends.transformers.tokenizer import encode_exactly
from unisono.backends.transformers.tokenizer_check import Made, check_as_filed
from unisono.errors import ModelUnsupported
from unisono.vocab.pieces import BYTE_LEVEL_ALPHABET

SPLIT = {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}"}, "behavior": "Isolated", "invert": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
WORDS = [*BYTE_LEVEL_ALPHABET, "1", "12", "he", "th", "the"]


def content(pre_tokenizer: Any, decoder: Any = BYTES, normalizer: Any = None) -> dict[str, Any]:
    vocab = {text: i for i, text in enumerate(dict.fromkeys(WORDS))}
    model = {"type": "BPE", "vocab": vocab, "merges": [["h", "e"], ["t", "h"], ["th", "e"]]}
    parts = {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": decoder}
    return {"version": "1.0", "added_tokens": [], **parts, "model": model}


def sequence(*parts: Any) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(parts)}


DEEPSEEK = sequence(SPLIT, BYTES)


def check(tmp_path: Path, filed: dict[str, Any], made: dict[str, Any]) -> str | None:
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(filed))
    return check_as_filed(file, made, encode_exactly, "transformers 5.0.0", "member 'm'")


@pytest.mark.parametrize("made", [METASPACE, sequence(METASPACE, SPLIT), None, SPLIT])
def test_parts_of_another_kind_are_refused_with_the_way_out(tmp_path: Path, made: Any) -> None:
    with pytest.raises(
        ModelUnsupported, match=r"transformers 5\.0\.0 misreads .*pre_tokenizer is ByteLevel and Spl"
    ) as caught:
        check(tmp_path, content(DEEPSEEK), content(made))
    assert (
        caught.value.hint
        == "upgrade transformers, or make tokenizer_class PreTrainedTokenizerFast in tokenizer_config.json"
    )


def test_what_is_the_same_in_other_words_is_accepted(tmp_path: Path) -> None:
    assert check(tmp_path, content(DEEPSEEK), content(DEEPSEEK)) is None
    spaced = BYTES | {"add_prefix_space": True}
    assert check(tmp_path, content(sequence(SPLIT, spaced)), content(DEEPSEEK)) is None
    nested = sequence(sequence(SPLIT), BYTES)
    assert check(tmp_path, content(DEEPSEEK), content(nested)) is None


def test_another_expression_of_the_same_kind_is_a_warning(tmp_path: Path) -> None:
    between = SPLIT | {"pattern": {"Regex": "(?=h)"}}
    warning = check(tmp_path, content(DEEPSEEK), content(sequence(between, BYTES)))
    assert warning is not None
    assert "upgrade transformers" in warning


def test_ids_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    """As of a `vocab.json` or a `tokenizer.model` beside it that is of the model before its tokenizer was changed."""
    made = content(DEEPSEEK)
    made["model"]["vocab"] |= {"a": made["model"]["vocab"]["b"], "b": made["model"]["vocab"]["a"]}
    with pytest.raises(ModelUnsupported, match=r"the id of 'a' is \d+, and the library makes it \d+"):
        check(tmp_path, content(DEEPSEEK), made)
    more = content(DEEPSEEK)
    more["model"]["vocab"] |= {"<new>": len(WORDS) + 5}
    assert check(tmp_path, content(DEEPSEEK), more) is None


def test_what_cannot_encode_is_refused(tmp_path: Path) -> None:
    made = content(DEEPSEEK) | {"model": {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "?"}}
    with pytest.raises(ModelUnsupported, match="what it makes of it cannot encode a text"):
        check(tmp_path, content(DEEPSEEK), made)


@pytest.mark.parametrize("normalizer", [None, {"type": "NFC"}])
@pytest.mark.parametrize("pre_tokenizer", [None, METASPACE, DEEPSEEK])
def test_the_parts_of_what_was_made_are_those_of_all_of_it(pre_tokenizer: Any, normalizer: Any) -> None:
    made = Tokenizer.from_str(json.dumps(content(pre_tokenizer, normalizer=normalizer)))
    assert dict(Made(made)) == json.loads(made.to_str())
