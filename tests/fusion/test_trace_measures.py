"""What a trace measures, read in parts, is what plain arithmetic finds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from unisono.fusion import trace_measures
from unisono.fusion.trace_measures import PART, columns_of_mass, entropy, variation


def distribution(seed: int, size: int, sharpness: float) -> np.ndarray:
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=size) * sharpness
    masses = np.exp(logits - logits.max()) * (draw.random(size) < 0.7)
    masses[0] += 0.1
    return (masses / masses.sum()).astype(np.float32)


SIZES = (1, 7, PART - 1, PART, 2 * PART + 3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sharpness", [0.1, 4, 60])
def test_whole_and_in_parts_are_the_same(size: int, sharpness: float) -> None:
    p_U, other_U, third_U = (distribution(seed + size, size, sharpness) for seed in (1, 2, 3))
    exact_U = p_U.astype(np.float64)
    nats = -sum(p * np.log(p) for p in exact_U[exact_U > 0])
    assert entropy(p_U) == pytest.approx(max(0.0, nats), abs=1e-4)
    apart = [0.5 * np.abs(exact_U - each_U).sum() for each_U in (other_U, third_U)]
    apart.append(0.5 * np.abs(other_U.astype(np.float64) - third_U).sum())
    assert variation([p_U, other_U, third_U]) == pytest.approx(max(apart), abs=1e-5)
    assert variation([p_U, p_U]) == variation([p_U]) == variation([]) == 0
    for bound in (0, 1e-30, 1e-6, 1e-3, 0.5, 2):
        assert columns_of_mass(p_U, bound).tolist() == np.nonzero(p_U >= bound)[0].tolist()


@pytest.mark.parametrize(
    "measure", [entropy, lambda p_U: variation([p_U, p_U[::-1]]), lambda p_U: columns_of_mass(p_U, 1e-3)]
)
def test_rows_that_do_not_lie_in_one_piece_are_measured_too(measure: Callable[..., object]) -> None:
    spread_UB = np.stack([distribution(5, 100, 3)] * 2, axis=1)
    assert measure(spread_UB[:, 0]) == pytest.approx(measure(spread_UB[:, 0].copy()), abs=1e-6)


def test_arrays_of_devices_are_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    p_U, other_U = distribution(1, 1000, 3), distribution(2, 1000, 3)
    monkeypatch.setattr(trace_measures, "PART", 64)
    on_device = [torch.from_numpy(each_U) for each_U in (p_U, other_U)]
    assert entropy(on_device[0]) == pytest.approx(entropy(p_U), abs=1e-5)
    assert variation(on_device) == pytest.approx(variation([p_U, other_U]), abs=1e-6)
    assert columns_of_mass(on_device[0], 1e-3).tolist() == columns_of_mass(p_U, 1e-3).tolist()
