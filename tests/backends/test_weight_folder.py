"""Folders of weights: pickles, adapters, named files and parts that do not agree; what heads show is said unread."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

from support.tiny_models import COMMON, CONFIGS, save_model, save_tiny  # noqa: E402
from unisono.backends.base import Feed, LoadRequest, ModelSource  # noqa: E402
from unisono.backends.transformers.loader import TransformersLoader  # noqa: E402
from unisono.backends.weight_files import check_safetensors, check_shards, read_index  # noqa: E402
from unisono.errors import ModelCorrupt, ModelNotFound, ModelUnsupported  # noqa: E402

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 123456\n"
Weights = dict[str, Any]
TRUSTED = {"allow_pickle": True}


def loader(folder: Path, **options: Any) -> TransformersLoader:
    source = ModelSource("folder", str(folder))
    return TransformersLoader(LoadRequest("m", source, device="cpu", context=64, options=options))


def load(folder: Path, **options: Any) -> Any:
    return loader(folder, **options).load(lambda fraction, words: None)


def weights_of(folder: Path) -> Weights:
    return dict(safetensors_torch.load_file(folder / "model.safetensors"))


def write(folder: Path, weights: Weights, file: str = "model.safetensors") -> Path:
    safetensors_torch.save_file(weights, folder / file, metadata={"format": "pt"})
    return folder


def pickled(folder: Path, parts: int = 1, kind: str = "llama") -> Path:
    weights = weights_of(save_tiny(folder, kind))
    (folder / "model.safetensors").unlink()
    if parts == 1:
        torch.save(weights, folder / "pytorch_model.bin")
        return folder
    names = sorted(weights)
    files = {name: f"pytorch_model-{n % parts + 1:05}-of-{parts:05}.bin" for n, name in enumerate(names)}
    for file in set(files.values()):
        torch.save({name: weights[name] for name in names if files[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return folder


@pytest.mark.parametrize("parts", [1, 3])
def test_pickles_that_are_whole_are_loaded_and_doctor_says_that_it_does_not_look_into_them(
    tmp_path: Path, parts: int
) -> None:
    made = loader(pickled(tmp_path, parts), **TRUSTED)
    facts = made.facts()
    assert facts.warnings == ()
    assert [words.partition(":")[0] for words in facts.unchecked] == ["whether its weights are complete"]
    assert made.load(lambda fraction, words: None).facts.warnings == ()


DAMAGES: list[tuple[Callable[[Path], object], type[Exception], str]] = [
    (lambda file: file.write_text(POINTER), ModelCorrupt, "is a Git LFS pointer"),
    (lambda file: file.write_bytes(b""), ModelCorrupt, "is empty"),
    (lambda file: file.write_text("<html>Sign in"), ModelCorrupt, "is a web page"),
    (lambda file: file.write_bytes(file.read_bytes()[:900]), ModelCorrupt, "is cut short"),
    (lambda file: file.write_bytes(b"GGUF" + b"\0" * 60), ModelUnsupported, "is a GGUF file"),
    (lambda file: safetensors_torch.save_file({"a": torch.zeros(3)}, file), ModelUnsupported, "is a safetensors file"),
]


@pytest.mark.parametrize(("damage", "error", "words"), DAMAGES, ids=[words for *_, words in DAMAGES])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_pickle_that_is_none_is_named_for_what_it_is(
    tmp_path: Path, parts: int, damage: Callable[[Path], object], error: type[Exception], words: str
) -> None:
    folder = pickled(tmp_path, parts)
    file = max(folder.glob("pytorch_model*.bin"))
    damage(file)
    with pytest.raises(error, match=f"member 'm': .*{file.name} {words}"):
        load(folder, **TRUSTED)
    [warning] = loader(folder, **TRUSTED).facts().warnings
    assert words in warning


def test_a_part_of_pickled_weights_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = pickled(tmp_path, 3)
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    words = "part 2 of 3 of the weights is missing: .*pytorch_model-00002-of-00003.bin"
    with pytest.raises(ModelNotFound, match=words):
        load(folder, **TRUSTED)
    [warning] = loader(folder, **TRUSTED).facts().warnings
    assert "part 2 of 3 of the weights is missing" in warning
    (folder / "pytorch_model.bin.index.json").unlink()
    with pytest.raises(ModelNotFound, match=r"neither pytorch_model\.bin nor pytorch_model\.bin\.index\.json"):
        load(folder, **TRUSTED)


class Odd:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (print, ("this code must not run",))


def test_a_pickle_that_holds_more_than_weights_is_refused_without_torch_s_advice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pickled(tmp_path)
    torch.save({"more": Odd()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelUnsupported, match=r"holds what is no weights, or is damaged .*print") as caught:
        load(folder, **TRUSTED)
    assert "weights_only" not in f"{caught.value} {caught.value.hint}"
    assert "safetensors or GGUF" in str(caught.value.hint)
    assert "this code must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_beside_the_weights_is_said_once(tmp_path: Path, file: str) -> None:
    folder = save_tiny(tmp_path, "llama")
    plain = load(folder)
    config = {"base_model_name_or_path": "some/base", "peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))  # which peft, where it is there, must not apply
    (folder / file).write_bytes((folder / "model.safetensors").read_bytes())
    began = time.perf_counter()
    made = loader(folder)
    [warning] = made.facts().warnings
    assert time.perf_counter() - began < 3
    assert warning.startswith(f"an adapter lies beside its weights (adapter_config.json, {file}) and is not applied")
    assert "give the folder to a member by its key adapter, or merge it" in warning
    assert made.load(lambda fraction, words: None).facts.warnings == ()
    alone = load(folder)
    assert alone.facts.warnings == (warning,)
    rows = [each.advance([Feed(each.open(), [1, 2, 3])]) for each in (plain, alone)]
    assert (rows[0] == rows[1]).all()


@pytest.mark.parametrize("config", [True, False])
def test_an_adapter_alone_is_no_model(tmp_path: Path, config: bool) -> None:
    folder = save_tiny(tmp_path, "llama")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))
    if not config:
        (folder / "config.json").unlink()
    with pytest.raises(ModelUnsupported, match="holds an adapter of some/base, and no model") as caught:
        load(folder)
    assert "merge" in str(caught.value.hint)


def named_in_config(folder: Path, name: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": name}))
    return folder


def test_the_file_that_the_configuration_names_is_the_one_that_is_checked(tmp_path: Path) -> None:
    folder = named_in_config(save_tiny(tmp_path, "llama"), "others.safetensors")
    with pytest.raises(ModelNotFound, match=r"the weights that .*config\.json names are missing: .*others\.safeten"):
        load(folder)
    (folder / "model.safetensors").rename(folder / "others.safetensors")
    (folder / "model.safetensors").write_text(POINTER)  # which nothing reads
    made = loader(folder)
    assert made.facts().warnings == ()
    assert made.load(lambda fraction, words: None).facts.warnings == ()
    (folder / "others.safetensors").write_text(POINTER)
    with pytest.raises(ModelCorrupt, match=r"others\.safetensors is a Git LFS pointer"):
        load(folder)


def test_the_index_that_the_configuration_names_is_followed(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "llama")
    weights = weights_of(folder)
    (folder / "model.safetensors").unlink()
    named_in_config(write(folder, weights, "part.safetensors"), "my.safetensors.index.json")
    places = dict.fromkeys(weights, "part.safetensors")
    (folder / "my.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert load(folder).facts.warnings == ()
    (folder / "part.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"part 1 of 1 of the weights is missing: .*part\.safetensors"):
        load(folder)


@pytest.mark.parametrize("name", ["../weights.safetensors", "/etc/weights.safetensors", "weights.bin", 7])
def test_a_file_that_the_configuration_cannot_name_is_refused(tmp_path: Path, name: Any) -> None:
    with pytest.raises(ModelUnsupported, match="transformers_weights"):
        load(named_in_config(save_tiny(tmp_path, "llama"), name))


def moe() -> Any:
    torch.manual_seed(1)
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**COMMON, num_local_experts=4))


GONE = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "gemma3"), "model.layers.1.post_attention_layernorm.weight"),
    "gpt2": "transformer.ln_f.bias",
    "bloom": "transformer.word_embeddings_layernorm.bias",
}


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_doctor_sees_from_heads_that_a_weight_is_missing(tmp_path: Path, kind: str) -> None:
    folder = save_tiny(tmp_path, kind)
    facts = loader(folder).facts()
    assert (facts.warnings, facts.unchecked) == ((), ())
    weights = weights_of(folder)
    del weights[GONE[kind]]
    assert loader(write(folder, weights)).facts().warnings == (
        f"its weights cannot be loaded: lacks 1 of the weights: {GONE[kind]}; they would be random; "
        "download or convert the model again, all its files",
    )


def test_doctor_sees_from_heads_that_an_expert_is_missing(tmp_path: Path) -> None:
    folder = save_model(tmp_path, moe())
    assert loader(folder).facts().warnings == ()
    weights = weights_of(folder)
    del weights[next(name for name in weights if "experts.2." in name)]
    [warning] = loader(write(folder, weights)).facts().warnings
    assert "model.layers.0.mlp.experts." in warning


def test_doctor_sees_from_heads_what_nothing_reads_and_it_is_said_once(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "llama")
    made = loader(write(folder, weights_of(folder) | {"mtp.fc.weight": torch.zeros(3)}))
    [warning] = made.facts().warnings
    assert warning == "its files hold weights that are not read, 1 of the weights: mtp.fc.weight"
    assert made.load(lambda fraction, words: None).facts.warnings == ()


def test_a_model_that_is_not_looked_into_by_its_heads_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny(tmp_path, "llama")
    made = loader(folder)
    monkeypatch.setattr(made, "_load_whole", lambda *given, **more: 1 / 0)
    facts = made.facts()
    assert facts.warnings == ()
    assert facts.unchecked == ("whether its weights are complete (ZeroDivisionError: division by zero)",)
    assert facts.parameters == sum(each.numel() for each in weights_of(folder).values())


def test_parts_that_hold_a_weight_twice_must_agree(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "llama")
    weights = weights_of(folder)
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    first, second = ({name: weights[name] for name in part} for part in (names[:12], names[12:]))
    write(write(folder, first, "model-00001.safetensors"), second, "model-00002.safetensors")
    places = {name: f"model-0000{1 + (name in second)}.safetensors" for name in names}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    write(folder, second | {names[0]: first[names[0]]}, "model-00002.safetensors")
    assert load(folder).facts.warnings == ()
    write(folder, second | {names[0]: first[names[0]] + 1}, "model-00002.safetensors")
    with pytest.raises(ModelCorrupt, match=f"two parts of the weights hold {names[0]}, and differ"):
        load(folder)
    assert "and differ" in loader(folder).facts().warnings[0]


def test_an_index_or_a_head_that_names_a_weight_twice_is_refused(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "one.safetensors", "b": "one.safetensors", "a": "two.safetensors"}}')
    for read in (read_index, check_shards):
        with pytest.raises(ModelCorrupt, match="it names a twice"):
            read(index)
    entry = '{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
    head = f'{{"a": {entry}, "a": {entry}}}'.encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + bytes(4))
    with pytest.raises(ModelCorrupt, match="it names a twice"):
        check_safetensors(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda values: values.to(torch.int32), "its files hold whole numbers as weights, 1 of the weights: "),
        (lambda values: values.to(torch.float16), "its files hold some weights as F16, unlike the others, 1 of the "),
    ],
)
def test_a_weight_in_a_format_of_its_own_is_said(tmp_path: Path, change: Callable[[Any], Any], words: str) -> None:
    folder = save_tiny(tmp_path, "llama")
    weights = {name: values.to(torch.bfloat16) for name, values in weights_of(folder).items()}
    assert loader(write(folder, weights)).facts().warnings == ()
    name = "model.layers.1.mlp.up_proj.weight"
    write(folder, weights | {name: change(weights[name])})
    for said in (loader(folder).facts().warnings, load(folder).facts.warnings):
        assert [warning for warning in said if warning.startswith(words + name[:0])] == list(said)
        assert name in said[0]


def test_a_transformers_that_does_not_tell_what_it_leaves_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its public report is read all the same; what a pattern of the model's class hides from it is said."""
    from unisono.backends.transformers import listening

    folder = save_tiny(tmp_path, "llama")
    weights = weights_of(folder)
    monkeypatch.setattr(listening, "LEFT_OUT", "_no_such_function")
    assert load(folder).facts.warnings == ()
    with pytest.raises(ModelCorrupt, match="lacks 1 of the weights"):
        load(write(folder, {name: values for name, values in weights.items() if "2.mlp.down" not in name}))
    monkeypatch.setattr(transformers.LlamaForCausalLM, "_keys_to_ignore_on_load_missing", [r"2.mlp.down_proj"])
    [warning] = load(write(folder, weights)).facts.warnings
    assert warning.startswith(f"transformers {transformers.__version__} does not tell whether its files hold 1 of the ")


