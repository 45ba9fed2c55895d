"""Recurrent and hybrid models: what is kept at seams gives the same texts as reading everything anew.

The oracles are transformers' own `generate`, the contract of the waist, and the plain loop, which rewinds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from support.covering import ALL, covering  # noqa: E402
from support.recurrent_models import (  # noqa: E402
    RECURRENT,
    STEPPED,
    check_gated,
    config_of,
    save_recurrent,
    try_slots,
)
from support.tiny_models import generated_by  # noqa: E402
from unisono.backends.base import Feed, LoadRequest, ModelSource  # noqa: E402
from unisono.backends.prefix_cache import PrefixCache  # noqa: E402
from unisono.backends.seams import INSIDE, SEAMS  # noqa: E402
from unisono.backends.transformers.loader import TransformersLoader  # noqa: E402
from unisono.backends.transformers.state_backend import StateBackend  # noqa: E402
from unisono.backends.transformers.state_layer import LayerState, StateLayer  # noqa: E402
from unisono.ensemble import Ensemble  # noqa: E402
from unisono.errors import ModelUnsupported  # noqa: E402
from unisono.testing import ContractCase, check_backend_contract, total_variation  # noqa: E402

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(3)
IDS = tuple(tuple(int(i) for i in RNG.integers(0, 256, length)) for length in (11, 23, 7, 40))
TEXTS = (
    "The sea is 12 blue and wide. The sea is 12",
    "Hello",
    "A somewhat longer prompt of more words than those",
    "Hello, you",
)
PIECES = 20 if ALL else 12


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """These models are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """A kind's folder, and its model as transformers loads it."""
    found: dict[str, tuple[Path, Any]] = {}

    def save(kind: str) -> tuple[Path, Any]:
        if kind not in found:
            folder = tmp_path_factory.mktemp("model")
            found[kind] = folder, save_recurrent(folder, kind)
        return found[kind]

    return save


def load(folder: Path, **keys: Any) -> StateBackend:
    request = LoadRequest("m", ModelSource("folder", str(folder)), device="cpu", slots=4, context=128, **keys)
    backend = TransformersLoader(request).load(lambda fraction, words: None)
    assert isinstance(backend, StateBackend)
    return backend


def ensemble_of(folders: list[Path], **keys: Any) -> Ensemble:
    members = [
        {"name": name, "model": str(folder), "backend": "transformers", "device": "cpu", "threads": 1}
        for name, folder in zip("abc", folders, strict=False)
    ]
    return Ensemble.load({"members": members}, batch=4, **keys)


@pytest.mark.parametrize("kind", RECURRENT)
def test_the_contract_of_the_waist_is_kept(saved: Callable[[str], tuple[Path, Any]], kind: str) -> None:
    check_backend_contract(load(saved(kind)[0]), ContractCase(IDS, tolerance=2e-4))


@pytest.mark.parametrize("kind", RECURRENT | STEPPED)
def test_a_member_alone_is_its_own_generate(saved: Callable[[str], tuple[Path, Any]], kind: str) -> None:
    """One text, four of unequal lengths at once, with drafts, and begun again from what was kept."""
    folder, model = saved(kind)
    with ensemble_of([folder]) as ensemble:
        member = ensemble.prepared.members[0]
        expected = [generated_by(model, member, text, PIECES) for text in TEXTS]
        assert [ensemble.generate(text, max_new_tokens=PIECES).data for text in TEXTS] == expected
        assert [each.data for each in ensemble.generate(list(TEXTS), max_new_tokens=PIECES)] == expected
        for speculate in (None, "ngram:4"):
            for _ in range(2):
                again = ensemble.generate(list(TEXTS), max_new_tokens=PIECES, speculate=speculate)
                assert [each.data for each in again] == expected


PAIRS = (("Mamba", "LFM2"), ("Falcon-H1", "RWKV"), ("Qwen3-Next", "Mamba-2"), ("Granite 4", "Jamba"))


@pytest.mark.parametrize(
    ("pair", "gate"), covering(PAIRS, ["always", "confidence:0.3", "every:3"], together=1), ids=str
)
def test_gated_and_drafted_texts_are_those_of_the_plain_loop(
    saved: Callable[[str], tuple[Path, Any]], pair: tuple[str, str], gate: str
) -> None:
    """A recurrent lead and a recurrent voter, which lags, drafts, and is rewound to where its draft was cut."""
    with ensemble_of([saved(kind)[0] for kind in pair]) as ensemble:
        for drafter, texts in check_gated(ensemble, TEXTS, gate, PIECES):
            assert drafter.startswith("ngram") or any(text.drafted for text in texts)


