"""Adapters as rows of one pass: each is as if merged, none touches another, and what does not fit is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

from support.adapters import TARGETS, merged, write_adapter  # noqa: E402
from support.demo import written  # noqa: E402
from support.tiny_models import COMMON, CONFIGS, save_model, save_tiny  # noqa: E402
from unisono.backends.base import Feed, LoadRequest, ModelSource  # noqa: E402
from unisono.backends.prefix_cache import PrefixCache  # noqa: E402
from unisono.backends.transformers.loader import TransformersLoader  # noqa: E402
from unisono.backends.transformers.model_files import ModelFiles  # noqa: E402
from unisono.build import prepare  # noqa: E402
from unisono.chat.messages import Prompt  # noqa: E402
from unisono.config.ensemble import load_spec  # noqa: E402
from unisono.config.method import Method  # noqa: E402
from unisono.engine.engine import Engine  # noqa: E402
from unisono.ensemble import Ensemble  # noqa: E402
from unisono.errors import ModelCorrupt, ModelNotFound, ModelUnsupported, UnisonoError  # noqa: E402
from unisono.loaded_models import load_models  # noqa: E402

PROMPTS = [Prompt(text="Hello"), Prompt(text="Why is it so?")]
IDS = [256, 72, 101, 108, 108, 111, 44]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "some-base", "llama")


def model_of(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()


def loader(folder: Path, *adapters: Path, **options: Any) -> TransformersLoader:
    source = ModelSource("folder", str(folder))
    names = tuple(map(str, adapters))
    return TransformersLoader(
        LoadRequest("m", source, device="cpu", context=64, slots=6, options=options, adapters=names)
    )


def load(folder: Path, *adapters: Path, **options: Any) -> Any:
    return loader(folder, *adapters, **options).load(lambda fraction, words: None)


def rows_of(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        rows: np.ndarray = model(input_ids=torch.tensor([ids])).logits[0].numpy()
    return rows


FLAT = {
    "opt": transformers.OPTConfig(
        **COMMON | {"num_key_value_heads": None}, ffn_dim=48, word_embed_proj_dim=32, do_layer_norm_before=True
    ),
    "qwen2_moe": transformers.Qwen2MoeConfig(
        **COMMON, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=24
    ),
}
"""Models some of whose layers see the ids of all rows below one another."""


@pytest.mark.parametrize("kind", ["llama", "llama apart", "gemma3", "gpt2", "bloom", *FLAT])
def test_rows_of_one_pass_are_those_of_merged_models(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two adapters, of which one changes fewer layers, and none: alone, together, and after reads of unequal length."""
    kind, _, apart = kind.partition(" ")
    if kind in FLAT:
        monkeypatch.setitem(CONFIGS, kind, FLAT[kind])
    folder, targets = save_tiny(tmp_path / "some-base", kind), TARGETS
    targets = {"gpt2": ("c_attn", "c_fc"), "bloom": ("query_key_value", "dense_4h_to_h")}.get(kind, TARGETS)
    targets = {"opt": ("fc2", "fc1", "q_proj"), "qwen2_moe": ("shared_expert.up_proj", "q_proj")}.get(kind, targets)
    first = write_adapter(tmp_path / "first", model_of(folder), 1, targets=targets)
    second = write_adapter(tmp_path / "second", model_of(folder), 2, rank=2, targets=targets[:1])
    expected = {
        None: rows_of(model_of(folder), IDS),
        str(first): rows_of(merged(model_of(folder), first), IDS),
        str(second): rows_of(merged(model_of(folder), second), IDS),
    }
    backend = load(folder, first, second)
    assert backend.adapters.mixed
    backend.adapters.mixed = not apart  # as of models whose layers do not see whole rows
    slots = {name: backend.open() if name is None else backend.open(adapter=name) for name in expected}
    for lengths in ((3, 3, 3), (1, 2, 4)):
        feeds, wanted = [], []
        for (name, slot), length in zip(slots.items(), lengths, strict=True):
            backend.rewind(slot, 0 if lengths == (3, 3, 3) else 2)
            start = 0 if lengths == (3, 3, 3) else 2
            feeds.append(Feed(slot, IDS[start : start + length], length))
            wanted.append(expected[name][start : start + length])
        np.testing.assert_allclose(backend.advance(feeds), np.concatenate(wanted), atol=2e-4)
    copy = backend.open(slots[str(first)])
    backend.close(slots[None])
    np.testing.assert_allclose(backend.advance([Feed(copy, IDS[4:5])]), expected[str(first)][4:5], atol=2e-4)
    backend.unload()


