"""Law 1 and law 7 on the demo models: one member is itself, and the backends agree."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.covering import ALL, some
from support.demo import demo_spec, written
from support.prompts import ALL as PROMPTS
from unisono.backends.base import Feed
from unisono.chat.messages import Prompt
from unisono.config.demo import demo_path
from unisono.engine.reference import plain_distribution
from unisono.ensemble import Ensemble
from unisono.records import Limits

pytestmark = pytest.mark.models

PIECES = 16 if ALL else 12
SOME = some(PROMPTS, 6)
FEWER = some(PROMPTS, 9)
NAMES = ("smol", "gemma")
FILES = {"smol": "smollm2-135m-instruct", "gemma": "gemma3-270m"}


def own_ids(ensemble: Ensemble, prompt: Prompt) -> tuple[list[int], list[int], set[int]]:
    """A prompt's ids, the ids that an ensemble of one writes after them, and the ids that are END."""
    engine = ensemble._engine
    member = engine.members[0]
    text = engine.add(prompt, Limits(max_new_tokens=PIECES))
    while text.finish is None:
        engine.step()
    ids = member.encoder.encode(prompt)
    return ids, text.cursors[member.name].ids[len(ids) :], set(member.encoder.speller.vocabulary.end_ids)


def own_ids_of_batches(ensemble: Ensemble) -> list[tuple[list[int], list[int], set[int]]]:
    """`own_ids` of all prompts, eight of which are written at a time."""
    [member] = ensemble._engine.members
    ends = set(member.encoder.speller.vocabulary.end_ids)
    texts = written(ensemble._engine, SOME, PIECES, 8)
    prompts = [member.encoder.encode(prompt) for prompt in SOME]
    return [(ids, text.cursors[member.name].ids[len(ids) :], ends) for ids, text in zip(prompts, texts, strict=True)]


def until_end(ids: list[int], ends: set[int]) -> list[int]:
    return next((ids[:n] for n, token in enumerate(ids) if token in ends), ids)


@pytest.mark.parametrize("name", NAMES)
def test_an_ensemble_of_one_is_what_transformers_generates(load_demo: Callable[..., Ensemble], name: str) -> None:
    """As transformers itself loads the model, its weights unpacked; eight texts at a time, and some by themselves."""
    torch = pytest.importorskip("torch")
    ensemble = load_demo(name, backend="transformers", dtype="float32")
    ours = own_ids_of_batches(ensemble)
    assert [own_ids(ensemble, prompt) for prompt in SOME[::5]] == ours[::5]
    plain = load_demo(name, backend="transformers", dtype="float32", options={"pack_weights": False})
    model = plain._engine.members[0].backend._forward._model
    for prompt, (ids, own, ends) in zip(SOME, ours, strict=True):
        ids_BT = torch.tensor([ids])
        whole = model.generate(
            ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            max_new_tokens=PIECES,
            do_sample=False,
            eos_token_id=sorted(ends),
        )
        assert own == until_end(whole[0, len(ids) :].tolist(), ends), prompt


def test_the_beam_of_an_ensemble_of_one_is_that_of_transformers(load_demo: Callable[..., Ensemble]) -> None:
    """The same texts by the same search: width 4, likelihoods of whole texts, END among them, by their length."""
    torch = pytest.importorskip("torch")
    ensemble = load_demo("smol", backend="transformers", dtype="float32", options={"pack_weights": False})
    member = ensemble._engine.members[0]
    model, vocabulary = member.backend._forward._model, member.speller.vocabulary  # type: ignore[attr-defined]
    for prompt in FEWER[::2]:
        ids_BT = torch.tensor([member.encoder.encode(prompt)])
        [found] = model.generate(
            ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            max_new_tokens=PIECES,
            do_sample=False,
            num_beams=4,
            eos_token_id=sorted(vocabulary.end_ids),
        )
        theirs = until_end(found[ids_BT.shape[1] :].tolist(), set(vocabulary.end_ids))
        own = ensemble.generate(prompt.text, messages=prompt.messages, max_new_tokens=PIECES, draw={"beam_width": 4})
        assert own.data == vocabulary.join(theirs), prompt


@pytest.fixture(scope="module")
def library_of() -> Iterator[Callable[[str], Any]]:
    """llama-cpp-python's own high-level model; only the last one asked for stays in memory."""
    from llama_cpp import Llama

    loaded: dict[str, Any] = {}

    def load(name: str) -> Any:
        if name not in loaded:
            for library in loaded.values():
                library.close()
            loaded.clear()
            own = {"n_ctx": 1024, "n_threads": 1, "n_threads_batch": 1, "flash_attn": True, "verbose": False}
            loaded[name] = Llama(str(demo_path(FILES[name])), **own)
        return loaded[name]

    yield load
    for library in loaded.values():
        library.close()


