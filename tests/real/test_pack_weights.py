"""The transformers backend on a CPU: linear layers that oneDNN does give what torch's own give, in the same memory."""

from __future__ import annotations

import gc
import platform
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from support.tiny_models import CONFIGS, ROWS, save_tiny  # noqa: E402
from unisono.backends.base import Feed, LoadRequest, ModelSource  # noqa: E402
from unisono.backends.transformers import onednn  # noqa: E402
from unisono.backends.transformers.backend import RowBackend  # noqa: E402
from unisono.backends.transformers.loader import TransformersLoader  # noqa: E402
from unisono.backends.transformers.onednn import OneDnnLinear, pack_linear_layers  # noqa: E402
from unisono.config.demo import demo_path  # noqa: E402

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available(),
    reason="weights are packed by oneDNN on x86-64 only",
)

TEXT = tuple(int(i) for i in np.random.default_rng(5).integers(0, 256, 60))
CLOSE = 1e-4
"""Logits of about 1 may differ by so much: the sums are made in another order."""


def load(place: object, kind: Any = "folder", **keys: Any) -> RowBackend:
    request = LoadRequest(name="tiny", source=ModelSource(kind, str(place)), **{"slots": 4, "device": "cpu", **keys})
    return TransformersLoader(request).load(lambda fraction, words: None)


def unpacked(place: object, kind: Any = "folder", **keys: Any) -> RowBackend:
    return load(place, kind, options={"pack_weights": False}, **keys)


def layers_of(backend: RowBackend, kind: type) -> list[Any]:
    return [each for each in backend._forward._model.modules() if type(each) is kind]  # type: ignore[union-attr]


def parameters_of(backend: RowBackend) -> list[Any]:
    return list(backend._forward._model.parameters())  # type: ignore[union-attr]


def read(backend: RowBackend, ids: tuple[int, ...] = TEXT) -> np.ndarray:
    """Logits behind a prompt, single tokens, a block, and a batch of rows of unequal length."""
    one, other = backend.open(), backend.open()
    found = [np.array(backend.advance([Feed(one, ids[:20], wanted=20)]))]
    found += [np.array(backend.advance([Feed(one, [token])])) for token in ids[20:23]]
    found.append(np.array(backend.advance([Feed(one, ids[23:30], wanted=7)])))
    found.append(np.array(backend.advance([Feed(one, ids[30:32], wanted=2), Feed(other, ids[:5], wanted=3)])))
    backend.close(one)
    backend.close(other)
    return np.concatenate(found)


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("llama"), "llama")


def test_packed_weights_give_the_same_logits_and_switched_off_nothing_is_packed(folder: Path) -> None:
    packed, plain = load(folder), unpacked(folder)
    assert layers_of(packed, OneDnnLinear)
    assert not layers_of(packed, torch.nn.Linear)
    assert not layers_of(plain, OneDnnLinear)
    expected = read(plain)
    np.testing.assert_allclose(read(packed), expected, atol=CLOSE * max(1.0, float(np.abs(expected).max())))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_bfloat16_is_packed_where_the_machine_can_and_float16_is_not(llama: Path, dtype: str) -> None:
    expected = read(unpacked(llama, dtype=dtype))
    backend = load(llama, dtype=dtype)
    if dtype == "float16":
        assert not layers_of(backend, OneDnnLinear)
    np.testing.assert_allclose(read(backend), expected, atol=0.02 * float(np.abs(expected).max()))


def fail(*_: object) -> Any:
    raise RuntimeError("could not create a primitive")


def fail_from_the_fifth(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []
    own = torch.ops.mkldnn._reorder_linear_weight

    def fifth_fails(*given: Any) -> Any:
        calls.append(None)
        return fail() if len(calls) > 4 else own(*given)

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", fifth_fails)


BROKEN: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "another processor": lambda patch: patch.setattr(onednn.platform, "machine", lambda: "arm64"),  # type: ignore[attr-defined]
    "no oneDNN": lambda patch: patch.setattr(torch.backends.mkldnn, "is_available", lambda: False),
    "no such operations": lambda patch: patch.setattr(torch.ops, "mkldnn", object()),
    "one layer fails": fail_from_the_fifth,
    "the forward pass fails": lambda patch: patch.setattr(OneDnnLinear, "forward", fail),
}


