"""Control tokens with conditions: prompts are those of the tokenizer itself.

Some take in the white space beside them, as Phi-3's do, some are words of their own, and some are looked for in
normalised text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

tokenizers = pytest.importorskip("tokenizers")
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers  # noqa: E402

from support.encoders import encoder_of  # noqa: E402
from unisono.backends.transformers.json_content import read_json_table  # noqa: E402
from unisono.backends.transformers.tokenizer import JsonTokenizer, read_tokenizer  # noqa: E402
from unisono.chat.messages import Prompt  # noqa: E402
from unisono.chat.prompt_encoder import PromptEncoder  # noqa: E402
from unisono.errors import ModelUnsupported  # noqa: E402
from unisono.vocab.controls import Controls  # noqa: E402
from unisono.vocab.pieces import BYTE_LEVEL_ALPHABET  # noqa: E402

TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }} <|end|>\n{% endfor %}<|assistant|>\n"
CONTROLS = ("<|user|>", "<|system|>", "<|assistant|>", "<|end|>")
SIDES = {"right": {"rstrip": True}, "left": {"lstrip": True}, "both": {"lstrip": True, "rstrip": True}, "none": {}}
GLUED = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"
FLAGS = {
    **SIDES,
    "word": {"single_word": True},
    "word, both": {"single_word": True, "lstrip": True, "rstrip": True},
    "normalized": {"normalized": True},
    "normalized word": {"normalized": True, "single_word": True},
    "normalized, both": {"normalized": True, "lstrip": True, "rstrip": True},
}
CHATS = [
    [("user", "the cat")],
    [("system", "Be brief."), ("user", "  the cat\n"), ("assistant", "the"), ("user", "\n\ncat ")],
    [("user", " \t the")],
    [("user", "日本 cat")],
]


def byte_level(**sides: bool) -> Any:
    vocab, merges = dict(BYTE_LEVEL_ALPHABET), [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("Ġ", "c")]
    for pair in merges:
        vocab["".join(pair)] = len(vocab)
    raw = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return with_controls(raw, sides)


def sentencepiece(**sides: bool) -> Any:
    vocab = {"<unk>": 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}}
    for text in ("▁", *map(chr, range(0x21, 0x7F)), "▁t", "he", "▁the", "▁c", "▁▁"):
        vocab[text] = len(vocab)
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "c"), ("▁", "▁")]
    raw = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return with_controls(raw, sides)


def with_controls(raw: Any, sides: dict[str, bool]) -> Any:
    raw.add_special_tokens([AddedToken(text, special=True, **sides) for text in CONTROLS])
    return raw


def encoder(raw: Any, template: str = TEMPLATE) -> PromptEncoder:
    content = json.loads(raw.to_str())
    table = read_json_table(content, [raw.token_to_id(text) for text in CONTROLS], chat_template=template)
    return encoder_of(table, tokenizer=JsonTokenizer(table, content))


EACH = [
    pytest.param(make, flags, id=f"{make.__name__}-{name}")
    for make in (byte_level, sentencepiece)
    for name, flags in FLAGS.items()
    if make is byte_level or "normalized" not in flags  # which are refused, below
]


@pytest.mark.parametrize(("make", "flags"), EACH)
@pytest.mark.parametrize("template", [TEMPLATE, GLUED])
@pytest.mark.parametrize("chat", CHATS)
def test_a_prompt_has_the_ids_of_the_tokenizer_itself(
    make: Any, flags: dict[str, bool], template: str, chat: Any
) -> None:
    raw, messages = make(**flags), [{"role": role, "content": text} for role, text in chat]
    member = encoder(raw, template)
    assert member.template is not None
    rendered = member.template.render(messages)
    assert member.encode(Prompt(messages=messages)) == raw.encode(rendered, add_special_tokens=False).ids


@pytest.mark.parametrize("flags", [flags for flags in FLAGS.values() if "normalized" not in flags])
@pytest.mark.parametrize("make", [byte_level, sentencepiece])
def test_a_token_that_is_text_takes_the_white_space_of_a_template_too(make: Any, flags: dict[str, bool]) -> None:
    """Tokens that fine-tunes add and do not call special are found in what users type."""
    raw = make()
    raw.add_tokens([AddedToken("<x>", **flags)])
    member = encoder(raw)
    assert member.template is not None
    for text in ("<x>", " <x>y", "<x> <x>", "a\n<x>\n\nb", "a<x>b"):
        messages: Any = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
        rendered = member.template.render(messages)
        assert member.encode(Prompt(messages=messages)) == raw.encode(rendered, add_special_tokens=False).ids


STRIPPING = {
    "both ends": normalizers.Strip(),
    "the left": normalizers.Strip(right=False),
    "as spaces": normalizers.Replace(Regex(r"\s+"), " "),
    "accents": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
}


@pytest.mark.parametrize("normalizer", STRIPPING.values(), ids=STRIPPING)
@pytest.mark.parametrize("chat", [*CHATS, [("user", "Ä Éclair")]])
def test_white_space_and_accents_that_a_tokenizer_takes_away_are_taken_from_prompts(normalizer: Any, chat: Any) -> None:
    raw = byte_level()
    raw.normalizer = normalizer
    member, messages = encoder(raw), [{"role": role, "content": text} for role, text in chat]
    assert member.template is not None
    rendered = member.template.render(messages)
    assert member.encode(Prompt(messages=messages)) == raw.encode(rendered, add_special_tokens=False).ids


@pytest.mark.parametrize("make", [byte_level, sentencepiece])
def test_beside_text_that_spells_a_token_space_is_taken_all_the_same(make: Any) -> None:
    member = encoder(make(**SIDES["both"]))
    ids = member.encode(Prompt(messages=[{"role": "user", "content": "a<|end|>b"}]))
    controls, vocabulary = member.tokenizer.table.controls, member.speller.vocabulary
    assert [token for token in ids if token in controls.values()] == [
        controls[text] for text in ("<|user|>", "<|end|>", "<|assistant|>")
    ]
    assert vocabulary.join(ids) == b"a<|end|>b"


TYPED = ["a<|end|>b", "a <|end|> b", "<|END|>", "<|énd|>", "<｜end｜>", "<|end|", "<|user|>", " <|end|>\n"]
NORMALIZERS = {
    "none": None,
    "lower": normalizers.Lowercase(),
    "composed": normalizers.NFKC(),
    "without accents": normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()]),
}


@pytest.mark.parametrize("normalizer", NORMALIZERS.values(), ids=NORMALIZERS)
@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
@pytest.mark.parametrize("typed", TYPED)
def test_what_a_user_typed_is_never_a_control_token(normalizer: Any, flags: dict[str, bool], typed: str) -> None:
    raw = byte_level(**flags)
    if normalizer is not None:
        raw.normalizer = normalizer
    member = encoder(raw)
    ids = {text: member.tokenizer.table.controls[text] for text in CONTROLS}
    for messages in ([{"role": "user", "content": typed}], [{"role": "user", "content": f"The {typed}, é"}]):
        found = [token for token in member.encode(Prompt(messages=messages)) if token in ids.values()]
        assert found == [ids[text] for text in ("<|user|>", "<|end|>", "<|assistant|>")]
    assert not set(ids.values()) & set(member.encode(Prompt(text=f"The {typed}, é")))


@pytest.mark.parametrize("flags", [FLAGS["normalized"], FLAGS["normalized word"]], ids=["glued", "word"])
def test_a_control_token_that_is_found_in_some_places_only_is_refused(flags: dict[str, bool]) -> None:
    transformers = pytest.importorskip("transformers")
    for raw, refused in ((sentencepiece(**flags), True), (byte_level(**flags), False)):
        loaded = transformers.PreTrainedTokenizerFast(tokenizer_object=raw)
        if not refused:
            assert read_tokenizer(loaded, [], "it").table.controls
            continue
        with pytest.raises(
            ModelUnsupported, match=r"it: the library reads its control token '<\|\w+\|>' as text in most"
        ):
            read_tokenizer(loaded, [], "it")


def test_a_word_of_its_own_is_text_beside_letters() -> None:
    ids = {"<a>": 1, "<b>": 2}
    for text, tokens in (
        ("<a>", [1]),
        ("x<a>", []),
        ("<a>_", []),
        ("<a><a>", [1, 1]),
        ("é<a> <a>-", [1]),
        ("<b>x", [2]),
    ):
        assert [token for _, token in Controls(ids, words=[1]).cut(text) if token is not None] == tokens, text
    assert Controls(ids, words=[1]).cut("x<a>y<b>") == [("x<a>y", None), ("<b>", 2)]


def test_only_what_a_token_takes_is_left_out() -> None:
    parts = [("<a>", 1), (" x ", None), ("<b>", 2), ("\n", None), ("<a>", 1)]
    ids, text = {"<a>": 1, "<b>": 2}, "".join(part for part, _ in parts)
    assert Controls(ids).cut(text) == parts
    assert Controls(ids, {2: (True, True)}).cut(text) == [("<a>", 1), (" x", None), ("<b>", 2), ("<a>", 1)]
    assert Controls(ids, {1: (False, True)}).cut(text) == [("<a>", 1), ("x ", None), *parts[2:]]


@pytest.mark.parametrize(("name", "taken"), [("Phi-3 mini", True), ("phi3-small", True), ("Llama", False)])
def test_both_backends_read_a_gguf_file_as_llama_cpp_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, taken: bool
) -> None:
    pytest.importorskip("gguf")
    loaders = pytest.importorskip("unisono.backends.llamacpp.loader")
    from support.tiny_gguf import TOKENS, tiny_tensors, write_tiny
    from unisono.backends.base import LoadRequest, ModelSource
    from unisono.backends.transformers.gguf_conversion import Conversion

    monkeypatch.setenv("UNISONO_CACHE", str(tmp_path / "cache"))
    path = write_tiny(tmp_path / "tiny.gguf", tiny_tensors(), name=name, controls=("<unk>", "<|endoftext|>"))
    source, never = ModelSource("gguf", str(path)), lambda *_: pytest.fail("only the tokenizer is read")
    own = loaders.LlamaCppLoader(LoadRequest("m", source, device="cpu")).tokenizer()
    found = []
    for tokenizer in (own, Conversion(source, never, never, "m").tokenizer()):
        member = encoder_of(tokenizer.table, "{% for m in messages %}<s>\n{{ m.content }}</s>\n{% endfor %}", tokenizer)
        found.append(member.encode(Prompt(messages=[{"role": "user", "content": "Hi\n"}] * 2)))
    assert found[0] == found[1]
    assert found[0].count(TOKENS.index("Ċ")) == (4 if taken else 6)
