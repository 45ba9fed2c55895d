"""The transformers backend: exact rewinding, unequal rows, what it refuses, and `generate()` as the oracle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from support.covering import some  # noqa: E402
from support.tiny_models import COMMON, CONFIGS, ROWS, save_model, save_tiny  # noqa: E402
from unisono.backends.base import Feed, LoadRequest, ModelSource  # noqa: E402
from unisono.backends.notices import Notices  # noqa: E402
from unisono.backends.transformers import torch_runtime  # noqa: E402
from unisono.backends.transformers.backend import RowBackend  # noqa: E402
from unisono.backends.transformers.key_value_cache import Pass, RowLayer, RowPool, plan_passes  # noqa: E402
from unisono.backends.transformers.listening import heard  # noqa: E402
from unisono.backends.transformers.loader import TransformersLoader  # noqa: E402
from unisono.config.demo import demo_path  # noqa: E402
from unisono.errors import (  # noqa: E402
    DeviceError,
    ModelCorrupt,
    ModelNotFound,
    ModelUnsupported,
    SpecError,
    UnisonoError,
)
from unisono.testing import ContractCase, check_backend_contract  # noqa: E402

RNG = np.random.default_rng(3)
TEXTS = tuple(tuple(int(i) for i in RNG.integers(0, 256, length)) for length in (11, 23, 7, 40))
"""Longer than the sliding window of 8."""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    saved: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in saved:
            saved[name] = save_tiny(tmp_path_factory.mktemp(name), name)
        return saved[name]

    return folder


def request_of(place: object, kind: Any = "folder", **keys: Any) -> LoadRequest:
    return LoadRequest(name="tiny", source=ModelSource(kind, str(place)), **{"slots": 4, "device": "cpu", **keys})


def load(place: object, kind: Any = "folder", **keys: Any) -> RowBackend:
    return TransformersLoader(request_of(place, kind, **keys)).load(lambda fraction, words: None)


@pytest.mark.slow
@pytest.mark.parametrize("attention", [None, "sdpa", "eager"])
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_kind_of_attention_keeps_the_contract(
    tiny: Callable[[str], Path], name: str, attention: str | None
) -> None:
    options = {} if name == "bloom" or attention is None else {"attention": attention}
    check_backend_contract(load(tiny(name), options=options), ContractCase(TEXTS, tolerance=2e-5))


def test_heads_share_their_keys_unless_the_plain_attention_is_asked_for(
    tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Feeds of two and one token behind unequal texts: the same logits, and no key is repeated on the way."""
    sdpa = transformers.integrations.sdpa_attention
    repeats: list[int] = []
    repeat = sdpa.repeat_kv
    monkeypatch.setattr(sdpa, "repeat_kv", lambda states, times: repeats.append(times) or repeat(states, times))

    def logits(**options: object) -> np.ndarray:
        backend = load(tiny("llama"), options=options)
        slots = [backend.open() for _ in TEXTS]
        for slot, text in zip(slots, TEXTS, strict=True):
            backend.advance([Feed(slot, text)])
        repeats.clear()
        return backend.advance([Feed(slot, [5, 6][: 1 + n % 2]) for n, slot in enumerate(slots)])

    ours_NV = logits()
    assert not repeats
    np.testing.assert_allclose(logits(attention="sdpa"), ours_NV, atol=2e-5)
    assert repeats