@pytest.mark.parametrize("what", BROKEN)
def test_where_packing_does_not_work_the_model_runs_as_it_was(
    llama: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    with monkeypatch.context() as patch:
        BROKEN[what](patch)
        backend = load(llama)
    assert not layers_of(backend, OneDnnLinear)
    plain = unpacked(llama)
    for mine, its in zip(parameters_of(backend), parameters_of(plain), strict=True):
        assert torch.equal(mine, its)
    np.testing.assert_allclose(read(backend), read(plain), atol=1e-5)  # MKL's last bits hang on where matrices lie


def test_a_model_that_computes_with_the_weights_of_a_layer_stays_unpacked() -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Linear(16, 16), torch.nn.Linear(16, 16)

        def forward(self, input_ids: Any, use_cache: bool) -> Any:
            return torch.nn.functional.linear(self.first(input_ids.new_ones(1, 16).float()), self.second.weight[:, :])

    model = Odd()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    assert pack_linear_layers(model) == 0
    assert type(model.first) is type(model.second) is torch.nn.Linear
    for name, each in model.state_dict().items():
        assert torch.equal(each, before[name]), name


def bytes_of(model: Any) -> int:
    return sum({id(each): each.numel() * each.element_size() for each in model.parameters()}.values())


@pytest.mark.slow
def test_no_weights_are_held_twice_not_even_while_they_are_packed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    embedding = model.get_input_embeddings().weight
    linear = [each for each in model.modules() if type(each) is torch.nn.Linear]
    own = [weakref.ref(each.weight) for each in linear if each.weight is not embedding]
    size, packed = bytes_of(model), 0
    reorder = torch.ops.mkldnn._reorder_linear_weight

    def counted(*given: Any) -> Any:
        nonlocal packed
        assert sum(each() is not None for each in own) == len(own) - packed
        packed += 1
        return reorder(*given)

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", counted)
    assert pack_linear_layers(model) == len(linear)
    gc.collect()
    assert packed == len(own)
    assert not any(each() is not None for each in own)
    assert bytes_of(model) == size
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(folder) not in maps.read_text()


def test_a_head_that_is_the_embedding_stays_it_and_is_done_by_onednn(tmp_path: Path) -> None:
    for name, tied in (("gemma3", True), ("llama", False)):
        (model_folder := tmp_path / name).mkdir()
        model = load(save_tiny(model_folder, name))._forward._model  # type: ignore[union-attr]
        head = model.get_output_embeddings()
        assert type(head) is OneDnnLinear
        assert (head.weight is model.get_input_embeddings().weight) is tied
        assert head.weight.is_mkldnn is not tied
        assert tuple(head.weight.shape) == (ROWS, 32)


def test_only_layers_of_the_plain_class_are_packed_and_shared_matrices_stay() -> None:
    class Special(torch.nn.Linear):
        pass

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own, self.special = torch.nn.Linear(16, 16), Special(16, 16)
            self.one, self.other = torch.nn.Linear(16, 16), torch.nn.Linear(16, 16, bias=False)
            self.other.weight = self.one.weight

        def forward(self, input_ids: Any, use_cache: bool) -> Any:
            return self.other(self.one(self.special(self.own(input_ids.new_ones(1, 16).float()))))

    model = Model()
    with torch.inference_mode():
        before = model(torch.zeros(1, dtype=torch.long), False)
        assert pack_linear_layers(model) == 3
        after = model(torch.zeros(1, dtype=torch.long), False)
    assert type(model.special) is Special
    assert model.own.weight.is_mkldnn
    assert model.one.weight is model.other.weight
    assert not model.one.weight.is_mkldnn
    assert torch.allclose(before, after, atol=1e-5)


@pytest.mark.models
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "gemma3-270m"])
def test_a_demo_model_says_the_same_packed_and_unpacked(name: str) -> None:
    """Float32: logits of up to about 30 move by less than 0.001, so probabilities by less than 0.001."""
    found = []
    for make in (load, unpacked):
        backend = make(demo_path(name), "gguf", context=1024)
        found.append(read(backend, tuple(range(1000, 1060))))
        backend.unload()
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)
    assert (found[0].argmax(1) == found[1].argmax(1)).all()
