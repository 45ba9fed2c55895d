"""From a spec to its parts: which model, which backend, and what is refused before anything is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from unisono import wanted_models
from unisono.backends import registry
from unisono.backends.base import LoadRequest, ModelSource
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.build import prepare
from unisono.chat.messages import Prompt
from unisono.config import model_source
from unisono.config.ensemble import EnsembleSpec, MemberSpec, load_spec
from unisono.config.model_source import adapter_is_file, choose_backend, find_adapter, find_model
from unisono.engine.request import GenerationRequest
from unisono.ensemble import Ensemble
from unisono.errors import (
    BackendMissing,
    ModelCorrupt,
    ModelNotFound,
    ModelUnsupported,
    PromptError,
    SpecError,
    VocabularyError,
)
from unisono.loaded_models import load_engine
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, fake_member, hashed_rule, register_fake


def member(**keys: Any) -> MemberSpec:
    return MemberSpec.model_validate({"name": "m", "model": "x", **keys})


def quiet(fraction: float, words: str) -> None:
    pass


@pytest.mark.parametrize("name", ["mymodel", "README.md", "org/model"])
def test_what_is_only_in_the_current_folder_is_not_taken_for_a_model_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "specs").mkdir()
    (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "specs")
    assert find_model(member(model=name), tmp_path / "specs", quiet).kind == "hub"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFound, match="but is in the current folder") as refused:
        find_model(member(model=name), tmp_path / "specs", quiet)
    assert "relative paths are taken from the folder of the ensemble file" in (refused.value.hint or "")


def test_a_model_is_a_folder_a_file_or_a_hub_id(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.gguf").write_bytes(b"GGUF rest")
    for name, kind in (("folder", "folder"), ("file.gguf", "gguf"), ("org/name", "hub"), ("gpt2", "hub")):
        source = find_model(member(model=name), tmp_path, quiet)
        assert source.kind == kind
    assert find_model(member(model="folder"), tmp_path, quiet).path == tmp_path / "folder"


@pytest.mark.parametrize("name", ["./none", "/none", "~/none/x", "none.gguf", "a/b/c"])
def test_a_path_with_nothing_behind_it_is_not_found(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelNotFound, match=r"'m'.*does not exist"):
        find_model(member(model=name), tmp_path, quiet)


def test_a_file_that_is_no_gguf_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"nonsense")
    with pytest.raises(ModelCorrupt, match="is not a GGUF file"):
        find_model(member(model="x.gguf"), tmp_path, quiet)


@pytest.mark.parametrize(
    ("given", "near"),
    [("gema3-270m", "gemma3-270m"), ("smollm2", "smollm2-135m-instruct"), ("SmolLM2-135M", "smollm2-135m-instruct")],
)
def test_an_unknown_demo_model_is_refused_with_its_member_and_the_nearest(given: str, near: str) -> None:
    with pytest.raises(ModelNotFound) as refused:
        find_model(member(model=f"demo:{given}"), Path(), quiet)
    assert refused.value.message == f"member 'm': unknown demo model {given!r}; did you mean 'demo:{near}'?"


def test_a_folder_without_a_model_is_refused_before_any_library_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("a library is imported")

    monkeypatch.setattr(wanted_models, "make_loader", refuse)
    spec = EnsembleSpec.model_validate({"members": [{"name": "m", "model": "."}], "folder": tmp_path})
    with pytest.raises(ModelNotFound, match=r"member 'm': .* holds no config\.json"):
        prepare(spec)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelNotFound, match=r"member 'm': .* holds no tokenizer"):
        prepare(spec)


GGUF, HUB = ModelSource("gguf", "x.gguf"), ModelSource("hub", "org/x")


def test_the_backend_is_the_first_that_reads_the_model_and_knows_the_keys() -> None:
    assert choose_backend(member(), GGUF).name == "llamacpp"
    assert choose_backend(member(dtype="float32"), GGUF).name == "transformers"
    assert choose_backend(member(options={"attention": "eager"}), GGUF).name == "transformers"
    assert choose_backend(member(), HUB).name == "transformers"


def test_the_backend_is_one_that_reads_the_form_of_the_adapter(tmp_path: Path) -> None:
    (tmp_path / "file.gguf").touch()
    (tmp_path / "folder").mkdir()
    forms = {words: adapter_is_file(words, tmp_path) for words in ("file.gguf", "folder", "nothing", "fake:x")}
    assert forms == {"file.gguf": True, "folder": False, "nothing": None, "fake:x": None}
    assert choose_backend(member(), GGUF, True).name == "llamacpp"
    assert choose_backend(member(), GGUF, False).name == "transformers"
    assert choose_backend(member(), HUB, True).name == "transformers"  # which says what its adapters are
    with pytest.raises(ModelUnsupported, match="is a fake, and the backend 'transformers' has models"):
        find_adapter(member(adapter="fake:x"), tmp_path, "transformers")


def test_a_backend_that_is_not_installed_is_passed_over_or_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_source, "installed", lambda entry: entry.name != "llamacpp")
    assert choose_backend(member(), GGUF).name == "transformers"
    monkeypatch.setattr(model_source, "installed", lambda entry: False)
    with pytest.raises(BackendMissing) as caught:
        choose_backend(member(), HUB)
    assert "pip install 'unisono[transformers]'" in str(caught.value.hint)
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendMissing, match="'m' needs the backend 'llamacpp', but llama_cpp is not installed"):
        registry.make_loader("llamacpp", LoadRequest("m", GGUF))


@pytest.mark.parametrize(
    ("keys", "source", "words"),
    [
        ({"backend": "llamacpp"}, HUB, "cannot read a hub id"),
        ({"backend": "llamacpp", "dtype": "float32"}, GGUF, "has no use for the key 'dtype'"),
        (
            {"backend": "llamacpp", "options": {"gpu_layer": 1}},
            GGUF,
            "no option 'gpu_layer'; did you mean 'gpu_layers'",
        ),
        ({"options": {"speed": 11}}, GGUF, "has no option 'speed'"),
    ],
)
def test_what_a_backend_cannot_do_is_refused(keys: dict[str, Any], source: ModelSource, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        choose_backend(member(**keys), source)


def test_a_prompt_is_checked_before_any_weights_are_loaded() -> None:
    base = byte_level_table(chat_template=None)
    model = register_fake("base", FakeModel(LongestMatchTokenizer(base), hashed_rule(len(base.texts))))
    try:
        prepared = prepare(load_spec({"members": [{"name": "base", "model": "fake:base"}]}))
        with pytest.raises(PromptError, match="'base' has no chat template"):
            prepared.check_prompt(Prompt(messages=({"role": "user", "content": "hi"},)))
        assert model.passes == []
    finally:
        FAKE_MODELS.clear()


def test_a_template_of_the_model_that_is_not_valid_is_no_sign_of_a_base_model() -> None:
    table = byte_level_table(chat_template="{% if %}")
    register_fake("bad", FakeModel(LongestMatchTokenizer(table), hashed_rule(len(table.texts))))
    try:
        prepared = prepare(load_spec({"members": [{"name": "bad", "model": "fake:bad"}]}))
        with pytest.raises(PromptError, match="no chat template: its model's own is not valid"):
            prepared.check_prompt(Prompt(messages=({"role": "user", "content": "hi"},)))
    finally:
        FAKE_MODELS.clear()


def test_a_letter_that_ends_texts_is_named_where_it_cannot_be_spelled() -> None:
    table = byte_level_table()
    table = replace(table, declared_end_ids=(table.texts.index("e"),))
    register_fake("odd", FakeModel(LongestMatchTokenizer(table), hashed_rule(len(table.texts))))
    try:
        with pytest.raises(VocabularyError, match=r"65; it ends its texts at 'e', the id \d+, which is ord"):
            prepare(load_spec({"members": [{"name": "odd", "model": "fake:odd"}]}))
    finally:
        FAKE_MODELS.clear()


def test_a_bad_template_a_bad_batch_and_a_mute_vocabulary_are_refused() -> None:
    fake_member("a")
    mute = byte_level_table(without=[ord("e")])
    register_fake("mute", FakeModel(LongestMatchTokenizer(mute), hashed_rule(len(mute.texts))))
    try:
        with pytest.raises(SpecError, match="the chat_template of member 'a' is not valid Jinja: line 1"):
            Ensemble.load({"members": [{"name": "a", "model": "fake:a", "chat_template": "{% if %}"}]})
        with pytest.raises(SpecError, match="the batch is 0"):
            Ensemble.load({"members": [{"name": "a", "model": "fake:a"}]}, batch=0)
        with pytest.raises(VocabularyError, match="'m' cannot spell 1 bytes of plain text: 65"):
            Ensemble.load({"members": [{"name": "m", "model": "fake:mute"}]})
    finally:
        FAKE_MODELS.clear()


def test_what_was_loaded_is_freed_when_a_later_member_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_member("a")
    fake_member("b", seed=1)
    try:
        prepared = prepare(load_spec({"members": [{"name": n, "model": f"fake:{n}"} for n in "ab"]}))
        unloaded: list[str] = []
        first = prepared.members[0].loader.load(quiet)
        monkeypatch.setattr(first, "unload", lambda: unloaded.append("a"))
        monkeypatch.setattr(prepared.members[0].loader, "load", lambda progress: first)

        def fail(progress: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(prepared.members[1].loader, "load", fail)
        with pytest.raises(KeyboardInterrupt):
            load_engine(prepared)
        assert unloaded == ["a"]
    finally:
        FAKE_MODELS.clear()


def test_a_prompt_that_was_checked_is_not_encoded_again() -> None:
    fake_member("a", [" the"], seed=1)
    prepared = prepare(load_spec({"members": [{"name": "a", "model": "fake:a"}]}))
    tokenizer, calls = prepared.members[0].encoder.tokenizer, []
    encode = tokenizer.encode_prompt
    tokenizer.encode_prompt = lambda text: calls.append(text) or encode(text)  # type: ignore[method-assign, func-returns-value]
    prompt = Prompt(text="Hello")
    prepared.check_prompt(prompt)
    with load_engine(prepared) as engine:
        engine.prepare(GenerationRequest("", prompt))
        assert calls.count("Hello") == 1
        engine.prepare(GenerationRequest("", prompt))
        assert calls.count("Hello") == 2
