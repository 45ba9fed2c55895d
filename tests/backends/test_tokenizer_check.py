"""A tokenizer that the library made otherwise than its `tokenizer.json` says is found by comparing both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tokenizers")

from tokenizers import Tokenizer

from unisono.backends.base import LoadRequest, ModelSource
from unisono.backends.options import TransformersOptions
from unisono.backends.transformers.tokenizer import encode_exactly
from unisono.backends.transformers.tokenizer_check import Made, check_as_filed
from unisono.errors import ModelUnsupported, SpecError
from unisono.vocab.pieces import BYTE_LEVEL_ALPHABET

SPLIT = {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}"}, "behavior": "Isolated", "invert": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
REPLACED = {"type": "Replace", "pattern": {"String": " "}, "content": "1"}
WORDS = [*BYTE_LEVEL_ALPHABET, "1", "12", "he", "th", "the"]


def content(pre_tokenizer: Any, decoder: Any = BYTES, normalizer: Any = None) -> dict[str, Any]:
    vocab = {text: i for i, text in enumerate(dict.fromkeys(WORDS))}
    model = {"type": "BPE", "vocab": vocab, "merges": [["h", "e"], ["t", "h"], ["th", "e"]]}
    parts = {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": decoder}
    return {"version": "1.0", "added_tokens": [], **parts, "model": model}


def sequence(*parts: Any) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(parts)}


DEEPSEEK = sequence(SPLIT, BYTES)


def check(tmp_path: Path, filed: dict[str, Any], made: dict[str, Any], **asked: bool) -> str:
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(filed))
    return check_as_filed(file, made, encode_exactly, "transformers 5.0.0", "member 'm'", **asked)


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
    assert check(tmp_path, content(DEEPSEEK), content(DEEPSEEK)) == ""
    nested = sequence(sequence(SPLIT), BYTES)
    assert check(tmp_path, content(DEEPSEEK), content(nested)) == ""


SPACED = sequence(SPLIT, BYTES | {"add_prefix_space": True})
SMALL, PREPENDED = {"type": "Lowercase"}, {"type": "Prepend", "prepend": "1"}


@pytest.mark.parametrize(
    ("filed", "made"),
    [
        (content(SPACED), content(DEEPSEEK)),
        (content(DEEPSEEK), content(SPACED)),
        (content(DEEPSEEK, normalizer=SMALL), content(DEEPSEEK)),
        (content(DEEPSEEK), content(DEEPSEEK, normalizer={"type": "NFKC"})),
        (content(DEEPSEEK, normalizer=PREPENDED), content(DEEPSEEK)),
    ],
    ids=["without its space", "with a space", "without small letters", "composed otherwise", "without a beginning"],
)
def test_what_is_added_to_a_text_or_lost_of_it_is_compared_too(
    tmp_path: Path, filed: dict[str, Any], made: dict[str, Any]
) -> None:
    assert "reads a text otherwise than tokenizer.json says: 'Ab  Cd" in check(tmp_path, filed, made)


def test_how_a_model_merges_is_compared_too(tmp_path: Path) -> None:
    """By what it makes of a text: the vocabulary and all else are the same."""
    split = sequence(SPLIT | {"pattern": {"String": "the"}}, BYTES)
    filed, made = content(split), content(split)
    for each in (filed, made):  # by no merge "the" is reached
        each["model"]["merges"] = [["h", "e"]]
    assert check(tmp_path, filed, made) == ""
    filed["model"]["ignore_merges"] = True
    assert "splits ordinary text otherwise" in check(tmp_path, filed, made)


def test_added_tokens_have_the_ids_of_the_file(tmp_path: Path) -> None:
    filed, made = content(DEEPSEEK), content(DEEPSEEK)
    token = {"content": "<new>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    filed["added_tokens"] = [token | {"special": True, "id": 900}]
    made["added_tokens"] = [token | {"special": True, "id": 900}]
    assert check(tmp_path, filed, made) == ""
    filed["added_tokens"].append(token | {"special": True, "id": 901})
    assert check(tmp_path, filed, made) == ""  # of two ids it is one
    made["added_tokens"][0]["id"] = 260
    with pytest.raises(ModelUnsupported, match="the id of '<new>' is 900, and the library makes it 260"):
        check(tmp_path, filed, made)


def test_another_expression_of_the_same_kind_is_a_warning(tmp_path: Path) -> None:
    between = SPLIT | {"pattern": {"Regex": "(?=h)"}}
    warning = check(tmp_path, content(DEEPSEEK), content(sequence(between, BYTES)))
    assert "upgrade transformers" in warning


def test_ids_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    """As of a `vocab.json` or a `tokenizer.model` beside it that is of the model before its tokenizer was changed."""
    made = content(DEEPSEEK)
    made["model"]["vocab"] |= {"a": made["model"]["vocab"]["b"], "b": made["model"]["vocab"]["a"]}
    with pytest.raises(ModelUnsupported, match=r"the id of 'a' is \d+, and the library makes it \d+"):
        check(tmp_path, content(DEEPSEEK), made)
    more = content(DEEPSEEK)
    more["model"]["vocab"] |= {"<new>": len(WORDS) + 5}
    assert check(tmp_path, content(DEEPSEEK), more) == ""


def test_what_is_split_anew_is_compared_in_all_else(tmp_path: Path) -> None:
    """As by `fix_mistral_regex`, which changes the pre_tokenizer alone."""
    spaced = content(METASPACE)
    assert check(tmp_path, spaced, content(DEEPSEEK), is_split_anew=True) == ""
    with pytest.raises(ModelUnsupported, match="its normalizer is none, and the library makes it Replace"):
        check(tmp_path, spaced, content(DEEPSEEK, normalizer=REPLACED), is_split_anew=True)
    moved = content(DEEPSEEK)
    moved["model"]["vocab"] |= {"a": moved["model"]["vocab"]["b"], "b": moved["model"]["vocab"]["a"]}
    with pytest.raises(ModelUnsupported, match="the id of 'a'"):
        check(tmp_path, spaced, moved, is_split_anew=True)


def test_the_correction_of_a_file_that_has_none_is_refused_by_name() -> None:
    for asked in (True, False, None):
        options = {"fix_mistral_regex": asked}
        TransformersOptions.read(LoadRequest("m", ModelSource("folder", "a"), options=options))
        request = LoadRequest("m", ModelSource("gguf", "a.gguf"), options=options)
        if asked:
            with pytest.raises(SpecError, match=r"fix_mistral_regex is true, and a\.gguf has no tokenizer") as told:
                TransformersOptions.read(request)
            assert "leave it out" in str(told.value.hint)
        else:
            TransformersOptions.read(request)


def test_what_cannot_encode_is_refused(tmp_path: Path) -> None:
    made = content(DEEPSEEK) | {"model": {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "?"}}
    with pytest.raises(ModelUnsupported, match="what it makes of it cannot encode a text"):
        check(tmp_path, content(DEEPSEEK), made)


@pytest.mark.parametrize("normalizer", [None, {"type": "NFC"}])
@pytest.mark.parametrize("pre_tokenizer", [None, METASPACE, DEEPSEEK])
def test_the_parts_of_what_was_made_are_those_of_all_of_it(pre_tokenizer: Any, normalizer: Any) -> None:
    made = Tokenizer.from_str(json.dumps(content(pre_tokenizer, normalizer=normalizer)))
    assert dict(Made(made)) == json.loads(made.to_str())