@pytest.mark.parametrize("kind", ["gemma3", "gpt2"])
def test_an_output_layer_of_its_own_in_a_tied_model_is_said_once(tmp_path: Path, kind: str) -> None:
    folder = save_tiny(tmp_path, kind)
    weights = weights_of(folder)
    [embedding] = [name for name in weights if name.endswith(("embed_tokens.weight", "wte.weight"))]
    same, other = (weights | {"lm_head.weight": weights[embedding] + more} for more in (0, 1))
    made = loader(write(folder, same))
    assert made.facts().warnings == ()
    assert made.load(lambda fraction, words: None).facts.warnings == ()
    made = loader(write(folder, other))
    [warning] = made.facts().warnings
    assert "an output layer (lm_head.weight) that is not its embeddings" in warning
    assert made.load(lambda fraction, words: None).facts.warnings == ()
    assert load(folder).facts.warnings == (warning,)


def test_an_output_layer_that_is_the_embeddings_of_a_model_that_is_not_tied_is_said(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "llama")
    weights = weights_of(folder)
    made = loader(write(folder, weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}))
    [warning] = made.facts().warnings
    assert "the same numbers as output layer (lm_head.weight) and embeddings" in warning


@pytest.mark.parametrize("key", ["total_size", "total_parameters"])
def test_an_index_that_tells_of_more_weights_than_there_are_is_said(tmp_path: Path, key: str) -> None:
    """As of a layer that is left out of the files, the index and config.json alike."""
    folder = save_tiny(tmp_path, "llama")
    weights = weights_of(folder)
    (folder / "model.safetensors").unlink()
    held = sum(tensor.numel() for tensor in weights.values())

    def told(number: int) -> list[str]:
        write(folder, weights, "model-00001-of-00001.safetensors")
        places = dict.fromkeys(weights, "model-00001-of-00001.safetensors")
        index = {"metadata": {key: number}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return [words for words in loader(folder).facts().warnings if f"{key} is {number:,}" in words]

    assert not any(map(told, [held] + [2 * held, 4 * held] * (key == "total_size")))
    assert all(map(told, (int(held * 1.03), int(held * 4.1))))


@pytest.mark.parametrize(
    "file", ["additional_chat_templates/tool_use.jinja", "chat_template.json", "generation_config.json"]
)
def test_a_pointer_in_the_place_of_a_text_is_named(tmp_path: Path, file: str) -> None:
    save_tiny(tmp_path, "llama")
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(POINTER)
    with pytest.raises(ModelCorrupt, match=f"{Path(file).name} is a Git LFS pointer"):
        loader(tmp_path).tokenizer()


def test_weights_that_lie_there_whole_and_in_parts_are_said(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "llama")
    whole = weights_of(folder)
    transformers.AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert loader(folder).facts().warnings == ()
    write(folder, whole)
    [said] = loader(folder).facts().warnings
    assert "holds weights twice: model.safetensors is read, and the" in said


@pytest.mark.parametrize("padding", [264, 300, -300])
def test_a_padding_id_beyond_the_rows_changes_nothing(tmp_path: Path, padding: int) -> None:
    """As where a token was added for training and the rows were not: transformers itself fails."""
    folder = save_tiny(tmp_path, "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": padding}))
    if padding < 0:
        with pytest.raises(ModelCorrupt, match="pad_token_id is -300"):
            load(folder)
    else:
        assert load(folder).facts.warnings == ()


def test_code_of_a_model_that_is_not_run_is_said_where_another_class_runs(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "llama")
    config = json.loads((folder / "config.json").read_text())
    for code, said in (("modeling_odd.OddForCausalLM", True), ("modeling_llama.LlamaForCausalLM", False)):
        (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": code}}))
        warnings = loader(folder).facts().warnings
        assert len(warnings) == said
        assert all(f"({code}), which is not run: transformers' LlamaForCausalLM computes" in each for each in warnings)
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForSequenceClassification"]}))
    with pytest.raises(ModelUnsupported, match="no head"):
        load(folder)