@pytest.mark.parametrize("kind", ["Mamba", "LFM2", "Granite 4", "RWKV"])
def test_any_rewinds_and_copies_leave_what_a_fresh_slot_gives(
    saved: Callable[[str], tuple[Path, Any]], kind: str
) -> None:
    """Blocks of all sizes, rewinds near and far, copies of copies; the states that are kept stay few."""
    backend = load(saved(kind)[0])
    for _ in try_slots(backend, turns=120 if ALL else 60, tolerance=1e-4):
        assert all(memory.kept <= SEAMS + INSIDE for memory in backend._memories.values())


@pytest.mark.parametrize("kind", ["Mamba", "Qwen3-Next", "RWKV"])
def test_prompts_that_begin_alike_go_on_from_what_was_kept(saved: Callable[[str], tuple[Path, Any]], kind: str) -> None:
    cache = PrefixCache(load(saved(kind)[0]))
    long = [*IDS[3], *IDS[1]]
    for ids in (long, [*long, 7, 8, 9], [*long[:50], *IDS[0]], [*IDS[3], 1, 2], [*long[:50], 3], long):
        slot, read = cache.resume(ids)
        found_NV = cache.advance([Feed(slot, ids[read:])]).copy()
        for token in (5, 6):
            cache.advance([Feed(slot, [token])])
        cache.close(slot)
        fresh = cache.open()
        assert total_variation(found_NV[0], cache.advance([Feed(fresh, ids)])[0]) < 1e-4
        cache.discard(fresh)
    assert cache.reused >= 5 * len(IDS[3])


def test_a_long_rewind_is_read_again_once(saved: Callable[[str], tuple[Path, Any]]) -> None:
    """What two prompts have in common gets a seam of its own, so a third one does not read it again."""
    backend, widths = load(saved("Mamba-2")[0]), []
    begin = backend._pool.begin
    backend._pool.begin = lambda step: widths.append(step.width) or begin(step)  # type: ignore[method-assign]
    slot, common = backend.open(), IDS[3][:30]
    for ending in ((1, 2, 3), (4, 5), (6,)):
        backend.advance([Feed(slot, ending if backend._memories[slot].ids else (*common, *ending))])
        backend.rewind(slot, len(common))
    assert widths == [33, 30, 2, 1]


def test_drafts_that_are_always_cut_do_not_read_more_and_more_again(
    saved: Callable[[str], tuple[Path, Any]],
) -> None:
    backend, widths = load(saved("LFM2")[0]), []
    begin = backend._pool.begin
    backend._pool.begin = lambda step: widths.append(step.width) or begin(step)  # type: ignore[method-assign]
    slot = backend.open()
    backend.advance([Feed(slot, IDS[1])])
    for start in range(0, 36, 3):
        backend.advance([Feed(slot, IDS[3][start : start + 5 if start < 35 else 40], 5 if start < 35 else 1)])
        backend.rewind(slot, len(IDS[1]) + start + 3)
    assert max(widths[1:]) <= 16 + 5


@pytest.mark.parametrize(
    ("kind", "abilities"),
    [
        ("Mamba", (False, True, True)),
        ("Mamba-2", (True, True, True)),
        ("Mamba-2 with limits", (False, True, True)),
        ("RWKV", (True, False, False)),
        ("Falcon-H1", (True, True, True)),
    ],
)
def test_what_a_models_code_does_right_is_found_by_trying(
    saved: Callable[[str], tuple[Path, Any]], kind: str, abilities: tuple[bool, bool, bool]
) -> None:
    found = load(saved(kind)[0])._abilities
    assert (found.blocks, found.together, found.uneven) == abilities


def test_a_state_that_is_lost_is_refused_at_load(
    saved: Callable[[str], tuple[Path, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a release of transformers kept it elsewhere than in the cache."""
    monkeypatch.setattr(StateLayer, "taken", lambda layer, rows: [LayerState()] * rows)
    with pytest.raises(ModelUnsupported, match="gives other distributions"):
        load(saved("Mamba-2")[0])


def test_the_facts_count_the_states_that_are_kept(saved: Callable[[str], tuple[Path, Any]]) -> None:
    """Mamba-2: a state of heads x dim x state and a convolution's last inputs in each layer, in float32."""
    request = LoadRequest("m", ModelSource("folder", str(saved("Mamba-2")[0])), device="cpu", slots=3, context=128)
    state = 4 * 16 * 8 + (64 + 2 * 8) * 4
    assert TransformersLoader(request).facts().cache_bytes == 3 * SEAMS * 2 * state * 4
    assert config_of(*RECURRENT["Mamba-2"]).conv_kernel == 4
