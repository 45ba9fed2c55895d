"""The self-check finds models that write noise, read otherwise than they write, or answer with control tokens."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from support.gguf_files import rewrite_gguf, without_layer
from support.real_tokenizers import EOS_IDS, real
from support.reasoners import thinking_table
from support.tiny_models import COMMON, save_model
from unisono import model_findings, self_check
from unisono.backends.adapted import Adapted
from unisono.backends.base import ModelSource
from unisono.backends.fake.backend import FAKE_MODELS, FakeModel, NextToken, register_fake
from unisono.backends.gguf_parts import read_gguf
from unisono.build import prepare
from unisono.cache import cache_root
from unisono.config.demo import DEMO_MODELS, demo_path, installed
from unisono.config.ensemble import load_spec
from unisono.loaded_models import load_engine, load_models
from unisono.testing import CHAT_TEMPLATE, LongestMatchTokenizer, byte_level_table, hashed_rule, sentencepiece_table
from unisono.vocab.pieces import token_bytes
from unisono.vocab.tokenizer import Kind, TokenTable

WORDS = ["'t", "'re", " =", " the", "():", "\n   "]
ANSWER = "The capital of France is Paris."


def reader(table: TokenTable, answer: str | bytes | int = ANSWER, sure: float = 14.0) -> NextToken:
    """A model that knows the self-check's text and one answer, in its longest tokens; an id as answer is itself."""
    pieces = [token_bytes(text, kind, table.scheme) or b"" for text, kind in zip(table.texts, table.kinds, strict=True)]
    assistant, end = table.texts.index("<|assistant|>"), table.declared_end_ids[0]
    text = model_findings.TEXT.encode()
    reply = answer.encode() if isinstance(answer, str) else answer

    def next_token(read: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
        logits_V = np.zeros(len(pieces), np.float32)
        if assistant in read:
            written = read[max(place for place, token in enumerate(read) if token == assistant) + 1 :]
            if isinstance(reply, int):
                best = end if written else reply
            else:
                done = b"".join(pieces[token] for token in written)
                rest = reply[len(done) :]
                best = (
                    max(range(len(pieces)), key=lambda i: rest.startswith(pieces[i]) * len(pieces[i])) if rest else end
                )
        else:
            rest = text[len(b"".join(pieces[token] for token in read)) :]
            best = max(range(len(pieces)), key=lambda i: rest.startswith(pieces[i]) * len(pieces[i]))
        logits_V[best] = sure
        return logits_V

    return next_token


def found(table: TokenTable, rule: NextToken, *, reads_as: TokenTable | None = None) -> list[str]:
    """What the check finds of a fake model; ``reads_as`` is the table that its tokenizer uses."""
    tokenizer = LongestMatchTokenizer(reads_as or table)
    tokenizer.table = table
    register_fake("checked", FakeModel(tokenizer, rule))
    try:
        [member] = prepare(load_spec({"members": [{"name": "m", "model": "fake:checked"}]})).members
        return list(model_findings.findings(member, member.loader.load(lambda *_: None)))
    finally:
        del FAKE_MODELS["checked"]


def test_a_model_that_reads_and_answers_as_it_should_has_nothing_against_it() -> None:
    for table in (byte_level_table(WORDS), byte_level_table(WORDS, adds_bos=True), byte_level_table()):
        assert found(table, reader(table)) == []
    base = byte_level_table(WORDS, chat_template=None)
    assert found(base, reader(base)) == []


@pytest.mark.parametrize("kind", ["added", "control"])
def test_an_answer_with_the_marks_of_its_own_template_has_nothing_against_it(kind: Kind) -> None:
    table = thinking_table()
    table = replace(table, kinds=(*table.kinds[:-2], kind, kind))
    assert found(table, reader(thinking_table(), f"<think>\nHm.\n</think>\n\n{ANSWER}")) == []
    unmarked = replace(table, chat_template=CHAT_TEMPLATE, kinds=(*table.kinds[:-2], "control", "control"))
    [words] = found(unmarked, reader(thinking_table(), f"<think>\nHm.\n</think>\n\n{ANSWER}"))
    assert "with control tokens (<think>" in words


def test_noise_is_found() -> None:
    table = byte_level_table(WORDS)
    for rule in (hashed_rule(len(table.texts)), lambda read: np.zeros(len(table.texts), np.float32)):
        [first, *_] = found(table, rule)
        assert first.startswith("finds plain English hardly likelier than noise (")


def test_a_vocabulary_that_spells_no_other_language_is_no_obstacle() -> None:
    table = sentencepiece_table(WORDS, byte_fallback=False)
    [first, *_] = found(table, hashed_rule(len(table.texts)))
    assert first.startswith("finds plain English hardly likelier than noise (")


def test_a_model_that_knows_no_english_but_another_language_passes() -> None:
    table = byte_level_table(WORDS)
    known = model_findings.OTHERS[0].encode()
    pieces = [token_bytes(text, kind, table.scheme) or b"" for text, kind in zip(table.texts, table.kinds, strict=True)]

    def french(read: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
        logits_V = np.zeros(len(pieces), np.float32)
        rest = known[len(b"".join(pieces[token] for token in read)) :]
        if rest:
            logits_V[pieces.index(rest[:1])] = 14.0
        return logits_V

    assert not [words for words in found(table, french) if "noise" in words]


def test_a_model_that_fails_in_the_check_is_loaded_and_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(self_check.SWITCH, raising=False)
    monkeypatch.setenv("UNISONO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(self_check, "findings", lambda *_: 1 / 0)
    path = random_model(tmp_path / "m")
    for _ in range(2):
        caplog.clear()
        load(str(path), "transformers")
        assert "member 'm' could not be checked (ZeroDivisionError: division by zero)" in caplog.text
    assert not (tmp_path / "cache" / "self-checks").exists()


def test_what_was_found_belongs_to_the_files_and_to_how_they_are_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(self_check.SWITCH, raising=False)
    monkeypatch.setenv("UNISONO_CACHE", str(tmp_path / "cache"))
    path = random_model(tmp_path / "m")
    load(str(path), "transformers")

    def kept(**keys: object) -> tuple[str, ...] | None:
        member = {"name": "m", "model": str(path), "backend": "transformers", "context": 1024, **keys}
        return self_check.kept(prepare(load_spec({"members": [member]})).members[0])

    [found] = kept() or ()
    assert found.startswith("finds plain English hardly likelier than noise")
    assert kept(prefix="Be brief.") is None
    assert kept(options={"pack_weights": False}) is None
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "99.0")
    assert kept() is None
    monkeypatch.undo()
    monkeypatch.setenv("UNISONO_CACHE", str(tmp_path / "cache"))
    assert kept() == (found,)
    random_model(path)
    assert kept() is None


def test_why_a_check_was_not_done_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table = byte_level_table()
    register_fake("checked", FakeModel(LongestMatchTokenizer(table), hashed_rule(len(table.texts))))
    [member] = prepare(load_spec({"members": [{"name": "m", "model": "fake:checked"}]})).members
    del FAKE_MODELS["checked"]
    file, facts = tmp_path / "m.gguf", replace(member.facts, context=10**6)
    file.touch()
    real = replace(member, source=ModelSource("gguf", str(file)), backend="llamacpp", facts=facts)
    monkeypatch.setenv(self_check.SWITCH, "off")
    assert self_check.why_not_done(real) == "UNISONO_SELF_CHECK is 'off'"
    monkeypatch.delenv(self_check.SWITCH)
    assert self_check.why_not_done(member) == "it is no real model"
    assert "who loads its weights" in self_check.why_not_done(replace(real, source=ModelSource("endpoint", "x")))
    assert "as --weights does" in self_check.why_not_done(real)
    assert "revision" in self_check.why_not_done(replace(real, source=ModelSource("hub", "org/x")))
    assert "its context is 9" in self_check.why_not_done(replace(real, facts=replace(facts, context=9)))


def test_logits_that_are_no_numbers_are_found() -> None:
    table = byte_level_table(WORDS)
    for odd in (np.nan, np.inf):
        [only] = found(table, lambda read, odd=odd: np.full(len(table.texts), odd, np.float32))  # type: ignore[misc]
        assert only.startswith("gives logits that are not numbers")


def test_an_adapter_is_checked_and_the_model_without_it_named_as_such(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither is said of the other: the member is not called damaged, where its model without the adapter is."""
    table = byte_level_table(WORDS)
    noise = np.full(len(table.texts), np.nan, np.float32)
    model = FakeModel(LongestMatchTokenizer(table), hashed_rule(len(table.texts)))
    model.adapters = {
        "good": reader(table),
        "flat": lambda read: np.zeros(len(table.texts), np.float32),
        "none": lambda read: noise,
    }
    register_fake("checked", model)
    monkeypatch.setattr(self_check, "left_out", lambda member: None)
    first = {"name": "good", "model": "fake:checked", "adapter": "fake:good"}
    others = [{"name": n, "share_weights_with": "good", "adapter": f"fake:{n}"} for n in ("flat", "none")]
    try:
        members = prepare(load_spec({"members": [first, *others]})).members
        backend = members[0].loader.load(lambda *_: None)
        [base, *_] = self_check.self_check(members[0], backend)
        assert base.startswith("the model of member 'good', without its adapter, finds plain English hardly")
        good, flat, none = (self_check.adapter_check(its, Adapted(backend, str(its.adapter))) for its in members)
        assert good == ()
        assert [words.startswith("member 'flat' finds plain English hardly likelier") for words in flat] == [True]
        assert [words.startswith("member 'none' gives logits that are not numbers") for words in none] == [True]
        load_models([prepare(load_spec({"members": [first, *others]}))]).unload()
        assert sum("member 'none' gives" in message for message in caplog.messages) == 1
    finally:
        del FAKE_MODELS["checked"]


def test_a_tokenizer_that_splits_otherwise_than_the_model_writes_is_found() -> None:
    table = byte_level_table(WORDS)
    [only] = found(table, reader(table), reads_as=byte_level_table())
    assert only.startswith("expects other tokens than its tokenizer makes, at 18 places")
    assert "first ' the' where the tokenizer has ' '" in only


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (4, "with control tokens (<|user|>), which"),
        (b"Paris \xff\xfe", "with bytes that are no text"),
        ("\u0120Paris", "with the character '\u0120'"),
        ("\u2581Paris", "with the character '\u2581'"),
    ],
)
def test_an_answer_that_its_own_chat_would_not_show_is_found(answer: str | bytes | int, words: str) -> None:
    table = byte_level_table(WORDS)
    [only] = found(table, reader(table, answer))
    assert only.startswith(f"answers a plain question {words}")


def test_only_what_can_be_found_is_read_and_the_likely_answer_in_one_pass() -> None:
    """A tokenizer of bytes has no longer token anywhere; one of words has them where it is told not to use them."""
    for words, reads_as, whole in ((WORDS, byte_level_table(WORDS), False), (WORDS, byte_level_table(), True)):
        table = byte_level_table(words)
        tokenizer = LongestMatchTokenizer(reads_as)
        tokenizer.table = table
        register_fake("checked", FakeModel(tokenizer, reader(table)))
        try:
            [member] = prepare(load_spec({"members": [{"name": "m", "model": "fake:checked"}]})).members
            backend, fed = member.loader.load(lambda *_: None), list[int]()
            plain = backend.advance

            def counted(feeds: Any, plain: Any = plain, fed: list[int] = fed) -> Any:
                fed.extend(len(feed.ids) for feed in feeds)
                return plain(feeds)

            backend.advance = counted  # type: ignore[method-assign]
            list(model_findings.findings(member, backend))
        finally:
            del FAKE_MODELS["checked"]
        text = model_findings.text_ids(member)
        answer = member.encoder.encode_messages([{"role": "user", "content": model_findings.QUESTION}])
        assert (sum(fed) - len(answer) > len(text) / 2) == whole
        if not whole:
            assert fed[-1] == len(answer) + model_findings.LONGEST_ANSWER - 1


def test_an_answer_may_be_cut_inside_a_character() -> None:
    table = byte_level_table()
    long = "a" * (model_findings.LONGEST_ANSWER - 1) + "é"
    assert found(table, reader(table, long)) == []


def test_a_template_that_refuses_a_question_is_found() -> None:
    table = byte_level_table(WORDS, chat_template="{{ raise_exception('never') }}")
    [only] = found(table, reader(table))
    assert only.startswith("cannot be asked a plain question: ")
    assert "never" in only


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache with the models that there are and without results, and the check switched on."""
    (tmp_path / "cache").mkdir()
    for models in ("demo", "transformers"):
        (cache_root() / models).mkdir(parents=True, exist_ok=True)
        (tmp_path / "cache" / models).symlink_to(cache_root() / models)
    monkeypatch.delenv(self_check.SWITCH, raising=False)
    monkeypatch.setenv("UNISONO_CACHE", str(tmp_path / "cache"))
    return tmp_path


def random_model(folder: Path) -> Path:
    config = transformers.LlamaConfig(**{**COMMON, "max_position_embeddings": 1024})
    return save_model(folder, transformers.LlamaForCausalLM(config))


def load(model: str, backend: str) -> None:
    load_engine(
        prepare(load_spec({"members": [{"name": "m", "model": model, "backend": backend, "context": 1024}]}))
    ).close()


def demo(name: str) -> Path:
    return demo_path(name, lambda *_: None)


LARGE = "qwen2.5-coder-1.5b-instruct"  # its conversion for transformers takes 6 GB


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["llamacpp", "transformers"])
def test_the_demo_models_pass(backend: str, checked: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [name for name, model in DEMO_MODELS.items() if installed(model) and name != LARGE]
    for name in names:
        load(f"demo:{name}", backend)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    results = [json.loads(path.read_text()) for path in (checked / "cache" / "self-checks").iterdir()]
    assert {"smollm2-135m-instruct", "gemma3-270m"} <= set(names)
    assert [result["findings"] for result in results] == [[]] * len(names)


@pytest.mark.models
def test_damage_of_a_real_model_is_found_once_and_told_at_every_load(
    checked: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    smol, names = demo("smollm2-135m-instruct"), "token_embd.weight"
    order = np.random.default_rng(0).permutation(49_152)
    file = read_gguf(smol)
    texts, kinds = (file.metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type"))
    ordinary = [token for token, kind in enumerate(kinds) if kind == 1]
    others = dict(zip(ordinary, np.random.default_rng(1).permutation(ordinary), strict=True))
    tokens = [texts[others.get(token, token)] for token in range(len(texts))]
    cases = {
        "another tokenizer": lambda path: rewrite_gguf(smol, path, metadata={"tokenizer.ggml.tokens": tokens}),
        "permuted": lambda path: rewrite_gguf(
            smol, path, change=lambda name, data: (name, data[order] if name == names else data)
        ),
        "no first layer": lambda path: without_layer(smol, path, 0),
        "another pre": lambda path: rewrite_gguf(smol, path, metadata={"tokenizer.ggml.pre": "deepseek-llm"}),
    }
    words = {
        "another tokenizer": "than noise",
        "permuted": "than noise",
        "no first layer": "than noise",
        "another pre": "expects other tokens",
    }
    for case, write in cases.items():
        path = write(checked / f"{case}.gguf")
        for _ in range(2):
            caplog.clear()
            load(str(path), "llamacpp")
            said = [record.getMessage() for record in caplog.records if "member 'm'" in record.getMessage()]
            counted = [message for message in said if "general.size_label" in message]
            assert len(counted) == (case == "no first layer")
            [told] = [message for message in said if message not in counted]
            assert words[case] in told
        monkeypatch.setenv(self_check.SWITCH, "off")
        caplog.clear()
        load(str(path), "llamacpp")
        assert not [record for record in caplog.records if words[case] in record.getMessage()]
        monkeypatch.delenv(self_check.SWITCH)
        path.unlink()


_GGUF = (
    "aquila baichuan command-r deepseek-coder deepseek-llm falcon gemma-4 gpt-2 gpt-neox llama-bpe llama-spm mpt phi-3 "
    "qwen2 qwen35 refact starcoder"
)
REAL = [
    *(("transformers", name) for name in EOS_IDS),
    *(
        ("llamacpp", name)
        for name in [
            "aquila",
            "baichuan",
            "command-r",
            "deepseek-coder",
            "deepseek-llm",
            "falcon",
            "gemma-4",
            "gpt-2",
            "gpt-neox",
            "llama-bpe",
            "llama-spm",
            "mpt",
            "phi-3",
            "qwen2",
            "qwen35",
            "refact",
            "starcoder",
        ]
    ),
]


@pytest.mark.parametrize(("backend", "name"), REAL)
def test_a_model_that_likes_what_its_real_tokenizer_makes_passes(backend: str, name: str) -> None:
    tokenizer = real(backend, name).tokenizer
    rows, likely = len(tokenizer.table.texts), dict[tuple[int, ...], int]()

    def next_token(read: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
        logits_V = np.zeros(rows, np.float32)
        logits_V[likely.get(read, 0)] = 14.0
        return logits_V

    register_fake("checked", FakeModel(tokenizer, next_token))
    try:
        [member] = prepare(load_spec({"members": [{"name": "m", "model": "fake:checked"}]})).members
        texts = [model_findings.text_ids(member)]
        if member.encoder.template is not None:
            asked = member.encoder.encode_messages([{"role": "user", "content": model_findings.QUESTION}])
            texts.append([*asked, *tokenizer.encode(ANSWER), *member.vocabulary.end_ids[:1]])
        for ids in texts:
            likely |= {tuple(ids[:place]): token for place, token in enumerate(ids) if place}
        assert list(model_findings.findings(member, member.loader.load(lambda *_: None))) == []
    finally:
        del FAKE_MODELS["checked"]
