"""What is certain before all members were asked is so whatever the others say: by enumeration on small vocabularies."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from support.told import compositions
from unisono.fusion.bounds import UNSHAPED, Certificate, Reshaping, Voter, Whole, certify, kinds_of
from unisono.fusion.logits_processors import add_bias, confine
from unisono.fusion.partial_votes import Unasked, certify_plausible, decides, next_to_ask, untold
from unisono.fusion.rules import ALPHA, COMBINE_RULES, FLOOR

SIZE = 5
MAPS = ((0, 1, 2, 4), (1, 2, 3, 4), (0, 3, 4, -1))
"""Columns of four ids: what each member can spell, END among it, and an id whose mass is dropped."""
WEIGHTS = ((0.4, 0.35, 0.25), (0.6, 0.3, 0.1), (0.1, 0.2, 0.7))
RESHAPINGS = (
    UNSHAPED,
    Reshaping(np.array([1, 1, 1, 1, 0], bool)),
    Reshaping(np.array([0, 1, 1, 0, 0], bool)),
    Reshaping(bias={0: 2.0, 3: -1.5}),
    Reshaping(np.array([1, 0, 1, 1, 1], bool), {1: 50.0, 2: -1.0}),
)


def distributions(columns: tuple[int, ...], parts: int) -> np.ndarray:
    """Every distribution over some columns in so many parts, float32, and those of one column that has nearly all."""
    kept = [column for column in columns if column >= 0]
    rows = [*compositions(parts, len(kept)), *(parts * 1000 * np.eye(len(kept)) + 1)]
    p_BU = np.zeros((len(rows), SIZE), np.float32)
    p_BU[:, kept] = rows
    return p_BU / p_BU.sum(axis=1, keepdims=True)


def some(p_BU: np.ndarray, count: int, seed: int) -> np.ndarray:
    return p_BU[np.random.default_rng(seed).permutation(len(p_BU))[:count]]


def choices(rule: str, p_BU_K: list[np.ndarray], weights: tuple[float, ...], reshaping: Reshaping) -> set[int]:
    """What whole distributions choose, over all rows."""
    rows = max(map(len, p_BU_K))
    whole = [np.broadcast_to(p_BU, (rows, SIZE)).copy() for p_BU in p_BU_K]
    q_BU = confine(COMBINE_RULES[rule](whole, weights), [reshaping.allowed_U] * rows)
    return {int(add_bias(q_U, reshaping.bias).argmax()) for q_U in q_BU}


def early(rule: str, asked: dict[int, np.ndarray], weights: tuple[float, ...], reshaping: Reshaping) -> Certificate:
    """What is certain when members of these numbers have said so much."""
    if rule == "contrastive":
        p_U_K = [asked.get(member) for member in range(len(weights))]
        return certify_plausible(p_U_K, weights, ALPHA, FLOOR, reshaping)
    voters: list[Voter] = []
    for member in range(len(weights)):
        silent = untold(np.array(MAPS[member], np.int32), SIZE)
        voters.append(Whole(asked[member]) if member in asked else silent)
    kinds = kinds_of([voter.ids_U for voter in voters if not isinstance(voter, Whole)])
    return certify(voters, weights, kinds, rule, reshaping=reshaping)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("rule", ["mean", "max", "geometric"])
def test_nothing_that_the_last_member_says_changes_what_is_certain(rule: str, weights: tuple[float, ...]) -> None:
    certain = 0
    for silent in range(3):
        others = [member for member in range(3) if member != silent]
        rows = [some(distributions(MAPS[member], 6), 14, member) for member in others]
        completions = distributions(MAPS[silent], 6)
        for number, pair in enumerate(itertools.product(*rows)):
            asked, reshaping = dict(zip(others, pair, strict=True)), RESHAPINGS[number % len(RESHAPINGS)]
            found = early(rule, asked, weights, reshaping)
            if found.is_certain:
                p_BU_K = [asked[member][None] if member in asked else completions for member in range(3)]
                assert choices(rule, p_BU_K, weights, reshaping) == {found.column}
                certain += 1
    assert certain > (20 if rule != "geometric" else 0)


@pytest.mark.parametrize("rule", ["mean", "max", "geometric"])
def test_nothing_that_two_members_say_changes_what_one_makes_certain(rule: str) -> None:
    weights, certain = (0.7, 0.2, 0.1), 0
    rest = [some(distributions(MAPS[member], 4), 12, member) for member in (1, 2)]
    pairs = [np.stack(rows) for rows in zip(*itertools.product(*rest), strict=True)]
    for number, p_U in enumerate(distributions(MAPS[0], 10)):
        reshaping = RESHAPINGS[number % len(RESHAPINGS)]
        found = early(rule, {0: p_U}, weights, reshaping)
        if found.is_certain:
            assert choices(rule, [p_U[None], *pairs], weights, reshaping) == {found.column}
            certain += 1
    assert certain > 3


def test_what_is_not_certain_of_a_mean_can_still_change() -> None:
    """The bound is tight: the last member's whole vote for one rival suffices, or makes a tie."""
    unsure = 0
    for pair in itertools.product(some(distributions(MAPS[0], 6), 20, 0), some(distributions(MAPS[1], 6), 20, 1)):
        found = early("mean", dict(enumerate(pair)), WEIGHTS[0], UNSHAPED)
        if not found.is_certain:
            last = np.eye(SIZE, dtype=np.float32)[[column for column in MAPS[2] if column >= 0]]
            q_BU = COMBINE_RULES["mean"]([np.repeat(p_U[None], len(last), 0) for p_U in pair] + [last], WEIGHTS[0])
            rival_BU = q_BU.copy()
            rival_BU[:, found.column] = 0
            assert (rival_BU.max(axis=1) * (1 + 1e-4) >= q_BU[:, found.column]).any()
            unsure += 1
    assert unsure > 50