@pytest.mark.parametrize("name", NAMES)
def test_an_ensemble_of_one_is_what_llamacpp_decodes_greedily(
    load_demo: Callable[..., Ensemble], library_of: Callable[[str], Any], name: str
) -> None:
    ensemble = load_demo(name, backend="llamacpp", batch=1, context=1024)
    library = library_of(name)
    for prompt in FEWER:
        ids, own, ends = own_ids(ensemble, prompt)
        library.reset()
        decoded = library.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0)
        theirs = [next(decoded) for _ in range(PIECES)]
        assert own == until_end(theirs, ends), prompt


@pytest.mark.parametrize("name", NAMES)
def test_both_backends_read_the_same_vocabulary_and_the_same_prompts(name: str) -> None:
    from unisono.build import prepare
    from unisono.config.ensemble import load_spec

    one, other = (
        prepare(load_spec(demo_spec(name, backend=backend))).members[0] for backend in ("llamacpp", "transformers")
    )
    assert one.vocabulary.fingerprint == other.vocabulary.fingerprint
    assert one.endings.keys() == other.endings.keys()
    assert one.leading_space == other.leading_space
    for prompt in PROMPTS:
        assert one.encoder.encode(prompt) == other.encoder.encode(prompt)


def unquantised(path: Path, target: Path) -> Path:
    """The same weights as float32, written by llama.cpp itself."""
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = llama_cpp.LLAMA_FTYPE_ALL_F32
    parameters.allow_requantize = True
    assert llama_cpp.llama_model_quantize(str(path).encode(), str(target).encode(), parameters) == 0
    return target


def distributions(spec: dict[str, Any], texts: list[tuple[Prompt, list[int]]]) -> list[np.ndarray]:
    """``p_U`` of a member alone behind each of its own texts."""
    with Ensemble.load(spec) as ensemble:
        (member,), (member_map,) = ensemble._engine.members, ensemble._engine.union.maps
        found = [plain_distribution(member, member_map, ids) for _, ids in texts]
    gc.collect()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_both_backends_give_the_same_probabilities(name: str, tmp_path: Path) -> None:
    """Law 7, with the tolerances of the number formats, as the largest difference of a probability.

    On float32 weights both compute in float32 and differ by the order of their sums and llama.cpp's
    float16 tables of activation functions: 0.002. On the quantised file llama.cpp also rounds
    activations to 8 bits, block by block, which transformers does not: 0.2; and the mean difference
    of the likeliest piece stays below 0.03. Greedy choices agree unless they are closer than that.
    """
    path = demo_path(FILES[name])
    with Ensemble.load(demo_spec(name, backend="llamacpp")) as ensemble:
        texts = [(prompt, ids + own) for prompt in FEWER[::2] for ids, own, _ in [own_ids(ensemble, prompt)]]
    exact = distributions(demo_spec(name, backend="transformers", dtype="float32"), texts)
    plain_file = unquantised(path, tmp_path / "float32.gguf")
    formats = {
        0.002: {"model": str(plain_file), "options": {"cache_dtype": "f32"}},
        0.2: {},
    }
    for tolerance, keys in formats.items():
        likeliest = []
        for reference, other in zip(
            exact, distributions(demo_spec(name, backend="llamacpp", **keys), texts), strict=True
        ):
            assert abs(reference - other).max() < tolerance
            likeliest.append(abs(reference.max() - other.max()))
            second, best = np.partition(reference, -2)[-2:]
            assert reference.argmax() == other.argmax() or best - second < 2 * tolerance
        assert np.mean(likeliest) < min(0.03, tolerance)


def test_a_block_read_at_once_is_the_same_as_one_by_one(load_demo: Callable[..., Ensemble]) -> None:
    """What a lagging member catches up in one block tells it the same as piece by piece."""
    ensemble = load_demo("smol", "gemma", backend="transformers", dtype="float32")
    for member in ensemble._engine.members:
        ids = member.encoder.encode(SOME[0])
        backend = member.backend
        slot = backend.open()
        block = np.array(backend.advance([Feed(slot, ids, wanted=len(ids))]))
        backend.rewind(slot, 0)
        singles = np.concatenate([np.array(backend.advance([Feed(slot, [token])])) for token in ids])
        backend.close(slot)
        np.testing.assert_allclose(block, singles, atol=2e-3)
