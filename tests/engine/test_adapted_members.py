"""Members of one model with adapters of their own: one pass, and otherwise members like any others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from support.demo import written
from support.fakes import GATES, PROMPTS, check, make_fakes, oracle, storyteller
from support.methods import FixedDraftLength
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.backends.prefix_cache import PrefixCache
from unisono.build import prepare, prepare_several
from unisono.chat.messages import Prompt
from unisono.config.ensemble import load_spec
from unisono.config.member import MemberSpec
from unisono.config.member_line import read_member
from unisono.config.method import Method
from unisono.config.model_source import find_adapter
from unisono.diagnosis import diagnose
from unisono.engine.engine import Engine
from unisono.engine.reading import Reading
from unisono.ensemble import Ensemble
from unisono.errors import ModelNotFound, ModelUnsupported, SpecError
from unisono.identity import check_fitted, identity, marks_of
from unisono.loaded_models import load_models, load_service

PLAIN: dict[str, Any] = {"name": "plain", "model": "fake:a"}
POET: dict[str, Any] = {"name": "poet", "share_weights_with": "plain", "adapter": "fake:poet"}
COOK: dict[str, Any] = {"name": "cook", "share_weights_with": "plain", "adapter": "fake:cook"}
OTHER: dict[str, Any] = {"name": "other", "model": "fake:b"}
SMALL = ("always", "confidence:0.6", "every:3")


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    table = FAKE_MODELS["a"].tokenizer.table
    FAKE_MODELS["a"].adapters = {"poet": storyteller(table, 11), "cook": storyteller(table, 12)}
    for seed, name in ((11, "poet"), (12, "cook")):  # the same as models of their own
        model = FAKE_MODELS[name] = type(FAKE_MODELS["a"])(FAKE_MODELS["a"].tokenizer, storyteller(table, seed))
        assert not model.adapters
    yield
    FAKE_MODELS.clear()


def engine_of(*members: dict[str, Any]) -> Engine:
    loaded = Ensemble.load({"members": list(members)}, batch=8)._engine
    return Engine(loaded.members, loaded.union, draft_length=FixedDraftLength())


def test_the_fixture_has_the_gates_of_the_laws() -> None:
    assert set(SMALL) <= set(GATES)


@pytest.mark.parametrize("gate", SMALL)
def test_they_write_what_models_of_their_own_would_write(gate: str) -> None:
    """Law 5, with drafts of a member that has an adapter, in a batch."""
    own = [{"name": name, "model": f"fake:{its}"} for name, its in (("plain", "a"), ("poet", "poet"), ("cook", "cook"))]
    method = Method(lead="poet").but(gate=gate)
    expected = oracle(engine_of(*own, OTHER), PROMPTS[:4], method, 10)
    names = ("plain", "poet", "cook", "other")
    for drafter in ("off", "cook:3"):
        engine = engine_of(PLAIN, POET, COOK, OTHER)
        check(written(engine, PROMPTS[:4], 10, 3, method.but(speculate=drafter)), expected, names)
        check(written(engine, PROMPTS[:4], 10, 3, method), oracle(engine, PROMPTS[:4], method, 10), names)


def test_they_are_rows_of_one_pass() -> None:
    engine = engine_of(PLAIN, POET, COOK)
    FAKE_MODELS["a"].passes.clear()
    written(engine, PROMPTS[:1], 5, 1)
    assert {len(each.feeds) for each in FAKE_MODELS["a"].passes} == {3}


def test_what_one_has_read_is_no_prefix_for_another() -> None:
    engine = engine_of(PLAIN, POET, COOK)
    expected = [step.p for text in written(engine, PROMPTS[:4], 10, 2) for step in text.steps]
    prepared = prepare(load_spec({"members": [PLAIN, POET, COOK]}), batch=8)
    with load_models([prepared], keep_prefixes=True) as models:
        cached = models.engine(prepared)
        for _ in range(2):
            again = [step.p for text in written(cached, PROMPTS[:4], 10, 2) for step in text.steps]
            assert again == pytest.approx(expected, rel=1e-5)
        [cache] = {id(its): its for its in models._caches.values()}.values()
        assert isinstance(cache, PrefixCache)
        assert cache.reused > 0


def test_ensembles_that_share_a_model_have_the_adapters_of_both() -> None:
    first, second = prepare_several(
        [load_spec({"members": [PLAIN, POET]}), load_spec({"members": [{**PLAIN, "adapter": "fake:cook"}, OTHER]})],
        batch=2,
    )
    assert first.members[0].loader is second.members[0].loader
    with load_models([first, second]) as models:
        cook = models.engine(second.alone("plain"))
        texts = [
            written(engine, PROMPTS[:3], 8, 1) for engine in (cook, engine_of({"name": "x", "model": "fake:cook"}))
        ]
        assert [text.steps[0].p for text in texts[0]] == [text.steps[0].p for text in texts[1]]
        settings = [
            models.engine(each).setting(each.spec.method) for each in (first.alone("plain"), second.alone("plain"))
        ]
        asked = [(PROMPTS[0], " the cat")]
        [[base], [its]] = Reading(settings).score(asked)
        assert [base.logp] == pytest.approx([models.engine(first.alone("plain")).score(asked)[0].logp])
        assert [its.logp] == pytest.approx([cook.score(asked)[0].logp])
        assert base.logp != its.logp


def test_a_server_answers_for_each_alone() -> None:
    service = load_service({"all": prepare(load_spec({"members": [PLAIN, POET, COOK]}), batch=2)})
    adapters = {name: engine.members[0].adapter for name, engine in service.engines.items() if "/" in name}
    assert adapters == {"all/plain": None, "all/poet": "poet", "all/cook": "cook"}


def adapter_file(folder: Path, content: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_text(content)
    (folder / "adapter_config.json").write_text("{}")
    return folder


def test_another_adapter_is_another_model(tmp_path: Path) -> None:
    """Of a member whose folder is changed, and of one that has none any more."""
    [member] = prepare(load_spec({"members": [{**PLAIN, "adapter": "fake:poet"}]})).members
    adapted = replace(member, adapter=str(adapter_file(tmp_path / "its", "one")))
    fitted = {"plain": marks_of(adapted)}
    assert len(identity(adapted)["adapter"]) == 64
    check_fitted([adapted], fitted, whole=False)
    for other in (replace(member, adapter=None), replace(adapted, adapter=str(adapter_file(tmp_path / "o", "two")))):
        for whole in (False, True):
            with pytest.raises(SpecError, match="fitted on another adapter of member 'plain'"):
                check_fitted([other], fitted, whole=whole)
    with pytest.raises(SpecError, match=r"another adapter .*was none"):
        check_fitted([adapted], {"plain": marks_of(replace(member, adapter=None))}, whole=False)


def test_doctor_shows_adapters_and_does_not_take_them_for_the_same() -> None:
    found = diagnose(prepare(load_spec({"members": [PLAIN, POET, COOK]})))
    assert [member.adapter for member in found.members] == [None, "fake:poet", "fake:cook"]
    assert not any("are the same" in warning for warning in found.warnings)
    twin = {**POET, "name": "twin"}
    found = diagnose(prepare(load_spec({"members": [PLAIN, POET, twin]})))
    assert any("poet and twin are the same" in warning for warning in found.warnings)
    assert json.dumps(asdict(found), default=str)


@pytest.mark.parametrize(
    ("members", "kind", "words"),
    [
        ([{**PLAIN, "adapter": "fake:nobody"}], ModelNotFound, "has no adapter 'nobody'"),
        (
            [{**PLAIN, "adapter": "./not-there"}],
            ModelNotFound,
            r"the adapter of member 'plain', './not-there', is not at",
        ),
        ([{**PLAIN, "adapter": ""}], SpecError, "adapter is ''"),
        ([{"name": "x", "url": "http://h:1", "adapter": "p"}], SpecError, "the weights of this member are elsewhere"),
        (
            [{"name": "x", "model": "m", "ray": {}, "adapter": "p"}],
            SpecError,
            "the weights of this member are elsewhere",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_adapters_that_cannot_be_are_refused(members: list[dict[str, Any]], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        Ensemble.load({"members": members})


def test_an_adapter_of_another_backend_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lora.gguf").write_bytes(b"GGUF")
    folder = adapter_file(tmp_path / "folder", "one")
    for path, backend in ((folder, "llamacpp"), (tmp_path / "lora.gguf", "transformers")):
        with pytest.raises(ModelUnsupported, match=f"for the backend '{backend}' an adapter is"):
            find_adapter(MemberSpec(name="x", model="m", adapter=path.name), tmp_path, backend)
    with pytest.raises(SpecError, match="the backend 'vllm' has none"):
        find_adapter(MemberSpec(name="x", model="m", adapter=folder.name), tmp_path, "vllm")


def test_a_line_has_room_for_an_adapter() -> None:
    line = "poet=demo:gemma3-270m adapter:out/poet weight:0.5"
    assert read_member(line) | {} == {
        "name": "poet",
        "model": "demo:gemma3-270m",
        "chat_template": "plain",
        "adapter": "out/poet",
        "weight": 0.5,
    }


def test_prompts_of_raw_text_are_read_by_each() -> None:
    engine = engine_of(PLAIN, POET)
    [text] = written(engine, [Prompt(text="the cat")], 3, 1)
    assert set(text.steps[0].members) == {"plain", "poet"}