@pytest.mark.parametrize("width", [1, 2, torch_runtime.SHARING_QUERIES, torch_runtime.SHARING_QUERIES + 1])
@pytest.mark.parametrize(("heads", "shared"), [(12, 6), (9, 3), (4, 4), (4, 1)])
def test_attention_with_shared_keys_is_that_with_repeated_ones(heads: int, shared: int, width: int) -> None:
    generator = torch.Generator().manual_seed(heads + width)
    query = torch.randn((3, heads, width, 8), generator=generator)
    key, value = (torch.randn((3, heads // shared, 40, 8), generator=generator) for _ in range(2))
    mask = torch.rand((3, 1, width, 40), generator=generator) < 0.7
    module = torch.nn.Module()
    module.num_key_value_groups = shared
    plain = transformers.integrations.sdpa_attention.sdpa_attention_forward
    given = {"scaling": 0.3, "dropout": 0.0}
    ours, _ = torch_runtime.attend_sharing(module, query, key, value, mask, plain=plain, **given)
    theirs, _ = plain(module, query, key, value, mask, **given)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_greedy_ids_are_those_of_generate(tiny: Callable[[str], Path], name: str) -> None:
    backend = load(tiny(name))
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny(name), dtype=torch.float32).eval()
    for text in TEXTS:
        assert greedy(backend, text, 20) == generated(model, text, 20)


def greedy(backend: RowBackend, ids: Any, count: int) -> list[int]:
    slot, found = backend.open(), []
    logits_NV = backend.advance([Feed(slot, ids)])
    for _ in range(count):
        found.append(int(logits_NV[0].argmax()))
        logits_NV = backend.advance([Feed(slot, found[-1:])])
    backend.close(slot)
    return found


def generated(model: Any, ids: Any, count: int) -> list[int]:
    """What `generate` gives, going on after an END as `greedy` does."""
    model.generation_config.eos_token_id = None
    ids_BT = torch.tensor([list(ids)])
    whole = model.generate(ids_BT, attention_mask=torch.ones_like(ids_BT), max_new_tokens=count, do_sample=False)
    return [int(i) for i in whole[0, len(ids) :]]


def test_a_failing_pass_leaves_the_slots_as_they_were(
    tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, other = load(tiny("gemma3")), load(tiny("gemma3"))
    slot, same = backend.open(), other.open()
    for each, its in ((backend, slot), (other, same)):
        each.advance([Feed(its, TEXTS[0])])
    model = backend._forward._model  # type: ignore[union-attr]
    with monkeypatch.context() as patch:
        patch.setattr(model.lm_head, "forward", lambda *_: (_ for _ in ()).throw(RuntimeError("CUDA out of memory")))
        with pytest.raises(DeviceError, match=r"member 'tiny'.*more memory"):
            backend.advance([Feed(slot, [1, 2, 3])])
    np.testing.assert_array_equal(backend.advance([Feed(slot, [9])]), other.advance([Feed(same, [9])]))


def test_a_copy_for_which_memory_does_not_suffice_leaves_the_slots_as_they_were(
    tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = load(tiny("gemma3"))
    slot = backend.open()
    backend.advance([Feed(slot, TEXTS[0])])
    with monkeypatch.context() as patch:
        full = backend._pool.layers[1]
        patch.setattr(full, "_make_room", lambda *_: (_ for _ in ()).throw(RuntimeError("CUDA out of memory")))
        with pytest.raises(DeviceError, match=r"member 'tiny'.*more memory"):
            backend.open(slot)
    copies = [backend.open(slot) for _ in range(3)]
    rows_NV = backend.advance([Feed(each, TEXTS[1]) for each in (slot, *copies)])
    np.testing.assert_allclose(rows_NV, np.stack([rows_NV[0]] * 4), atol=1e-5)


def test_bad_feeds_are_refused_before_anything_is_computed(tiny: Callable[[str], Path]) -> None:
    backend = load(tiny("llama"), context=16)
    slot, closed = backend.open(), backend.open()
    backend.close(closed)
    for feeds in (
        [Feed(slot, [])],
        [Feed(slot, [ROWS])],
        [Feed(slot, [-1])],
        [Feed(slot, [1], wanted=2)],
        [Feed(slot, [1] * 17)],
        [Feed(slot, [1]), Feed(slot, [2])],
        [Feed(closed, [1])],
    ):
        with pytest.raises(ValueError, match=r".+"):
            backend.advance(feeds)
    with pytest.raises(ValueError, match="cannot be rewound"):
        backend.rewind(slot, 1)


def test_similar_feeds_share_a_pass_and_a_prompt_has_its_own() -> None:
    assert plan_passes([1, 1, 300, 3, 1], slack=16) == [[2], [3, 0, 1, 4]]
    assert plan_passes([5, 5], slack=0) == [[0, 1]]
    assert plan_passes([1, 2, 1, 1], slack=2) == [[1], [0, 2, 3]]
    assert plan_passes([20, 18, 14, 4], slack=2, share=0.25) == [[0, 1, 2], [3]]  # 8 padded of 52; 24 would be of 56


def test_longer_feeds_begin_with_the_shorter_ones_where_no_row_has_to_be_copied_then(
    tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One feed of two tokens between two of one: two passes, the first of all rows; and what comes out is the same."""
    monkeypatch.setattr("unisono.backends.transformers.backend.PADDING_SLACK", 0)
    passes: list[Pass] = []
    begin = RowPool.begin
    monkeypatch.setattr(RowPool, "begin", lambda pool, step: passes.append(step) or begin(pool, step))

    def logits(*, apart: bool, wanted: int = 1) -> np.ndarray:
        backend = load(tiny("gemma3"))
        slots = [backend.open() for _ in TEXTS[:3]]
        for slot, text in zip(slots, TEXTS, strict=False):
            backend.advance([Feed(slot, text)])
        passes.clear()
        feeds = [Feed(slots[0], [3]), Feed(slots[1], [4, 5], wanted=wanted), Feed(slots[2], [6])]
        return np.concatenate([backend.advance([feed]) for feed in feeds]) if apart else backend.advance(feeds)

    together_NV = logits(apart=False)
    assert [(step.rows, step.lengths) for step in passes] == [((0, 1, 2), (1, 1, 1)), ((1,), (1,))]
    np.testing.assert_allclose(together_NV, logits(apart=True), atol=2e-5)
    both_NV = logits(apart=False, wanted=2)
    assert [(step.rows, step.lengths) for step in passes] == [((1,), (2,)), ((0, 2), (1, 1))]
    np.testing.assert_allclose(both_NV, logits(apart=True, wanted=2), atol=2e-5)


def test_rows_that_are_fed_follow_one_another_and_all_slots_hold_what_they_held(
    tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[Pass] = []
    begin = RowPool.begin
    monkeypatch.setattr(RowPool, "begin", lambda pool, step: passes.append(step) or begin(pool, step))
    backend = load(tiny("gemma3"))
    slots = [backend.open() for _ in TEXTS]
    for slot, text in zip(slots, TEXTS, strict=True):
        backend.advance([Feed(slot, text)])
    passes.clear()
    both_NV = backend.advance([Feed(slots[3], [5]), Feed(slots[0], [4])])
    assert [step.rows for step in passes] == [(0, 1)]
    rest_NV = backend.advance([Feed(slots[2], [7]), Feed(slots[1], [6])])
    for place, row_V in zip((3, 0, 2, 1), (*both_NV, *rest_NV), strict=True):
        fresh = load(tiny("gemma3"))
        slot = fresh.open()
        fresh.advance([Feed(slot, TEXTS[place])])
        np.testing.assert_allclose(row_V, fresh.advance([Feed(slot, [(4, 6, 7, 5)[place]])])[0], atol=2e-5)


def test_a_row_that_has_never_been_read_into_makes_way(tiny: Callable[[str], Path]) -> None:
    """Whether or not there is room for it yet."""
    backend, fresh = load(tiny("gemma3")), load(tiny("gemma3"))
    slot, own = backend.open(), fresh.open()
    backend.advance([Feed(slot, TEXTS[0])])
    gap, last = backend.open(), backend.open()
    together_NV = backend.advance([Feed(slot, [4]), Feed(last, TEXTS[1])])
    fresh.advance([Feed(own, TEXTS[0])])
    other = fresh.open()
    np.testing.assert_allclose(together_NV[0], fresh.advance([Feed(own, [4])])[0], atol=2e-5)
    np.testing.assert_allclose(together_NV[1], fresh.advance([Feed(other, TEXTS[1])])[0], atol=2e-5)
    empty = fresh.open()
    np.testing.assert_allclose(
        backend.advance([Feed(gap, TEXTS[2])]), fresh.advance([Feed(empty, TEXTS[2])]), atol=2e-5
    )


def test_rows_that_cannot_change_places_are_where_they_were(
    tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = load(tiny("llama"))
    slots = [backend.open() for _ in TEXTS[:3]]
    for slot, text in zip(slots, TEXTS, strict=False):
        backend.advance([Feed(slot, text)])
    swap = RowLayer.swap_rows
    layers: list[RowLayer] = []

    def fails_at_the_third(layer: RowLayer, first: int, second: int, lengths: tuple[int, int]) -> None:
        layers.append(layer)
        if len(layers) == 3:
            raise torch.OutOfMemoryError("out of memory")
        swap(layer, first, second, lengths)

    feeds = [Feed(slots[0], [4]), Feed(slots[2], [5])]
    with monkeypatch.context() as patched:
        patched.setattr(RowLayer, "swap_rows", fails_at_the_third)
        with pytest.raises(DeviceError):
            backend.advance(feeds)
    fresh = load(tiny("llama"))
    others = [fresh.open() for _ in feeds]
    for slot, place in zip(others, (0, 2), strict=True):
        fresh.advance([Feed(slot, TEXTS[place])])
    expected_NV = fresh.advance([Feed(others[0], [4]), Feed(others[1], [5])])
    np.testing.assert_allclose(backend.advance(feeds), expected_NV, atol=2e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "auto"])
def test_a_dtype_is_what_the_model_computes_in_and_logits_are_float32(tiny: Callable[[str], Path], dtype: str) -> None:
    loader = TransformersLoader(request_of(tiny("llama"), dtype=dtype))
    assert loader.facts().dtype == ("float32" if dtype == "auto" else dtype)
    backend = loader.load(lambda fraction, words: None)
    assert backend.advance([Feed(backend.open(), [1, 2])]).dtype == np.float32


def test_facts_need_no_weights_and_are_right(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes((tiny("gemma3") / name).read_bytes())
    facts = TransformersLoader(request_of(folder, context=100)).facts()
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny("gemma3"))
    assert facts.parameters == sum(each.numel() for each in model.parameters())
    assert (facts.rows, facts.context, facts.trained_context, facts.device) == (ROWS, 100, 128, "cpu")
    assert facts.cache_bytes == 4 * 100 * 3 * 2 * 2 * 8 * 4


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"dtype": "int8"}, "int8"),
        ({"device": "gpu"}, "'gpu'"),
        ({"context": 0}, "context"),
        ({"threads": 0}, "threads"),
        ({"options": {"attention": "flash_attention_2"}}, "flash_attention_2"),
        ({"options": {"attentoin": "sdpa"}}, "did you mean 'attention'"),
        ({"options": {"allow_pickle": "yes"}}, "allow_pickle"),
        ({"options": {"pack_weights": 1}}, "option pack_weights is 1"),
        ({"options": {"revision": 3}}, "revision"),
        ({"options": {"device_map": 3}}, "device_map"),
        ({"options": {"device_map": "auto"}}, "both a device"),
    ],
)
def test_a_bad_value_is_refused_with_the_choices(tmp_path: Path, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        TransformersLoader(request_of(tmp_path, **keys))
    assert "'tiny'" in caught.value.message
    assert caught.value.hint


def test_a_device_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cuda:77") as caught:
        TransformersLoader(request_of(tmp_path, device="cuda:77"))
    assert "cpu" in str(caught.value.hint)


def test_a_hub_id_that_cannot_be_fetched_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    loader = TransformersLoader(request_of("nobody/no-such-model", "hub", options={"local_files_only": True}))
    for act in (loader.tokenizer, loader.facts, lambda: loader.load(lambda fraction, words: None)):
        with pytest.raises(ModelNotFound, match="no-such-model") as caught:
            act()
        assert "folder" in str(caught.value.hint)


def copied(source: Path, target: Path) -> Path:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


DAMAGES: list[tuple[Callable[[Path], object], type[UnisonoError], str]] = [
    (lambda folder: (folder / "config.json").unlink(), ModelNotFound, "config.json"),
    (lambda folder: (folder / "config.json").write_text("{"), ModelCorrupt, "JSON"),
    (lambda folder: (folder / "config.json").write_text("[]"), ModelCorrupt, "JSON object"),
    (lambda folder: (folder / "config.json").write_text('{"model_type": "nonsense"}'), ModelUnsupported, "nonsense"),
    (lambda folder: (folder / "tokenizer.json").unlink(), ModelNotFound, "tokenizer"),
    (lambda folder: (folder / "model.safetensors").unlink(), ModelNotFound, "no weights"),
    (lambda folder: cut(folder / "model.safetensors"), ModelCorrupt, "cut short"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64), ModelCorrupt, "damaged"),
    (pickled, ModelUnsupported, "pickled"),
]


@pytest.mark.parametrize(("damage", "error", "words"), DAMAGES, ids=[words for *_, words in DAMAGES])
def test_a_damaged_folder_is_told_as_what_it_is(
    tiny: Callable[[str], Path], tmp_path: Path, damage: Callable[[Path], object], error: type[UnisonoError], words: str
) -> None:
    folder = copied(tiny("llama"), tmp_path / "copy")
    damage(folder)
    with pytest.raises(error, match=words) as caught:
        load(folder)
    assert caught.value.hint


def test_missing_weights_are_told(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    import safetensors.torch

    folder = copied(tiny("llama"), tmp_path / "copy")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelCorrupt, match=r"layers\.1\.mlp\.up_proj"):
        load(folder)


def test_a_folder_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no folder"):
        load(tmp_path / "nowhere")


def test_models_that_do_not_write_text_token_by_token_are_refused(tmp_path: Path) -> None:
    small = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    bert = transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=ROWS, **small))
    encoder_decoder = transformers.T5Config(vocab_size=ROWS, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8)
    recurrent = transformers.xLSTMConfig(vocab_size=ROWS, hidden_size=32, num_heads=4, num_blocks=1)
    with_state = transformers.MiniMaxConfig(**{**COMMON, "num_hidden_layers": 4})
    vision = transformers.ViTConfig(**small)
    for name, thing, words in (
        ("bert", bert, "BertForMaskedLM"),
        ("t5", encoder_decoder, "encoder-decoder"),
        ("xlstm", recurrent, "recurrent state is not in transformers' cache"),
        ("minimax", with_state, "linear_attention"),
        ("vit", vision, "not a causal language model"),
    ):
        folder = tmp_path / name
        if isinstance(thing, transformers.PreTrainedModel):
            save_model(folder, thing)
        else:
            thing.save_pretrained(folder)
            (folder / "tokenizer.json").write_text("{}")
        with pytest.raises(ModelUnsupported, match=words):
            TransformersLoader(request_of(folder)).facts()


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 100, 5_000_000])
def test_a_gguf_file_cut_short_is_corrupt(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNISONO_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "cut.gguf"
    path.write_bytes(demo_path("smollm2-135m-instruct").read_bytes()[:size])
    with pytest.raises(ModelCorrupt):
        load(path, "gguf")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_no_room_for_a_conversion_is_told_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unisono.backends.transformers import gguf_conversion

    loader = TransformersLoader(request_of(demo_path("smollm2-135m-instruct"), "gguf", dtype="float16"))
    assert loader.files.gguf is not None
    config = loader.files.config
    monkeypatch.setenv("UNISONO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gguf_conversion, "SPARE_BYTES", 10**18)
    with pytest.raises(UnisonoError, match="free"):
        loader.files.gguf.weights(config, "float16", lambda fraction, words: None)


@pytest.mark.slow
def test_ctrl_c_while_converting_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = TransformersLoader(request_of(demo_path("smollm2-135m-instruct"), "gguf"))
    config = loader.files.config
    monkeypatch.setenv("UNISONO_CACHE", str(tmp_path / "cache"))

    def interrupted(fraction: float, words: str) -> None:
        if words == "converting the weights":
            raise KeyboardInterrupt

    assert loader.files.gguf is not None
    with pytest.raises(KeyboardInterrupt):
        loader.files.gguf.weights(config, "float32", interrupted)
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file() and file.suffix != ".lock"]


@pytest.mark.models
@pytest.mark.parametrize("name", some(["smollm2-135m-instruct", "gemma3-270m"], 2))
def test_a_converted_demo_model_gives_what_generate_gives(name: str) -> None:
    """The backend by itself; the whole product on both models in `test_law_one_real`."""
    loader = TransformersLoader(request_of(demo_path(name), "gguf", context=1024))
    tokenizer, backend = loader.tokenizer(), loader.load(lambda fraction, words: None)
    assert backend.facts.rows == loader.facts().rows
    reference = load(demo_path(name), "gguf", context=1024, options={"pack_weights": False})
    model = reference._forward._model  # type: ignore[union-attr]
    for text in ("The capital of France is", "def fibonacci(n):\n", "今日はとても", "Der schnelle braune"):
        ids = tokenizer.encode_prompt(text)
        assert greedy(backend, ids, 12) == generated(model, ids, 12)
    backend.unload()
    reference.unload()


def test_a_program_that_has_read_gguf_files_before_loads_models_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's lazy module then has no attribute of its reader's name."""
    monkeypatch.delattr(transformers, "modeling_gguf_pytorch_utils", raising=False)
    notices = Notices()
    with heard(transformers, notices):
        transformers.utils.logging.get_logger("transformers").warning("it is odd")
    assert notices.told() == ("it is odd",)
