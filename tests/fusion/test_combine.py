"""Combining: each rule, truncation and sharpening against its definition, and how a rule is written down."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from unisono.config.combine import NUMBERS, Combine
from unisono.errors import SpecError
from unisono.fusion.rules import (
    COMBINE_RULES,
    FLOOR,
    SIGNED,
    contrastive,
    geometric,
    largest,
    logits,
    mean,
    minimum,
    truncate,
)
from unisono.fusion.sampling import greedy
from unisono.fusion.sharpen import plan_prefixes, sharpen
from unisono.fusion.weights import WEIGHT_SCHEMES

VOTES = [name for name in COMBINE_RULES if name != "contrastive"]
"""The rules without amateurs."""


def rows(*masses: list[float]) -> np.ndarray:
    return np.array(masses, np.float32)


def weights_for(rule: str, count: int) -> list[float]:
    """Unequal ones that sum to 1, or for rules with signed ones to 1 over all but the last, which is negative."""
    voters = count - 1 if rule in SIGNED else count
    raw = [float(2 + voter) for voter in range(voters)]
    shares = [weight / sum(raw) for weight in raw]
    return [*shares, -0.5] if rule in SIGNED else shares


@st.composite
def members(draw: st.DrawFn, least: int = 2) -> list[np.ndarray]:
    """Distributions of members that lack some pieces."""
    count, texts, size = draw(st.integers(least, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 9))
    masses = st.just(0.0) | st.floats(0.0625, 1, width=32)
    raw = draw(arrays.arrays(np.float32, (count, texts, size), elements=masses))
    raw[..., draw(st.integers(0, size - 1))] += np.float32(0.125)  # no row is empty
    return list(raw / raw.sum(axis=-1, keepdims=True))


def test_the_mean_by_hand() -> None:
    q_BU = mean([rows([0.5, 0.5, 0.0]), rows([0.1, 0.5, 0.4])], [0.75, 0.25])
    np.testing.assert_allclose(q_BU, rows([0.4, 0.5, 0.1]), rtol=1e-6)


def test_the_geometric_mean_by_hand() -> None:
    # sqrt(0.8 × 0.2) = 0.4, sqrt(0.2 × 0.8) = 0.4; together 0.8
    q_BU = geometric([rows([0.8, 0.2]), rows([0.2, 0.8])], [0.5, 0.5])
    np.testing.assert_allclose(q_BU, rows([0.5, 0.5]), rtol=1e-6)
    # 0.9^0.5 × 0.4^0.5 = 0.6 and 0.1^0.5 × 0.4^0.5 = 0.2; 0.2 that the first lacks is sqrt(0.01 × 0.2)
    q_BU = geometric([rows([0.9, 0.1, 0.0]), rows([0.4, 0.4, 0.2])], [0.5, 0.5], floor=0.01)
    lacking = math.sqrt(0.01 * 0.2)
    np.testing.assert_allclose(q_BU, rows([0.6, 0.2, lacking]) / (0.8 + lacking), rtol=1e-5)


def test_a_piece_that_nobody_gives_mass_above_the_floor_has_none_of_the_product() -> None:
    q_BU = geometric([rows([0.5, 0.5, 0.0, 1e-11]), rows([0.25, 0.75, 0.0, 0.0])], [0.3, 0.7])
    assert (q_BU[0, 2:] == 0).all()
    np.testing.assert_allclose(q_BU.sum(), 1, rtol=1e-6)


def test_the_max_rule_by_hand() -> None:
    # 0.6 × (0.5, 0.5, 0) and 0.4 × (0.25, 0, 0.75): the largest are 0.3, 0.3, 0.3
    q_BU = largest([rows([0.5, 0.5, 0.0]), rows([0.25, 0.0, 0.75])], [0.6, 0.4])
    np.testing.assert_allclose(q_BU, rows([1 / 3, 1 / 3, 1 / 3]), rtol=1e-6)


def test_the_contrast_by_hand() -> None:
    expert, amateur = rows([0.5, 0.3, 0.16, 0.04]), rows([0.8, 0.1, 0.05, 0.05])
    # plausible from 0.05 on; 0.5 / 0.8 = 0.625, 0.3 / 0.1 = 3, 0.16 / 0.05 = 3.2; together 6.825
    q_BU = contrastive([expert, amateur], [1, -1])
    np.testing.assert_allclose(q_BU, rows([0.625, 3, 3.2, 0]) / 6.825, rtol=1e-5)
    # plausible from 0.25 on; 0.5 / 0.8^0.5 = 0.559017, 0.3 / 0.1^0.5 = 0.948683
    q_BU = contrastive([expert, amateur], [1, -0.5], alpha=0.5)
    np.testing.assert_allclose(q_BU, rows([0.559017, 0.948683, 0, 0]) / 1.5077, rtol=1e-5)


def test_experts_are_plausible_by_their_mean_and_count_by_their_product() -> None:
    experts, amateur = [rows([0.9, 0.1, 0.0]), rows([0.1, 0.4, 0.5])], rows([0.5, 0.25, 0.25])
    # means 0.5, 0.25, 0.25, of which 0.3 is plausible from 0.15 on; (0.3, 0.2, sqrt(0.01 × 0.5)) / (0.5, 0.25, 0.25)
    q_BU = contrastive([*experts, amateur], [0.5, 0.5, -1], alpha=0.3, floor=0.01)
    raw = rows([0.3 / 0.5, 0.2 / 0.25, math.sqrt(0.005) / 0.25])
    np.testing.assert_allclose(q_BU, raw / raw.sum(), rtol=1e-5)


def test_a_piece_that_the_amateur_lacks_counts_as_if_it_agreed_with_the_experts() -> None:
    expert, amateur = rows([0.5, 0.3, 0.2]), rows([0.8, 0.2, 0.0])
    # 0.5 / 0.8 = 0.625, 0.3 / 0.2 = 1.5 and 1
    np.testing.assert_allclose(contrastive([expert, amateur], [1, -1]), rows([0.625, 1.5, 1]) / 3.125, rtol=1e-5)


def test_the_papers_scaled_weights_choose_what_the_papers_formula_does() -> None:
    rng = np.random.default_rng(5)
    expert, amateur = rng.dirichlet(np.ones(8), (2, 50))
    paper = np.where(expert >= 0.1 * expert.max(axis=1, keepdims=True), expert * (expert / amateur) ** 0.5, 0)
    assert greedy(contrastive([expert, amateur], [1, -1 / 3])) == greedy(paper)


def test_the_minimum_by_hand() -> None:
    q_BU = minimum([rows([0.5, 0.4, 0.1]), rows([0.2, 0.5, 0.3])], [0.5, 0.5])
    np.testing.assert_allclose(q_BU, rows([0.2, 0.4, 0.1]) / 0.7, rtol=1e-6)
    # the second counts half: the roots of its masses are 0.6, 0.8 and 0
    q_BU = minimum([rows([0.7, 0.2, 0.1]), rows([0.36, 0.64, 0.0])], [2, 1])
    np.testing.assert_allclose(q_BU, rows([0.6, 0.2, 0.0]) / 0.8, rtol=1e-6)


def test_where_nothing_is_agreed_on_the_mean_decides() -> None:
    p_BU_K = [rows([1.0, 0.0], [0.5, 0.5]), rows([0.0, 1.0], [0.5, 0.5])]
    np.testing.assert_allclose(minimum(p_BU_K, [0.75, 0.25]), rows([0.75, 0.25], [0.5, 0.5]), rtol=1e-6)


def test_proxy_tuning_by_hand() -> None:
    base, expert, anti = rows([0.5, 0.3, 0.2]), rows([0.2, 0.6, 0.2]), rows([0.4, 0.2, 0.4])
    # 0.5 × 0.2 / 0.4 = 0.25, 0.3 × 0.6 / 0.2 = 0.9, 0.2 × 0.2 / 0.4 = 0.1; weights are relative
    for weights in ([1, 1, -1], [0.5, 0.5, -0.5]):
        np.testing.assert_allclose(logits([base, expert, anti], weights), rows([0.25, 0.9, 0.1]) / 1.25, rtol=1e-5)


def test_what_members_lack_counts_by_the_sum_of_their_weights() -> None:
    base, expert, anti = rows([0.5, 0.3, 0.2, 0.0]), rows([0.5, 0.0, 0.25, 0.25]), rows([0.5, 0.0, 0.0, 0.5])
    # both lack the second: the base's 0.3; the anti-expert the third: sqrt(0.2 × 0.25); the base the last: 0.01 / 2
    raw = rows([0.5, 0.3, math.sqrt(0.05), 0.005])
    np.testing.assert_allclose(logits([base, expert, anti], [1, 1, -1], 0.01), raw / raw.sum(), rtol=1e-5)


@given(members())
def test_among_pieces_that_an_anti_expert_alone_lacks_the_others_decide(p_BU_K: list[np.ndarray]) -> None:
    experts = [(p_BU + 0.1) / (p_BU + 0.1).sum(axis=1, keepdims=True) for p_BU in p_BU_K[:-1]]
    anti, weights = p_BU_K[-1].copy(), weights_for("logits", len(p_BU_K))
    anti[:, ::2] = 0
    own, others = logits([*experts, anti], weights)[:, ::2], geometric(experts, weights[:-1])[:, ::2]
    own, others = (q_BU / q_BU.sum(axis=1, keepdims=True) for q_BU in (own, others))
    np.testing.assert_allclose(own, others, atol=1e-4)


@given(members())
def test_logits_without_negative_weights_are_the_geometric_mean(p_BU_K: list[np.ndarray]) -> None:
    weights = weights_for("mean", len(p_BU_K))
    np.testing.assert_allclose(logits(p_BU_K, weights), geometric(p_BU_K, weights), atol=1e-5)


@given(members(1), st.floats(0.05, 3))
def test_a_member_added_and_taken_away_changes_nothing(p_BU_K: list[np.ndarray], weight: float) -> None:
    for p_BU in p_BU_K:
        q_BU = logits([p_BU_K[0], p_BU, p_BU], [1, weight, -weight])
        np.testing.assert_allclose(q_BU, p_BU_K[0], atol=1e-4)
    np.testing.assert_allclose(logits([p_BU_K[0]] * 3, [1, weight, -weight / 2]), p_BU_K[0], atol=1e-4)


@given(members())
def test_every_rule_gives_rows_that_sum_to_one_and_leaves_its_members_alone(p_BU_K: list[np.ndarray]) -> None:
    before = [p_BU.copy() for p_BU in p_BU_K]
    for name, rule in COMBINE_RULES.items():
        q_BU = rule(p_BU_K, weights_for(name, len(p_BU_K)))
        assert q_BU.dtype == np.float32
        assert (q_BU >= 0).all()
        np.testing.assert_allclose(q_BU.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(p_BU_K, before)


@given(members(1))
def test_one_member_alone_is_itself(p_BU_K: list[np.ndarray]) -> None:
    for name in VOTES:
        np.testing.assert_allclose(COMBINE_RULES[name](p_BU_K[:1], [1.0]), p_BU_K[0], atol=1e-6)


@given(members(1))
def test_the_same_member_several_times_is_that_member(p_BU_K: list[np.ndarray]) -> None:
    for name in VOTES:
        q_BU = COMBINE_RULES[name]([p_BU_K[0]] * 3, [0.5, 0.375, 0.125])
        np.testing.assert_allclose(q_BU, p_BU_K[0], atol=1e-6)


@given(members(1))
def test_an_amateur_that_is_the_expert_leaves_of_it_what_is_plausible_and_flatter(p_BU_K: list[np.ndarray]) -> None:
    p_BU = p_BU_K[0]
    raw_BU = np.where(p_BU >= np.float32(0.1) * p_BU.max(axis=1, keepdims=True), p_BU, 0) ** 0.75
    q_BU = contrastive([p_BU, p_BU], [1, -0.25])
    np.testing.assert_allclose(q_BU, raw_BU / raw_BU.sum(axis=1, keepdims=True), atol=1e-5)


@given(members(3))
def test_weight_0_is_absence(p_BU_K: list[np.ndarray]) -> None:
    for name, rule in COMBINE_RULES.items():
        present = weights_for(name, len(p_BU_K) - 1)
        np.testing.assert_allclose(rule(p_BU_K, [0, *present]), rule(p_BU_K[1:], present), atol=1e-6)


@given(members(), st.randoms())
def test_the_order_of_members_changes_nothing(p_BU_K: list[np.ndarray], random: Any) -> None:
    order = list(range(len(p_BU_K)))
    random.shuffle(order)
    for name, rule in COMBINE_RULES.items():
        weights = weights_for(name, len(p_BU_K))
        shuffled = rule([p_BU_K[i] for i in order], [weights[i] for i in order])
        np.testing.assert_allclose(shuffled, rule(p_BU_K, weights), atol=1e-5)


@given(members())
def test_rows_combined_together_are_rows_combined_one_by_one(p_BU_K: list[np.ndarray]) -> None:
    for name, rule in COMBINE_RULES.items():
        weights = weights_for(name, len(p_BU_K))
        alone = [rule([p_BU[row : row + 1] for p_BU in p_BU_K], weights)[0] for row in range(len(p_BU_K[0]))]
        np.testing.assert_allclose(rule(p_BU_K, weights), alone, atol=1e-6)


@given(members())
def test_weights_can_be_of_each_row_its_own(p_BU_K: list[np.ndarray]) -> None:
    count, texts = len(p_BU_K), len(p_BU_K[0])
    w_KB = np.random.default_rng(0).dirichlet(np.ones(count), texts).T.astype(np.float32)
    for name in (each for each in VOTES if each not in SIGNED):
        q_BU = COMBINE_RULES[name](p_BU_K, list(w_KB))
        assert q_BU.dtype == np.float32
        for row in range(texts):
            alone = COMBINE_RULES[name]([p_BU[row : row + 1] for p_BU in p_BU_K], w_KB[:, row].tolist())
            np.testing.assert_allclose(q_BU[row : row + 1], alone, atol=1e-5)


@settings(deadline=None)  # the first use of torch takes its time
@given(members())
def test_an_accelerators_combination_is_the_hosts(p_BU_K: list[np.ndarray]) -> None:
    torch = pytest.importorskip("torch")
    tensors = [torch.from_numpy(p_BU.copy()) for p_BU in p_BU_K]
    for name, rule in COMBINE_RULES.items():
        weights = weights_for(name, len(p_BU_K))
        q_BU = rule(tensors, weights)
        assert isinstance(q_BU, torch.Tensor)
        assert q_BU.dtype == torch.float32
        np.testing.assert_allclose(q_BU.numpy(), rule(p_BU_K, weights), atol=1e-5)
    np.testing.assert_array_equal([tensor.numpy() for tensor in tensors], p_BU_K)


def test_what_is_no_number_comes_to_light() -> None:
    broken = np.full((1, 3), np.nan, np.float32)
    for name, rule in COMBINE_RULES.items():
        assert np.isnan(rule([rows([0.2, 0.3, 0.5]), broken], weights_for(name, 2))).all()
        assert np.isnan(rule([broken, rows([0.2, 0.3, 0.5])], weights_for(name, 2))).all()
    assert np.isnan(mean(truncate([broken, broken], 2), [0.5, 0.5])).any()


def test_truncation_by_hand() -> None:
    # The likeliest two of the first are columns 0 and 1, of the second 2 and 1: column 3 goes.
    first, second = truncate([rows([0.5, 0.3, 0.1, 0.1]), rows([0.0, 0.2, 0.7, 0.1])], 2)
    np.testing.assert_allclose(first, rows([0.5, 0.3, 0.1, 0.0]) / 0.9, rtol=1e-6)
    np.testing.assert_allclose(second, rows([0.0, 0.2, 0.7, 0.0]) / 0.9, rtol=1e-6)


def test_of_equal_masses_the_lowest_columns_are_kept_and_no_mass_is_never_kept() -> None:
    [cut] = truncate([np.full((1, 2000), 1 / 2000, np.float32)], 3)
    np.testing.assert_array_equal(np.flatnonzero(cut), [0, 1, 2])
    [cut, other] = truncate([rows([0.0, 0.0, 1.0]), rows([0.0, 0.5, 0.5])], 2)
    np.testing.assert_allclose(other, rows([0.0, 0.5, 0.5]))
    np.testing.assert_allclose(cut, rows([0.0, 0.0, 1.0]))


@given(members(1), st.integers(1, 10))
def test_truncation_keeps_the_union_of_the_likeliest_and_each_members_odds_there(
    p_BU_K: list[np.ndarray], k: int
) -> None:
    for row in range(len(p_BU_K[0])):
        union = set()
        for p_BU in p_BU_K:
            ranked = sorted(range(p_BU.shape[1]), key=lambda column: (-p_BU[row, column], column))
            union.update(column for column in ranked[:k] if p_BU[row, column] > 0)
        for p_BU, cut_BU in zip(p_BU_K, truncate(p_BU_K, k), strict=True):
            kept = [p_BU[row, column] if column in union else 0 for column in range(p_BU.shape[1])]
            np.testing.assert_allclose(cut_BU[row], np.array(kept) / sum(kept), atol=1e-6)


@pytest.mark.parametrize("k", [1, 7, 40, 400, 4000])
def test_truncation_of_many_columns_is_a_full_sort(k: int) -> None:
    rng = np.random.default_rng(k)
    p_BU = np.round(rng.dirichlet(np.full(5000, 0.1), 2), 4).astype(np.float32)  # many ties, many zeros
    [cut_BU] = truncate([p_BU], k)
    for p_U, cut_U in zip(p_BU, cut_BU, strict=True):
        likeliest = [column for column in np.argsort(-p_U, stable=True)[:k] if p_U[column] > 0]
        np.testing.assert_array_equal(np.flatnonzero(cut_U), np.sort(likeliest))


@pytest.mark.parametrize("k", [1, 30, 100, 20000])
def test_truncation_of_a_member_that_lacks_most_columns_is_a_full_sort(k: int) -> None:
    p_BU = np.zeros((1, 60_000), np.float32)
    p_BU[0, :9000] = np.round(np.random.default_rng(k).dirichlet(np.full(9000, 3)), 6)  # many ties
    [cut_BU] = truncate([p_BU], k)
    likeliest = [column for column in np.argsort(-p_BU[0], stable=True)[:k] if p_BU[0, column] > 0]
    np.testing.assert_array_equal(np.flatnonzero(cut_BU[0]), np.sort(likeliest))


@settings(deadline=None)
@given(members(), st.integers(1, 10))
def test_an_accelerators_truncation_is_the_hosts(p_BU_K: list[np.ndarray], k: int) -> None:
    torch = pytest.importorskip("torch")
    cut = truncate([torch.from_numpy(p_BU.copy()) for p_BU in p_BU_K], k)
    np.testing.assert_allclose([tensor.numpy() for tensor in cut], truncate(p_BU_K, k), atol=1e-6)


PIECES = [b"Inc", b"Correct", b"Incorrect", b"In", b"orrect", b"Increase", b"Inc."]
PREFIXES = plan_prefixes(PIECES)


def test_the_pieces_that_begin_with_one_stand_behind_it() -> None:
    for column, piece in enumerate(PIECES):
        run = PREFIXES.order[PREFIXES.place_U[column] : PREFIXES.stop_U[column]]
        assert run[0] == column
        assert set(run.tolist()) == {other for other, longer in enumerate(PIECES) if longer.startswith(piece)}


@given(st.lists(st.binary(min_size=1, max_size=4), min_size=1, max_size=20, unique=True))
def test_prefixes_are_what_startswith_says(pieces: list[bytes]) -> None:
    prefixes = plan_prefixes(pieces)
    for column, piece in enumerate(pieces):
        run = prefixes.order[prefixes.place_U[column] : prefixes.stop_U[column]]
        assert set(run.tolist()) == {other for other, longer in enumerate(pieces) if longer.startswith(piece)}


def test_sharpening_by_hand() -> None:
    #             Inc  Correct Incorrect In  orrect Increase Inc. END
    q_BU = rows([0.2, 0.4, 0.15, 0.05, 0.0, 0.1, 0.04, 0.06], [0.2, 0.5, 0.15, 0.0, 0.0, 0.1, 0.05, 0.0])
    before = q_BU.copy()
    sharp_BU = sharpen(q_BU, PREFIXES, 0.1)
    # "Inc" takes 0.15 + 0.1 + 0.04; "In" has too little of its own. The second row's largest is not below 0.5.
    np.testing.assert_allclose(sharp_BU[0], [0.49, 0.4, 0, 0.05, 0, 0, 0, 0.06], rtol=1e-5)
    np.testing.assert_array_equal(sharp_BU[1], q_BU[1])
    np.testing.assert_array_equal(q_BU, before)


def test_the_shortest_likely_piece_takes_all() -> None:
    q_BU = rows([0.2, 0.1, 0.3, 0.11, 0.0, 0.0, 0.0, 0.29])
    np.testing.assert_allclose(sharpen(q_BU, PREFIXES, 0.1), rows([0, 0.1, 0, 0.61, 0, 0, 0, 0.29]), rtol=1e-5)


def test_a_row_that_is_not_too_smooth_is_the_same_object() -> None:
    q_BU = rows([0.2, 0.5, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert sharpen(q_BU, PREFIXES, 0.1) is q_BU


@given(st.lists(st.floats(0.03125, 1, width=32), min_size=8, max_size=8), st.sampled_from([0.01, 0.1, 0.2, 0.5]))
def test_sharpening_keeps_the_sum_and_chooses_what_the_paper_does(raw: list[float], share: float) -> None:
    q_BU = rows(raw) / np.float32(sum(raw))
    sharp_BU = sharpen(q_BU, PREFIXES, share)
    assert sharp_BU.sum() == pytest.approx(1, abs=1e-5)
    paper = q_BU[0].astype(np.float64)
    if q_BU.max() < 0.5:
        for column, piece in enumerate(PIECES):
            if q_BU[0, column] > share:
                longer = [i for i, other in enumerate(PIECES) if other.startswith(piece) and i != column]
                paper[column] += q_BU[0, longer].sum()
    assert sharp_BU.max() == pytest.approx(paper.max(), abs=1e-5)
    assert paper[greedy(sharp_BU)[0]] == pytest.approx(paper.max(), abs=1e-5)


def test_an_accelerators_sharpening_is_the_hosts() -> None:
    torch = pytest.importorskip("torch")
    q_BU = rows([0.2, 0.4, 0.15, 0.05, 0.0, 0.1, 0.04, 0.06], [0.2, 0.5, 0.15, 0.0, 0.0, 0.1, 0.05, 0.0])
    tensor = torch.from_numpy(q_BU.copy())
    np.testing.assert_allclose(sharpen(tensor, PREFIXES, 0.1).numpy(), sharpen(q_BU, PREFIXES, 0.1), atol=1e-6)
    np.testing.assert_array_equal(tensor.numpy(), q_BU)


@st.composite
def combines(draw: st.DrawFn) -> Combine:
    rule = draw(st.sampled_from(list(COMBINE_RULES)))
    weights = "fixed" if rule in SIGNED else draw(st.sampled_from(list(WEIGHT_SCHEMES)))
    given: dict[str, Any] = {
        key: draw(st.none() | st.floats(number.low, number.high) | st.just(number.high))
        for key, number in NUMBERS.items()
        if number.readers and {"rule": rule, "weights": weights}[number.readers[0]] in number.readers[1]
    }
    truncated, sharpened = draw(st.none() | st.integers(1, 2**31)), draw(st.none() | st.floats(0.01, 0.5))
    return Combine(rule, weights, truncate=truncated, sharpen=sharpened, **given)


@given(combines())
def test_a_way_to_combine_is_read_from_what_it_is_written_as(combine: Combine) -> None:
    assert Combine.parse(str(combine)) == combine
    assert Combine.parse(asdict(combine)) == combine
    assert Combine.parse({key: value for key, value in asdict(combine).items() if value is not None}) == combine


@pytest.mark.parametrize(
    ("value", "combine"),
    [
        ("mean", Combine()),
        ("max", Combine("max")),
        ("geometric floor:1e-6 truncate:10", Combine("geometric", truncate=10, floor=1e-6)),
        ("contrastive alpha:0.2", Combine("contrastive", alpha=0.2)),
        ("mean weights:entropy sharpen:0.1", Combine(weights="entropy", sharpen=0.1)),
        ("mean weights:perplexity temperature:2", Combine(weights="perplexity", temperature=2)),
        ({}, Combine()),
        ({"rule": "max", "truncate": 5}, Combine("max", truncate=5)),
        ({"weights": "consistency"}, Combine(weights="consistency")),
        (Combine("max"), Combine("max")),
    ],
)
def test_a_way_to_combine_is_read(value: object, combine: Combine) -> None:
    assert Combine.parse(value) == combine


@pytest.mark.parametrize(
    ("value", "message", "way_out"),
    [
        ("means", "unknown rule 'means'; did you mean 'mean'?; known: mean, geometric", "write it as mean, geometric"),
        ({"rule": ["mean"]}, 'the rule is ["mean"]', "write it as mean"),
        ("", "combine is ''", "write it as mean, geometric truncate:10"),
        (3, "combine is 3", "write it as mean"),
        (None, "combine is null", "write it as mean"),
        ("mean truncate:1 truncate:2", "a key is given twice", "write it as mean, geometric truncate:10"),
        ("mean rule:max", "a key is given twice", "write it as mean, geometric truncate:10"),
        ("mean weights:entropie", "unknown weights 'entropie'; did you mean 'entropy'?", "those of the members"),
        ("mean truncate:0", "truncate is 0: it must be a whole number from 1 to 2,147,483,648", "likeliest pieces"),
        ("mean truncate:1.5", "truncate is 1.5: it must be a whole number", "likeliest pieces"),
        ({"truncate": True}, "truncate is true: it must be a whole number", "likeliest pieces"),
        ("mean truncate", "truncate is '': it must be a whole number", "likeliest pieces"),
        ("mean sharpen:0.6", "sharpen is 0.6: it must be a number from 0.01 to 0.5", "mass takes that of its contin"),
        ("mean sharpen:nan", "sharpen is 'nan': it must be a number", "continuations"),
        ("contrastive alpha:0", "alpha is 0: it must be a number from 1e-06 to 1", "a piece is plausible"),
        ("contrastive alpha:x", "alpha is 'x': it must be a number", "a piece is plausible"),
        ("geometric floor:0", "floor is 0: it must be a number from 1e-30 to 0.01", "counts as this at least"),
        ({"rule": "geometric", "floor": 10**400}, "it must be a number from 1e-30 to 0.01", "counts as this"),
        ("mean floor:0.01", "the rule 'mean' has no floor, but floor is 0.01", "or choose geometric or minimum or"),
        ("max alpha:0.1", "the rule 'max' has no alpha, but alpha is 0.1", "leave alpha out, or choose contrastive"),
        (
            "mean temperature:1",
            "the weights 'fixed' have no temperature",
            "leave temperature out, or choose perplexity",
        ),
        (
            "mean weights:perplexity temperature:0",
            "temperature is 0: it must be a number from 0.01 to 100",
            "the less perplexities matter",
        ),
        (
            "contrastive weights:entropy",
            "the rule 'contrastive' has fixed weights, but weights is 'entropy'",
            "leave weights out, or choose another rule",
        ),
    ],
)
def test_a_bad_way_to_combine_is_refused_with_its_value_and_the_way_out(
    value: object, message: str, way_out: str
) -> None:
    with pytest.raises(SpecError) as refusal:
        Combine.parse(value)
    assert message in refusal.value.message
    assert way_out in (refusal.value.hint or "")


@pytest.mark.parametrize("value", ["mean trunkate:3", {"trunkate": 3}])
def test_an_unknown_key_is_refused_and_the_nearest_suggested(value: object) -> None:
    with pytest.raises(SpecError, match="unknown key 'trunkate' in combine; did you mean 'truncate'"):
        Combine.parse(value)


def test_a_way_to_combine_is_checked_when_it_is_changed() -> None:
    with pytest.raises(SpecError, match=r"the rule 'max' has no alpha"):
        replace(Combine("contrastive", alpha=0.5), rule="max")


@pytest.mark.parametrize(
    ("rule", "weights", "message", "way_out"),
    [
        ("mean", {"a": 0.0}, "no member has a positive weight: a 0", "give one a weight such as 1"),
        ("contrastive", {"a": -1.0}, "no member has a positive weight: a -1", "give one a weight such as 1"),
        (
            "contrastive",
            {"a": 1.0, "b": 0.5},
            "needs an amateur, but no member has a negative weight: a 1, b 0.5",
            "give the weakest member a weight such as -0.5, or choose another rule: mean, geometric, max",
        ),
        (
            "geometric",
            {"a": 1.0, "b": -0.5},
            "the rule 'geometric' has no use for a negative weight: a 1, b -0.5",
            "give b a weight of 0 or more, or choose the rule logits or contrastive",
        ),
        (
            "minimum",
            {"a": 1.0, "b": -0.5},
            "the rule 'minimum' has no use for a negative weight: a 1, b -0.5",
            "or choose the rule logits or contrastive",
        ),
        (
            "logits",
            {"a": 1.0, "b": -1.0},
            "the weights of the rule 'logits' sum to 0: a 1, b -1",
            "it has to be more than 0.01 of the sum of their sizes, 2, as with 1, 1 and -1",
        ),
        ("logits", {"a": 0.5, "b": -1.5}, "sum to -1: a 0.5, b -1.5", "more than 0.01"),
        ("logits", {"a": 0.1, "b": 0.2, "c": -0.3}, "sum to 5.55e-17", "more than 0.01"),
        (
            "logits",
            {"a": 1.0, "b": -0.99},
            "sum to 0.01: a 1, b -0.99",
            "more than 0.01 of the sum of their sizes, 1.99",
        ),
        (
            "logits weights:entropy",
            {"a": 2.0, "b": -1.0},
            "the rule 'logits' has fixed weights where one is negative, but weights is 'entropy': a 2, b -1",
            "leave weights out, or choose another rule",
        ),
        ("logits", {"a": -1.0}, "no member has a positive weight", "give one a weight such as 1"),
        (
            "logits truncate:5",
            {"a": 1.0, "b": -0.5},
            "truncate is 5, but b has a negative weight",
            "leave truncate out",
        ),
    ],
)
def test_weights_that_a_rule_cannot_use_are_refused(
    rule: str, weights: dict[str, float], message: str, way_out: str
) -> None:
    with pytest.raises(SpecError) as refusal:
        Combine.parse(rule).check(weights)
    assert message in refusal.value.message
    assert way_out in (refusal.value.hint or "")


def test_weights_that_a_rule_can_use_pass() -> None:
    Combine().check({"a": 1.0, "b": 0.0})
    Combine("contrastive").check({"a": 1.0, "b": 2.0, "c": -0.5})
    Combine("logits").check({"a": 1.0, "b": 1.0, "c": -1.0})
    Combine("logits", truncate=5).check({"a": 1.0, "b": 2.0})
    Combine("logits", weights="entropy").check({"a": 1.0, "b": 2.0})


def test_calling_it_truncates_then_weighs_then_combines() -> None:
    p_BU_K = [rows([0.6, 0.3, 0.1]), rows([0.1, 0.5, 0.4])]
    combine = Combine("max", weights="perplexity", temperature=2, truncate=1)
    # Columns 0 and 1 stay: (2/3, 1/3) and (1/6, 5/6); weights 1 and e^(-1/2), scaled, times 1/2 each.
    second = math.exp(-1 / 2)
    raw = rows([2 / 3, max(1 / 3, second * 5 / 6), 0])
    np.testing.assert_allclose(combine(p_BU_K, [0.5, 0.5], [[3.0], [4.0]]), raw / raw.sum(), rtol=1e-5)


def test_parameters_reach_the_rule() -> None:
    p_BU_K = [rows([0.6, 0.4, 0.0]), rows([0.3, 0.3, 0.4])]
    for combine, q_BU in [
        (Combine("geometric"), geometric(p_BU_K, [0.5, 0.5], FLOOR)),
        (Combine("geometric", floor=0.01), geometric(p_BU_K, [0.5, 0.5], 0.01)),
    ]:
        np.testing.assert_array_equal(combine(p_BU_K, [0.5, 0.5]), q_BU)
    contrast = Combine("contrastive", alpha=0.9)
    np.testing.assert_array_equal(contrast(p_BU_K, [1, -0.5]), contrastive(p_BU_K, [1, -0.5], alpha=0.9))


@pytest.mark.parametrize("weights", ["entropy", "consistency"])
def test_logits_without_negative_weights_are_the_geometric_mean_by_any_scheme(weights: str) -> None:
    p_BU_K = [rows([0.6, 0.4, 0.0], [0.2, 0.7, 0.1]), rows([0.3, 0.3, 0.4], [0.9, 0.1, 0.0])]
    found = Combine("logits", weights=weights)(p_BU_K, [0.5, 0.5])
    np.testing.assert_array_equal(found, Combine("geometric", weights=weights)(p_BU_K, [0.5, 0.5]))


def test_keys_alone_mean_the_mean() -> None:
    assert Combine.parse("weights:entropy truncate:4") == Combine(weights="entropy", truncate=4)


def test_where_nobody_gives_mass_above_the_floor_the_product_stands() -> None:
    p_BU = np.full((1, 200), 1 / 200, np.float32)
    np.testing.assert_allclose(geometric([p_BU, p_BU], [0.5, 0.5], floor=0.01), p_BU, rtol=1e-5)