def test_a_layer_that_the_model_only_reads_cannot_have_an_adapter(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_alone(mlp: Any, x: Any) -> Any:
        return torch.nn.functional.linear(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x), mlp.down_proj.weight)

    adapter = write_adapter(tmp_path / "its", model_of(tiny), 3)
    monkeypatch.setattr(type(model_of(tiny).model.layers[0].mlp), "forward", read_alone)
    with pytest.raises(ModelUnsupported, match=r"'m' .*does not call the layers .*mlp.down_proj, which adapters"):
        load(tiny, adapter)


def test_layers_that_ids_are_sent_to_are_not_mixed(tiny: Path, tmp_path: Path) -> None:
    adapters = load(tiny, write_adapter(tmp_path / "its", model_of(tiny), 3)).adapters

    def seen(shape: tuple[int, ...], name: str = "model.layers.0.mlp.down_proj") -> bool:
        def run(names: Any) -> int:
            adapters._trial.update({each: (len(names), 3, 32) for each in adapters._layers} | {name: shape})
            return 3

        adapters.try_out(run, 2, "m")
        return bool(adapters.mixed)

    assert seen((2, 3, 32))
    assert seen((6, 32))
    assert not seen((5, 32))
    assert not seen((1, 6, 32))
    assert not seen((6, 32), "model.layers.0.mlp.experts.1.down_proj")


def test_an_adapter_of_nothing_is_the_base(tiny: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "zero", model_of(tiny), 1)
    tensors = safetensors_torch.load_file(adapter / "adapter_model.safetensors")
    zeros = {name: each * ("lora_A" in name) for name, each in tensors.items()}
    safetensors_torch.save_file(zeros, adapter / "adapter_model.safetensors")
    backend = load(tiny, adapter)
    base, its = backend.open(), backend.open(adapter=str(adapter))
    alone, together = backend.advance([Feed(base, IDS, 4)]).copy(), backend.advance([Feed(its, IDS, 4)])
    np.testing.assert_array_equal(together, alone)
    backend.unload()
    assert [each for each in loader(tiny, adapter).facts().warnings if "changes nothing" in each]


