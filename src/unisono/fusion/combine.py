"""Rules that make one distribution of several, and how a spec writes down which of them is followed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from unisono.errors import SpecError, nearest
from unisono.fusion.fold import Array
from unisono.fusion.gate import known_keys
from unisono.fusion.weights import WEIGHT_SCHEMES, Weight, per_row, perplexity, top_columns

CombineRule = Callable[[Sequence[Array], Sequence[Weight]], Array]
"""``(p_BU of each voter, its weight) -> q_BU``; in each row the weights sum to 1, and so does ``q_BU``."""

FLOOR = 1e-10
"""What a mass counts at least where masses are multiplied."""
ALPHA = 0.1
"""The share of the largest mass at which a piece is plausible (both papers of `contrastive`)."""
SMOOTH = 0.5
"""A combined distribution whose largest mass is below this is too smooth (SAFE, arXiv 2510.15346, section 3.3)."""
_BARELY = 1.001
"""Above what rounding makes of a product of floors."""


def mean(p_BU_K: Sequence[Array], weights: Sequence[Weight]) -> Array:
    """The weighted arithmetic mean, ``q = Σ w_i p_i`` (GaC, arXiv 2406.12585, section 3)."""
    q_BU = p_BU_K[0] * per_row(weights[0])
    for p_BU, weight in zip(p_BU_K[1:], weights[1:], strict=True):
        q_BU += p_BU * per_row(weight)
    return q_BU


def geometric(p_BU_K: Sequence[Array], weights: Sequence[Weight], floor: float = FLOOR) -> Array:
    """The weighted geometric mean, ``q ∝ Π max(p_i, floor)^w_i``.

    A product of experts (Hinton, Neural Computation 14, 2002), or logarithmic opinion pool (Genest and
    Zidek, Statistical Science 1, 1986); SAFE (arXiv 2510.15346, section 3.3) has it as its second way
    of sharpening. A piece stays likely only if all find it likely. One that a member lacks, or gives next
    to no mass, takes the floor from that member: the smaller the floor, the less chance have pieces that
    not all members have. A piece whose product is no more than the floor is one that nobody gives mass;
    its q is 0.
    """
    xp = array_namespace(p_BU_K[0])
    q_BU = _floored_log(p_BU_K[0], floor)
    q_BU *= per_row(weights[0])
    for p_BU, weight in zip(p_BU_K[1:], weights[1:], strict=True):
        logp_BU = _floored_log(p_BU, floor)
        logp_BU *= per_row(weight)
        q_BU += logp_BU
    xp.exp(q_BU, out=q_BU)
    q_BU *= ~(q_BU <= floor * _BARELY)
    return _normalise(q_BU)


def largest(p_BU_K: Sequence[Array], weights: Sequence[Weight]) -> Array:
    """The largest weighted mass, ``q ∝ max_i w_i p_i``.

    The max rule of classifier combination (Kittler, Hatef, Duin and Matas, IEEE PAMI 20, 1998); the
    weights are ours. A piece is as likely as the member that is surest of it says.
    """
    xp = array_namespace(p_BU_K[0])
    q_BU = p_BU_K[0] * per_row(weights[0])
    for p_BU, weight in zip(p_BU_K[1:], weights[1:], strict=True):
        q_BU = xp.maximum(q_BU, p_BU * per_row(weight))
    return _normalise(q_BU)


def contrastive(p_BU_K: Sequence[Array], weights: Sequence[float], alpha: float = ALPHA, floor: float = FLOOR) -> Array:
    """What experts find likelier than amateurs do: ``q ∝ exp(Σ w_i log max(p_i, floor))`` over plausible pieces.

    Members with a negative weight are amateurs. A piece is plausible where the experts' mean mass is at
    least ``alpha`` times its maximum; elsewhere q is 0. Weights are numbers; those of the experts sum to 1,
    and an amateur's is relative to that (`scaled` makes them so). An expert of 1 and an amateur of -1 give
    ``p_e / p_a`` (Li et al., arXiv 2210.15097). 1.5 and -0.5, scaled to 1 and -1/3, choose as
    ``p_e (p_e / p_a)^0.5`` does (O'Brien and Lewis, arXiv 2309.09117, β = 0.5): q is its power 2/3. Of an
    amateur that is the expert, q is a flatter expert without what is implausible.

    The papers' members share a vocabulary. Here an amateur can lack a piece, and no mass is then no
    opinion: it counts as one that agrees with the experts, else all pieces that it lacks would win.
    """
    xp = array_namespace(p_BU_K[0])
    voters = [(p_BU, float(weight)) for p_BU, weight in zip(p_BU_K, weights, strict=True)]
    experts = [voter for voter in voters if voter[1] > 0]
    q_BU = mean(*zip(*experts, strict=True))
    implausible_BU = q_BU < xp.max(q_BU, axis=1, keepdims=True) * alpha
    for row in range(q_BU.shape[0]):
        [columns] = xp.nonzero(~implausible_BU[row, :])
        expert_N = sum(_floored_log(p_BU[row, :][columns], floor) * weight for p_BU, weight in experts)
        score_N = expert_N
        for p_BU, weight in voters:
            if weight < 0:
                p_N = p_BU[row, :][columns]
                score_N = score_N + xp.where(p_N == 0, expert_N, _floored_log(p_N, floor)) * weight
        q_BU[row, :] = 0
        q_BU[row, columns] = xp.exp(score_N - xp.max(score_N))
    return _normalise(q_BU)


def truncate(p_BU_K: Sequence[Array], k: int) -> list[Array]:
    """Keep only the pieces that are among the k likeliest of some member, and renormalise each member.

    The union of UniTE (arXiv 2410.03777): for a piece that another member brought in, a
    member's own mass counts. UniTE gives a piece that a member lacks the mass of its first token there;
    here it has none, as everywhere. Of equal masses the lowest column is kept; a mass of 0 never is.

    So even a member alone loses what is not among its k likeliest.

    Returns:
        ``p_BU`` of each member, new arrays.
    """
    xp = array_namespace(p_BU_K[0])
    cut_BU_K = [xp.zeros_like(p_BU) for p_BU in p_BU_K]
    for row in range(p_BU_K[0].shape[0]):
        columns = xp.unique_values(xp.concat([top_columns(p_BU[row, :], k) for p_BU in p_BU_K]))
        for p_BU, cut_BU in zip(p_BU_K, cut_BU_K, strict=True):
            kept = p_BU[row, :][columns]
            cut_BU[row, columns] = kept / xp.sum(kept)
    return cut_BU_K


@dataclass(frozen=True, slots=True, eq=False)
class Prefixes:
    """Which pieces begin with which: sorted by their bytes, those that begin with one piece follow it."""

    order: NDArray[np.int64]
    """Columns sorted by the bytes of their pieces; END is not among them."""
    place_U: NDArray[np.int64]
    """Where each column stands in ``order``; for END its length."""
    stop_U: NDArray[np.int64]
    """Where in ``order`` the pieces end that begin with that of each column."""


def plan_prefixes(pieces: Sequence[bytes]) -> Prefixes:
    """Sort the pieces of a union for `sharpen`.

    Args:
        pieces: of each column but the last one, END's.
    """
    order = sorted(range(len(pieces)), key=pieces.__getitem__)
    place_U = np.full(len(pieces) + 1, len(pieces))
    place_U[order] = np.arange(len(pieces))
    stop_U = np.full(len(pieces) + 1, len(pieces))
    open_columns: list[int] = []
    for place, column in enumerate(order):
        while open_columns and not pieces[column].startswith(pieces[open_columns[-1]]):
            stop_U[open_columns.pop()] = place
        open_columns.append(column)
    return Prefixes(np.array(order, np.int64), place_U, stop_U)


def sharpen(q_BU: Array, prefixes: Prefixes, share: float) -> Array:
    """Where a row is too smooth, move the mass of pieces that begin with a likely piece to that piece.

    SAFE's heuristic (arXiv 2510.15346, section 3.3): tokenizers split a word differently and so scatter
    its mass. Where the largest mass is below `SMOOTH`, a piece whose mass is above ``share`` (SAFE's λ,
    0.1 there) takes the mass of all pieces that begin with its bytes. What differs:

    - SAFE adds the masses and leaves them where they were as well. Here they move, to the shortest
      likely prefix, so that the row keeps its sum; the largest mass is the same.
    - SAFE lets only pieces in the drafter's vocabulary take mass. Here any piece of the union can, as every
      member can spell it.

    Args:
        q_BU: combined; not changed.
        prefixes: of the union's pieces.
        share: between 0 and `SMOOTH`.

    Returns:
        ``q_BU``, the same object where no row is too smooth.
    """
    xp = array_namespace(q_BU)
    smooth = [row for row, mass in enumerate(xp.max(q_BU, axis=1)) if float(mass) < SMOOTH]
    sharp_BU = xp.asarray(q_BU, copy=True) if smooth else q_BU
    for row in smooth:
        [likely] = xp.nonzero(q_BU[row, :] > share)
        columns = sorted((int(column) for column in likely), key=lambda column: int(prefixes.place_U[column]))
        reach = 0
        for column in columns:
            start, stop = prefixes.place_U[column], prefixes.stop_U[column]
            if start < reach or start == stop:
                continue  # its mass has moved to a shorter piece already, or it is END
            run = xp.asarray(prefixes.order[start:stop], device=device(q_BU))
            sharp_BU[row, run] = 0
            sharp_BU[row, column] = xp.sum(q_BU[row, :][run])
            reach = stop
    return sharp_BU


COMBINE_RULES: dict[str, CombineRule] = {
    "mean": mean,
    "geometric": geometric,
    "max": largest,
    "contrastive": contrastive,
}
"""By the name that a spec's ``combine`` uses."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A key of a spec that only some rules or weight schemes read."""

    key: str
    """The field beside it that holds the name: ``rule`` or ``weights``."""
    readers: tuple[str, ...]
    low: float
    high: float
    meaning: str


PARAMETERS: dict[str, Parameter] = {
    "alpha": Parameter(
        "rule", ("contrastive",), 1e-6, 1, "from this share of the largest mass on a piece is plausible"
    ),
    "floor": Parameter("rule", ("geometric", "contrastive"), 1e-30, 0.01, "a mass counts as this at least"),
    "temperature": Parameter("weights", ("perplexity",), 0.01, 100, "the higher it is, the less perplexities matter"),
}


@dataclass(frozen=True, slots=True)
class Combine:
    """How the members' distributions become one. The default is their weighted mean."""

    rule: str = "mean"
    """One of `COMBINE_RULES`."""
    weights: str = "fixed"
    """One of `WEIGHT_SCHEMES`."""
    truncate: int | None = None
    """Keep only the union of the members' so many likeliest pieces; ``None`` for all."""
    sharpen: float | None = None
    """The share from which a piece takes the mass of its continuations, see `sharpen`; ``None`` for never."""
    alpha: float | None = None
    """For ``contrastive``; ``None`` for `ALPHA`."""
    floor: float | None = None
    """For ``geometric`` and ``contrastive``; ``None`` for `FLOOR`."""
    temperature: float | None = None
    """For the weights ``perplexity``; ``None`` for their `TEMPERATURE`."""

    def __post_init__(self) -> None:
        """Check it. Raises a `SpecError` that names the value and the choices."""
        _check_name("rule", self.rule, COMBINE_RULES, "write it as mean, or {rule: mean, truncate: 10}")
        _check_name("weights", self.weights, WEIGHT_SCHEMES, "fixed weights are those of the members")
        if self.rule == "contrastive" and self.weights != "fixed":
            raise SpecError(
                f"the rule 'contrastive' has fixed weights, but weights is {self.weights!r}",
                hint="an amateur's weight is no share of the vote: leave weights out, or choose another rule",
            )
        if self.truncate is not None:
            _check_number("truncate", self.truncate, 1, 2**31, "it counts each member's likeliest pieces", whole=True)
        if self.sharpen is not None:
            _check_number("sharpen", self.sharpen, 0.01, SMOOTH, "a piece of more mass takes that of its continuations")
        for key, parameter in PARAMETERS.items():
            value, reader = getattr(self, key), getattr(self, parameter.key)
            if value is not None and reader not in parameter.readers:
                have = "has" if parameter.key == "rule" else "have"
                raise SpecError(
                    f"the {parameter.key} {reader!r} {have} no {key}, but {key} is {value!r}",
                    hint=f"leave {key} out, or choose {' or '.join(parameter.readers)}",
                )
            if value is not None:
                _check_number(key, value, parameter.low, parameter.high, parameter.meaning)

    def check(self, weights: Mapping[str, float]) -> None:
        """Hold the rule against the members' weights, by their names.

        Raises:
            SpecError: an amateur or an expert is lacking, or there is an amateur where no rule has a use for it.
        """
        given = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
        experts = [name for name, weight in weights.items() if weight > 0]
        amateurs = [name for name, weight in weights.items() if weight < 0]
        if not experts:
            raise SpecError(f"no member has a positive weight: {given}", hint="give one a weight such as 1")
        if self.rule == "contrastive" and not amateurs:
            raise SpecError(
                f"the rule 'contrastive' needs an amateur, but no member has a negative weight: {given}",
                hint="give the weakest member a weight such as -0.5, or choose another rule: mean, geometric, max",
            )
        if self.rule != "contrastive" and amateurs:
            raise SpecError(
                f"the rule {self.rule!r} has no use for a negative weight: {given}",
                hint=f"give {', '.join(amateurs)} a weight of 0 or more, or choose the rule contrastive",
            )

    def __call__(
        self, p_BU_K: Sequence[Array], base: Sequence[float], loss_KB: Sequence[Sequence[float]] = ()
    ) -> Array:
        """Truncate, weigh and combine; sharpening is left to who knows the pieces.

        Args:
            p_BU_K: of each voter; not changed.
            base: the weight of each voter, `scaled`.
            loss_KB: of each voter, what `perplexity` reads.

        Returns:
            ``q_BU``.
        """
        kept_BU_K = p_BU_K if self.truncate is None else truncate(p_BU_K, self.truncate)
        return self.combine(kept_BU_K, self.weigh(base, kept_BU_K, loss_KB))

    def weigh(
        self, base: Sequence[float], p_BU_K: Sequence[Array], loss_KB: Sequence[Sequence[float]] = ()
    ) -> list[Weight]:
        """The weight of each voter, by the scheme; see `WeightScheme`."""
        if self.temperature is not None:
            return perplexity(base, p_BU_K, loss_KB, self.temperature)
        return WEIGHT_SCHEMES[self.weights](base, p_BU_K, loss_KB)

    def combine(self, p_BU_K: Sequence[Array], weights: Sequence[Weight]) -> Array:
        """The rule with its parameters, a `CombineRule`."""
        given = {"alpha": self.alpha, "floor": self.floor}
        return COMBINE_RULES[self.rule](
            p_BU_K, weights, **{key: value for key, value in given.items() if value is not None}
        )

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read what a spec, a flag or an argument gives.

        Args:
            value: a `Combine`; a rule's name, with ``key:value`` for further fields behind it or not, as in
                ``"geometric truncate:10"``; a mapping of the fields.

        Raises:
            SpecError: it is none of these.
        """
        if isinstance(value, cls):
            return value
        known = [key.name for key in fields(cls)]
        if isinstance(value, Mapping):
            return cls(**known_keys("combine", value, known))
        if not isinstance(value, str) or not value.split():
            raise SpecError(f"combine is {value!r}", hint="write it as mean, or {rule: mean, truncate: 10}")
        rule, *words = value.split()
        given = dict(word.partition(":")[::2] for word in words)
        if "rule" in given or len(given) < len(words):
            raise SpecError(f"combine is {value!r}: a key is given twice", hint="write it as geometric truncate:10")
        read = {key: text if key == "weights" else _number(text) for key, text in given.items()}
        return cls(rule, **known_keys("combine", read, known))

    def __str__(self) -> str:
        """As it is written on the command line."""
        others = [key for key in fields(self)[1:] if getattr(self, key.name) != key.default]
        return " ".join([self.rule, *(f"{key.name}:{getattr(self, key.name)}" for key in others)])


def _floored_log(p_BU: Array, floor: float) -> Array:
    xp = array_namespace(p_BU)
    logp_BU = xp.maximum(p_BU, xp.asarray(floor, dtype=p_BU.dtype, device=device(p_BU)))
    return xp.log(logp_BU, out=logp_BU)


def _normalise(q_BU: Array) -> Array:
    """Scale rows to sum 1, in place."""
    q_BU /= array_namespace(q_BU).sum(q_BU, axis=1, keepdims=True)
    return q_BU


def _check_name(key: str, value: object, known: Mapping[str, Any], hint: str) -> None:
    if not isinstance(value, str) or value not in known:
        raise SpecError(f"unknown {key} {value!r}{nearest(str(value), known)}; known: {', '.join(known)}", hint=hint)


def _check_number(key: str, value: object, low: float, high: float, hint: str, *, whole: bool = False) -> None:
    wanted: tuple[type, ...] = (int,) if whole else (int, float)
    if not isinstance(value, wanted) or isinstance(value, bool) or not low <= value <= high:  # type: ignore[operator]
        limits = f"a whole number from {low} to {high:,}" if whole else f"a number from {low} to {high}"
        raise SpecError(f"{key} is {value!r}: it must be {limits}", hint=hint)


def _number(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