def test_a_tie_is_never_certain() -> None:
    asked = {0: np.array([0.5, 0.5, 0, 0, 0], np.float32), 1: np.array([0.5, 0.5, 0, 0, 0], np.float32)}
    assert not early("mean", asked, (0.49, 0.5, 0.01), UNSHAPED).is_certain


@pytest.mark.parametrize("weights", [(1.0, -0.5), (1.0, -0.2, -0.1), (0.7, 0.3, -0.5)])
def test_nothing_that_an_amateur_says_changes_what_is_certain(weights: tuple[float, ...]) -> None:
    certain, silent = {True: 0, False: 0}, len(weights) - 1
    rows = [some(distributions(MAPS[member], 10), 60 if silent < 2 else 16, member) for member in range(silent)]
    completions = distributions(MAPS[silent], 6)
    for number, its in enumerate(itertools.product(*rows)):
        reshaping = RESHAPINGS[number % len(RESHAPINGS)]
        found = early("contrastive", dict(enumerate(its)), weights, reshaping)
        certain[found.is_certain] += 1
        if found.is_certain:
            p_BU_K = [*(p_U[None] for p_U in its), completions]
            assert choices("contrastive", p_BU_K, weights, reshaping) == {found.column}
    assert all(certain.values())
    assert not early("contrastive", {silent: rows[0][0]}, weights, UNSHAPED).is_certain


@pytest.mark.parametrize(
    ("rule", "asked", "rest", "may"),
    [
        ("mean", (0.5,), (0.5,), False),
        ("mean", (0.3, 0.3), (0.4,), True),
        ("geometric", (0.4,), (0.3, 0.3), False),
        ("max", (0.4,), (0.3, 0.3), True),
        ("max", (0.3, 0.3), (0.4,), False),
        ("contrastive", (1.0,), (-0.5,), True),
        ("contrastive", (0.9, -0.5), (0.1,), False),
        ("mean", (), (), True),
    ],
)
def test_who_may_decide(rule: str, asked: tuple[float, ...], rest: tuple[float, ...], may: bool) -> None:
    assert decides(rule, asked, rest) is may


@pytest.mark.parametrize("rule", ["mean", "max", "geometric"])
def test_who_may_not_decide_never_makes_anything_certain(rule: str) -> None:
    """Where each member can spell each piece: so nothing is lost by asking a quorum at once."""
    silent = untold(np.arange(SIZE, dtype=np.int32), SIZE)
    for weights in ((0.5, 0.5), (0.4, 0.6), (0.3, 0.3, 0.4)):
        voters: list[Voter] = [Whole(np.eye(SIZE)[0]), *[silent] * (len(weights) - 1)]
        found = certify(voters, weights, kinds_of([silent.ids_U] * (len(weights) - 1)), rule)
        assert not decides(rule, weights[:1], weights[1:])
        assert not found.is_certain


@pytest.mark.parametrize(
    ("weights", "prices", "asked"),
    [
        ((1, 1, 1), (3, 1, 2), {1, 2}),
        ((3, 1, 1), (9, 1, 1), {0}),  # the light ones never decide
        ((3, 2, 2), (9, 1, 1), {1, 2}),
        ((1, 1), (1, 5), {0, 1}),
        ((1, 1, 1), (0, 0, 0), {0, 1}),  # what they cost is not known yet
    ],
)
def test_the_cheapest_that_may_decide_are_asked_first(
    weights: tuple[float, ...], prices: tuple[float, ...], asked: set[int]
) -> None:
    left = [Unasked(who, [weight], price) for who, (weight, price) in enumerate(zip(weights, prices, strict=True))]
    assert set(next_to_ask(left, [], "mean")) == asked


def test_behind_those_who_may_decide_the_cheapest_is_asked() -> None:
    left = [Unasked("dear", [0.2], 9.0), Unasked("cheap", [0.1], 1.0)]
    assert next_to_ask(left, [0.7], "mean") == ["cheap"]
    left = [Unasked("amateur", [-0.5], 1.0), Unasked("expert", [1.0], 9.0)]
    assert next_to_ask(left, [], "contrastive") == ["expert"]
