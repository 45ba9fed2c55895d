"""A certain choice is that of every whole distribution that agrees with what was told."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from support.told import END, MAPS, compositions, dense, has_kept, plan, told
from unisono.backends.truncated import top_logprobs
from unisono.config.sampling import Sampling
from unisono.fusion.bounds import UNSHAPED, Reshaping, Voter, Whole, certify, kinds_of
from unisono.fusion.bounds_reference import PlainTold, plain_certificate
from unisono.fusion.fold_top import TopPlan, fold_top, plan_top
from unisono.fusion.logits_processors import confine, shape
from unisono.fusion.rules import COMBINE_RULES

RULES = ("mean", "max", "geometric")


def is_right(
    column: int,
    p_U_K: list[np.ndarray],
    weights: tuple[float, ...],
    rule: str,
    reshaping: Reshaping = UNSHAPED,
) -> bool:
    q_BU = confine(COMBINE_RULES[rule]([p_U[None].copy() for p_U in p_U_K], weights), [reshaping.allowed_U])
    q_U = shape(q_BU, [Sampling()], [{}], [reshaping.bias])[0]
    return bool(q_U[column] >= q_U.max() * (1 - 1e-7))


MASKS = (None, (1, 1, 1, 1, 0), (0, 1, 1, 0, 0), (0, 0, 0, 1, 0), (1, 0, 0, 0, 1))
BIASES: tuple[dict[int, float], ...] = ({}, {0: 2.0}, {1: -1.5, END: 1.0}, {2: 100.0}, {0: -100.0, 3: 100.0})


def reshapings() -> list[Reshaping]:
    """Masks and biases of five columns, each beside each, but for none at all."""
    masks = [None if mask is None else np.array(mask, bool) for mask in MASKS]
    return [Reshaping(*each) for each in itertools.product(masks, BIASES)][1:]


@pytest.mark.parametrize("columns", MAPS)
def test_a_lone_member_is_certain_only_of_what_its_whole_distribution_gives(columns: tuple[int, ...]) -> None:
    kinds, certain = kinds_of([plan(columns).ids_U]), 0
    for masses, k in itertools.product(compositions(8, 4), range(1, 5)):
        if has_kept(masses, columns):
            found = certify([told(masses, columns, k)], [1.0], kinds, "mean")
            certain += found.is_certain
            assert not found.is_certain or is_right(found.column, [dense(masses, columns)], (1.0,), "mean")
            assert found.is_certain or k < 4
    assert certain > 300


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("left", "right"), [(0, 0), (0, 1), (1, 2), (3, 2), (2, 4)])
@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.7, 0.3)])
def test_two_members_are_certain_only_of_what_whole_distributions_give(
    rule: str, left: int, right: int, weights: tuple[float, ...]
) -> None:
    columns_K = (MAPS[left], MAPS[right])
    plans = [plan(columns) for columns in columns_K]
    kinds, certain = kinds_of([its.ids_U for its in plans]), 0
    ways = [*compositions(4, 4), *random_ways(30)]
    cases = [
        {
            (masses, k): (told(masses, columns, k), dense(masses, columns))
            for masses, k in itertools.product(ways, range(1, 5))
            if has_kept(masses, columns)
        }
        for columns in columns_K
    ]
    chosen = np.random.default_rng(left + right).permutation(len(cases[0]) * len(cases[1]))[:300]
    both = [list(its.values()) for its in cases]
    for number in chosen:
        (one, p_U), (other, r_U) = both[0][number // len(both[1])], both[1][number % len(both[1])]
        found = certify([one, other], weights, kinds, rule)
        certain += found.is_certain
        assert not found.is_certain or is_right(found.column, [p_U, r_U], weights, rule)
    assert certain > 25


@pytest.mark.parametrize("columns", MAPS)
def test_what_is_reshaped_is_certain_only_where_whole_distributions_give_it(columns: tuple[int, ...]) -> None:
    kinds, certain = kinds_of([plan(columns).ids_U]), 0
    for masses, k in itertools.product(compositions(4, 4), range(1, 5)):
        if has_kept(masses, columns):
            row, p_U = told(masses, columns, k), dense(masses, columns)
            for reshaping in reshapings()[k % 2 :: 2]:
                found = certify([row], [1.0], kinds, "mean", reshaping=reshaping)
                certain += found.is_certain
                assert reshaping.allowed_U is None or reshaping.allowed_U[found.column]
                assert not found.is_certain or is_right(found.column, [p_U], (1.0,), "mean", reshaping)
                assert found.is_certain or k < 4
    assert certain > 500


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("left", "right"), [(0, 1), (1, 2), (3, 2)])
def test_what_two_members_reshape_is_certain_only_where_whole_distributions_give_it(
    rule: str, left: int, right: int
) -> None:
    columns_K, weights, certain = (MAPS[left], MAPS[right]), (0.6, 0.4), 0
    kinds = kinds_of([plan(columns).ids_U for columns in columns_K])
    ways = list(itertools.product(random_ways(40), random_ways(40), range(1, 5), range(1, 5)))
    for number in np.random.default_rng(left).permutation(len(ways))[:60]:
        *masses_K, k, other = ways[number]
        pairs = list(zip(masses_K, columns_K, strict=True))
        if not all(has_kept(*pair) for pair in pairs):
            continue
        rows = [told(*pair, its) for pair, its in zip(pairs, (k, other), strict=True)]
        p_U_K = [dense(*pair) for pair in pairs]
        for reshaping in reshapings()[::2]:
            found = certify(rows, weights, kinds, rule, reshaping=reshaping)
            certain += found.is_certain
            assert not found.is_certain or is_right(found.column, p_U_K, weights, rule, reshaping)
    assert certain > 100


def random_ways(count: int) -> list[tuple[int, ...]]:
    ways = list(compositions(8, 4))
    return [ways[place] for place in np.random.default_rng(3).permutation(len(ways))[:count]]


@pytest.mark.parametrize("rule", RULES)
def test_a_member_that_tells_all_is_held_against_one_that_does_not(rule: str) -> None:
    columns_K, certain = (MAPS[1], MAPS[2]), 0
    kinds, masked = kinds_of([plan(MAPS[2]).ids_U]), [Reshaping(np.array(mask, bool)) for mask in MASKS[1:]]
    for masses, others, k in itertools.product(compositions(4, 4), compositions(4, 4), (1, 2)):
        if not has_kept(others, columns_K[1]):
            continue
        p_U, r_U = dense(masses, columns_K[0]), dense(others, columns_K[1])
        voters: list[Voter] = [Whole(p_U), told(others, columns_K[1], k)]
        for reshaping in (UNSHAPED, masked[(certain + k) % len(masked)]):
            found = certify(voters, (0.6, 0.4), kinds, rule, reshaping=reshaping)
            certain += found.is_certain
            assert not found.is_certain or is_right(found.column, [p_U, r_U], (0.6, 0.4), rule, reshaping)
    assert certain > 400


@pytest.mark.parametrize("rule", RULES)
def test_what_a_member_that_tells_all_says_of_columns_of_little_mass_counts_where_a_grammar_leaves_these(
    rule: str,
) -> None:
    columns_V, p_U = np.array([0, 4, 5], np.int32), np.array([0.9990, 0.0002, 0.0001, 0.0007, 0, 0])
    reshaping = Reshaping(np.array([0, 1, 1, 1, 0, 0], bool))
    for k in (1, 2, 3):
        row = top_logprobs(np.array([[3, 1, 0]], np.float32), [(k, ())])
        its = plan_top(columns_V, 6)
        other = fold_top(row.ids_NK[0], row.logp_NK[0], float(row.unseen_N[0]), float(row.kth_N[0]), its)
        found = certify([Whole(p_U), other], (0.5, 0.5), kinds_of([its.ids_U]), rule, reshaping=reshaping)
        assert (found.column, found.is_certain) == (3, True)
    its = plan_top(np.array([0, 1, 2, 3], np.int32), 6)
    row = top_logprobs(np.array([[9, 1, 1, 1]], np.float32), [(1, ())])
    other = fold_top(row.ids_NK[0], row.logp_NK[0], float(row.unseen_N[0]), float(row.kth_N[0]), its)
    found = certify([Whole(p_U), other], (0.1, 0.9), kinds_of([its.ids_U]), rule, reshaping=reshaping)
    assert (found.column, found.is_certain, sorted(found.rivals.tolist())) == (3, False, [1, 2])


@pytest.mark.parametrize("rule", ["mean", "geometric"])
def test_ids_asked_for_by_number_make_certain_what_the_likeliest_alone_do_not(rule: str) -> None:
    columns, kinds = MAPS[0], kinds_of([plan(MAPS[0]).ids_U] * 2)
    masses, others = (50, 1, 1, 30), (1, 50, 2, 30)
    first = certify([told(masses, columns, 1), told(others, columns, 1)], (0.5, 0.5), kinds, rule)
    assert not first.is_certain
    again = [told(its, columns, 1, (0, 1, 3)) for its in (masses, others)]
    found = certify(again, (0.5, 0.5), kinds, rule)
    expected = COMBINE_RULES[rule]([dense(its, columns)[None] for its in (masses, others)], (0.5, 0.5))[0]
    assert found.is_certain
    assert found.column == int(np.argmax(expected))


def test_a_choice_between_columns_of_the_same_mass_is_left_open_until_all_is_told() -> None:
    kinds, masses = kinds_of([plan(MAPS[0]).ids_U]), (3, 3, 1, 1)
    assert [certify([told(masses, MAPS[0], k)], [1.0], kinds, "mean").is_certain for k in (2, 3, 4)] == [False] * 2 + [
        True
    ]
    assert certify([told(masses, MAPS[0], 4)], [1.0], kinds, "mean").column == 0


@pytest.mark.parametrize("rule", RULES)
def test_bounds_of_kinds_say_what_bounds_of_all_columns_say(rule: str) -> None:
    random, size, certain, beside, proved = np.random.default_rng(11), 14, 0, 0, 0
    for _ in range(250):
        members = int(random.integers(1, 4))
        columns_K = [random.integers(-1, size, 18).astype(np.int32) for _ in range(members)]
        weights = random.dirichlet(np.ones(members)).tolist()
        floor = float(random.choice([1e-10, 1e-3]))
        voters, plain, plans = list[Voter](), list[PlainTold](), list[TopPlan]()
        for column_V in columns_K:
            logits_V = (3 * random.standard_normal(18)).astype(np.float32)
            also = random.permutation(18)[: random.integers(0, 4)].tolist()
            row = top_logprobs(logits_V[None], [(int(random.integers(1, 19)), also)])
            row_parts = row.ids_NK[0], row.logp_NK[0], float(row.unseen_N[0]), float(row.kth_N[0])
            plans.append(plan_top(column_V, size))
            voters.append(fold_top(*row_parts, plans[-1]))
            p_by_id = dict(zip(row.ids_NK[0].tolist(), np.exp(row.logp_NK[0].astype(float)), strict=True))
            plain.append(PlainTold(column_V, p_by_id, row_parts[2], min(row_parts[2:])))
        allowed_U = random.random(size) < random.choice([0.2, 0.6]) if random.random() < 0.5 else None
        if allowed_U is not None:
            allowed_U[int(random.integers(size))] = True
        biased = random.permutation(size)[: random.integers(0, 4)].tolist() if random.random() < 0.5 else []
        reshaping = Reshaping(allowed_U, {column: float(random.normal(0, 4)) for column in biased})
        kinds = kinds_of([its.ids_U for its in plans])
        found = certify(voters, weights, kinds, rule, floor, reshaping)
        expected = plain_certificate(plain, weights, size, rule, floor, allowed_U, reshaping.bias)
        assert (found.column, found.is_certain) == expected
        certain += found.is_certain
        if random.random() < 0.4:  # beside one that tells all, most of it of one column
            p_U = random.dirichlet(np.full(size, 0.3)) * random.choice([1e-5, 1])
            p_U[int(random.integers(size))] += 1 - p_U.sum()
            voters.append(Whole(p_U))
            plain.append(PlainTold(np.arange(size, dtype=np.int32), dict(enumerate(p_U)), 0.0, 0.0))
            weights = random.dirichlet(np.ones(members + 1)).tolist()
            found = certify(voters, weights, kinds, rule, floor, reshaping)
            expected = plain_certificate(plain, weights, size, rule, floor, allowed_U, reshaping.bias)
            assert found.column == expected[0]
            assert expected[1] or not found.is_certain
            beside += found.is_certain
            proved += expected[1]
    assert 40 < certain < 240
    assert proved >= beside > 0.8 * proved > 20