def test_an_adapters_files_are_looked_at_before_its_model_is_read(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unisono.wanted_models.make_loader", lambda *_: pytest.fail("the model is read"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFound, match=r"member 'm': the adapter '.*empty' lacks adapter_config\.json"):
        prepare(load_spec(spec(tiny, {"name": "m", "adapter": str(tmp_path / "empty")})))


def test_an_adapter_of_another_model_is_refused_before_the_tokenizer_is_read(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = write_adapter(tmp_path / "its", model_of(tiny), 3, base_model_name_or_path="a/other-base")
    monkeypatch.setattr(ModelFiles, "tokenizer", property(lambda _: pytest.fail("the tokenizer is read")))
    with pytest.raises(ModelUnsupported, match="on 'a/other-base', and the model is some-base"):
        loader(tiny, adapter).tokenizer()


@pytest.mark.parametrize(
    ("keys", "scale"),
    [
        ({"use_rslora": True}, 6 / 3**0.5),
        ({"lora_alpha": 5}, 5 / 3),
        ({"alpha_pattern": {"v_proj": 9, r"layers\.\d+\.self_attn\.q_proj": 9, "down_proj": 9}}, 3.0),
        ({"r": 8, "rank_pattern": {"v_proj": 3, "q_proj": 3, "down_proj": 3}}, 2.0),
        ({"base_model_name_or_path": "Someone/Some_Base"}, 2.0),
        ({"init_lora_weights": "gaussian", "lora_dropout": 0.1, "peft_version": "0.1", "eva_config": None}, 2.0),
    ],
    ids=str,
)
def test_scales_follow_the_file(tiny: Path, tmp_path: Path, keys: dict[str, Any], scale: float) -> None:
    adapter = write_adapter(tmp_path / "its", model_of(tiny), 3, **keys)
    backend = load(tiny, adapter)
    found = backend.advance([Feed(backend.open(adapter=str(adapter)), IDS)])
    np.testing.assert_allclose(found, rows_of(merged(model_of(tiny), adapter, scale), IDS)[-1:], atol=2e-4)
    backend.unload()


def broken(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def write(adapter: Path) -> None:
        tensors = safetensors_torch.load_file(adapter / "adapter_model.safetensors")
        change(tensors)
        safetensors_torch.save_file(tensors, adapter / "adapter_model.safetensors")

    return write


LAST = "base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight"
REFUSED: dict[str, tuple[dict[str, Any] | Callable[[Path], None], type[UnisonoError], str]] = {
    "another base": (
        {"base_model_name_or_path": "a/other-base"},
        ModelUnsupported,
        "on 'a/other-base', and the model is some-base",
    ),
    "DoRA": ({"use_dora": True}, ModelUnsupported, "has use_dora true, which is not applied here"),
    "another kind": ({"peft_type": "LOHA"}, ModelUnsupported, "has peft_type 'LOHA'"),
    "biases": ({"bias": "all"}, ModelUnsupported, "has bias 'all'"),
    "modules": ({"modules_to_save": ["lm_head"]}, ModelUnsupported, "has modules_to_save"),
    "a start that changes the base": ({"init_lora_weights": "pissa"}, ModelUnsupported, "init_lora_weights 'pissa'"),
    "what nobody knows": ({"new_way": {"x": 1}}, ModelUnsupported, "has new_way"),
    "a rank that is none of its own": ({"r": 4}, ModelCorrupt, "has rank 3 at .*, and adapter_config.json says 4"),
    "an alpha beyond numbers": ({"lora_alpha": 10**400}, ModelCorrupt, "lora_alpha is 1000"),
    "an alpha beyond float32": ({"lora_alpha": 1e40}, ModelCorrupt, "lora_alpha is 1e"),
    "no alpha": ({"lora_alpha": None}, ModelCorrupt, "lora_alpha is null"),
    "layers that it lacks": ({"target_modules": ["q_proj", "o_proj"]}, ModelUnsupported, "no weights for .*o_proj"),
    "fewer blocks": (
        broken(lambda its: [its.pop(name) for name in list(its) if ".layers.2." in name]),
        ModelUnsupported,
        "has no weights for model.layers.2.*, which it is said to change",
    ),
    "more blocks": (
        broken(lambda its: its.update({name.replace("s.2.", "s.3."): its[name].clone() for name in list(its)})),
        ModelUnsupported,
        "and the model has no such linear layer",
    ),
    "other widths": (
        broken(lambda its: its.update({LAST: torch.ones(3, 31)})),
        ModelUnsupported,
        "has 3 × 31 and .* for the layer model.layers.2.self_attn.q_proj, which is of",
    ),
    "half": (broken(lambda its: its.pop(LAST)), ModelCorrupt, "holds one half of"),
    "embeddings": (
        broken(lambda its: its.update({"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(3, 264)})),
        ModelUnsupported,
        "lora_embedding_A.*beside the pairs",
    ),
    "nothing": (broken(lambda its: its.clear()), ModelCorrupt, "holds no weights|is empty|no tensor"),
    "no file": (lambda adapter: (adapter / "adapter_model.safetensors").unlink(), ModelNotFound, "lacks adapter_model"),
    "no configuration": (lambda adapter: (adapter / "adapter_config.json").unlink(), ModelNotFound, "lacks adapter_co"),
    "no JSON": (lambda adapter: (adapter / "adapter_config.json").write_text("{"), ModelCorrupt, "cannot be read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_before_weights_are_loaded(tiny: Path, tmp_path: Path, case: str) -> None:
    change, kind, words = REFUSED[case]
    adapter = write_adapter(tmp_path / "its", model_of(tiny), 3, **(change if isinstance(change, dict) else {}))
    if callable(change):
        change(adapter)
    with pytest.raises(kind, match=words) as refusal:
        loader(tiny, adapter).facts()
    assert "member 'm'" in refusal.value.message
    assert refusal.value.hint


@pytest.mark.parametrize("layer", ["lm_head.base_layer", "lm_head", "model.embed_tokens"])
def test_weights_of_a_base_are_those_of_the_model(tiny: Path, tmp_path: Path, layer: str) -> None:
    """PEFT saves an output layer and embeddings beside an adapter, which may have been resized, or another model's."""
    adapter = write_adapter(tmp_path / "its", model_of(tiny), 3, targets=("lm_head",))
    name = f"base_model.model.{layer}.weight"
    own = model_of(tiny).get_submodule(layer.removesuffix(".base_layer")).weight.data
    broken(lambda its: its.update({name: own.clone()}))(adapter)
    load(tiny, adapter).unload()
    broken(lambda its: its.update({name: own + 1}))(adapter)
    with pytest.raises(ModelUnsupported, match=r"holds weights of its base for .*, and they are not the model's"):
        load(tiny, adapter)
    broken(lambda its: its.update({name: own[:-2].clone()}))(adapter)
    with pytest.raises(ModelUnsupported, match="whole, as 262 × 32, and the model has 264 × 32: it was trained after"):
        loader(tiny, adapter).facts()


def test_numbers_that_are_none_are_refused_when_they_are_read(tiny: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "its", model_of(tiny), 3)
    broken(lambda its: its[LAST].fill_(float("nan")))(adapter)
    with pytest.raises(ModelCorrupt, match=r"has numbers that are none at model.layers.2.self_attn.q_proj"):
        load(tiny, adapter)


def test_numbers_that_the_scale_makes_none_are_refused_when_they_are_read(tiny: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "its", model_of(tiny), 3, lora_alpha=1e30)
    broken(lambda its: [its[name].mul_(1e12) for name in its if "lora_B" in name])(adapter)
    with pytest.raises(ModelCorrupt, match="or that its scale of 3"):
        load(tiny, adapter)


def test_what_one_adapter_has_read_is_no_prefix_of_another(tiny: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "its", model_of(tiny), 3)
    cache, name = PrefixCache(load(tiny, adapter), shortest=2), str(adapter)
    expected = {None: rows_of(model_of(tiny), IDS)[-1:], name: rows_of(merged(model_of(tiny), adapter), IDS)[-1:]}
    for round_ in range(2):  # the second time each finds its own
        for its in (None, name):
            slot, known = cache.resume(IDS, adapter=its)
            assert known == (len(IDS) - 1 if round_ else 0)
            np.testing.assert_allclose(cache.advance([Feed(slot, IDS[known:])]), expected[its], atol=2e-4)
            cache.close(slot)
    assert cache.reused == 2 * (len(IDS) - 1)
    cache.unload()


def spec(tiny: Path, *members: dict[str, Any], **keys: Any) -> dict[str, Any]:
    first, *others = members
    owner = {"model": str(tiny), "backend": "transformers", "context": 64, **first}
    return {"members": [owner, *({"share_weights_with": first["name"], **each} for each in others)], **keys}


def texts_of(engine: Engine) -> list[bytes]:
    return [b"".join(step.piece or b"" for step in text.steps) for text in written(engine, PROMPTS, 10, 2, Method())]


def test_a_member_has_the_adapter_that_its_own_key_names(tiny: Path, tmp_path: Path) -> None:
    """A base and two adapters, in two orders: each alone writes what its merged model does, and all are one model."""
    adapters = {name: write_adapter(tmp_path / name, model_of(tiny), seed) for seed, name in enumerate(("a", "b"))}
    alone = {}
    for name in ("base", *adapters):
        model = merged(model_of(tiny), adapters[name]) if name in adapters else model_of(tiny)
        with Ensemble.load(spec(save_model(tmp_path / f"merged-{name}", model), {"name": name}), batch=2) as ensemble:
            alone[name] = texts_of(ensemble._engine)
    assert len({str(texts) for texts in alone.values()}) == 3
    members = [{"name": "base"}, *({"name": name, "adapter": str(adapter)} for name, adapter in adapters.items())]
    for order in (members, members[::-1]):
        prepared = prepare(load_spec(spec(tiny, *order)), batch=2)
        with load_models([prepared]) as models:
            engine = models.engine(prepared)
            assert len({member.model for member in engine.members}) == 1
            assert texts_of(engine)
            assert {name: texts_of(models.engine(prepared.alone(name))) for name in alone} == alone
            scores = [models.engine(prepared.alone(name)).score([(PROMPTS[0], "lo")])[0].logp for name in alone]
            assert len(set(scores)) == 3
