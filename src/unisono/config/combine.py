"""How a spec writes down by which rule, with which weights, distributions are combined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

from unisono.config.compact import Number, changed, known_keys, numbers_of, read_form, read_number, split_words
from unisono.errors import SpecError, nearest, shown
from unisono.fusion.fold import Array
from unisono.fusion.rules import COMBINE_RULES, SIGNED
from unisono.fusion.rules import truncate as cut_to_top
from unisono.fusion.sharpen import SMOOTH
from unisono.fusion.weights import WEIGHT_SCHEMES, Weight, perplexity

MEAN = "mean"
FLOORED = ("geometric", "minimum", "logits", "contrastive")
LEAST_SUM = 0.01
"""What weights of `logits` have to sum to, as a share of the sum of their sizes: else rounding is made larger."""
_SHARES = "a negative weight is no share of the vote: leave weights out, or choose another rule"
_FORMS = "write it as mean, geometric truncate:10 or {rule: geometric, truncate: 10}"


@dataclass(frozen=True, slots=True)
class Combine:
    """How the members' distributions are combined. The default is their weighted mean.

    `unisono.fusion.rules` and `unisono.fusion.weights` have the formulas and their sources.

    Raises:
        SpecError: a name is unknown, or a value is out of range or does not belong to the rule.
    """

    rule: str = MEAN
    """``mean``, ``geometric``, ``max``, ``minimum``, ``logits`` or ``contrastive``."""
    weights: str = "fixed"
    """A factor on each member's weight: ``fixed``, ``entropy``, ``consistency`` or ``perplexity``."""
    truncate: Annotated[int | None, Number(1, 2**31, "it counts each member's likeliest pieces", whole=True)] = None
    """Keep only the union of the members' most likely pieces, this many of each (UniTE, arXiv 2410.03777); ``None`` for
    all."""
    sharpen: Annotated[float | None, Number(0.01, SMOOTH, "a piece of more mass takes that of its continuations")] = (
        None
    )
    """The probability, 0.01 to 0.5, above which a piece takes the probability of its continuations (SAFE, arXiv
    2510.15346); ``None`` for never."""
    alpha: Annotated[
        float | None,
        Number(
            1e-6, 1, "from this share of the largest mass on a piece is plausible", readers=("rule", ("contrastive",))
        ),
    ] = None
    """For ``contrastive``: the share of the experts' largest probability that a piece needs; ``None`` for 0.1."""
    floor: Annotated[
        float | None,
        Number(1e-30, 0.01, "a mass counts as this at least", readers=("rule", FLOORED)),
    ] = None
    """For the rules with logarithms and ``minimum``: the least value of a probability; ``None`` for 1e-10."""
    temperature: Annotated[
        float | None,
        Number(0.01, 100, "the higher it is, the less perplexities matter", readers=("weights", ("perplexity",))),
    ] = None
    """For the weights ``perplexity``: higher values make perplexities matter less; ``None`` for 1."""

    def __post_init__(self) -> None:
        _check_name("rule", self.rule, COMBINE_RULES, _FORMS)
        _check_name("weights", self.weights, WEIGHT_SCHEMES, "fixed weights are those of the members")
        if self.rule == "contrastive" and self.weights != "fixed":  # it always has a negative one
            raise SpecError(f"the rule {self.rule!r} has fixed weights, but weights is {self.weights!r}", hint=_SHARES)
        for key, number in NUMBERS.items():
            if (value := getattr(self, key)) is None:
                continue
            if number.readers is not None:
                self._check_reader(key, value, *number.readers)
            object.__setattr__(self, key, number.checked(key, value))

    def _check_reader(self, key: str, value: object, field: str, readers: tuple[str, ...]) -> None:
        """Refuse an option that the rule or the weights, whichever ``field`` names, do not read."""
        if (reader := getattr(self, field)) not in readers:
            raise SpecError(
                f"the {field} {reader!r} {'has' if field == 'rule' else 'have'} no {key}, but {key} is {shown(value)}",
                hint=f"leave {key} out, or choose {' or '.join(readers)}",
            )

    @property
    def reads_losses(self) -> bool:
        """Whether how unlikely members find the prompt has to be known."""
        return self.weights == "perplexity"

    def check(self, weights: Mapping[str, float]) -> None:
        """Hold the rule against the members' weights, by their names. Raises a `SpecError` where they do not fit."""
        given = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
        experts = [name for name, weight in weights.items() if weight > 0]
        amateurs = [name for name, weight in weights.items() if weight < 0]
        if not experts:
            raise SpecError(f"no member has a positive weight: {given}", hint="give one a weight such as 1")
        if self.rule not in SIGNED and amateurs:
            raise SpecError(
                f"the rule {self.rule!r} has no use for a negative weight: {given}",
                hint=f"give {', '.join(amateurs)} a weight of 0 or more, or choose the rule {' or '.join(SIGNED)}",
            )
        if amateurs and self.weights != "fixed":
            raise SpecError(
                f"the rule {self.rule!r} has fixed weights where one is negative, but weights is {self.weights!r}: "
                f"{given}",
                hint=_SHARES,
            )
        if amateurs and self.truncate is not None:
            way = "contrastive cuts to what the experts find plausible anyway (alpha)"
            raise SpecError(
                f"truncate is {self.truncate}, but {', '.join(amateurs)} has a negative weight: what an amateur finds "
                "most likely would join the pieces to choose from",
                hint=f"leave truncate out{'' if self.rule == 'logits' else ': ' + way}",
            )
        if self.rule == "contrastive" and not amateurs:
            raise SpecError(
                f"the rule 'contrastive' needs an amateur, but no member has a negative weight: {given}",
                hint="give the weakest member a weight such as -0.5, or choose another rule: "
                f"{', '.join(rule for rule in COMBINE_RULES if rule != 'contrastive')}",
            )
        total, sizes = sum(weights.values()), sum(map(abs, weights.values()))
        if self.rule == "logits" and total <= LEAST_SUM * sizes:
            raise SpecError(
                f"the weights of the rule 'logits' sum to {total:.3g}: {given}",
                hint=f"it has to be more than {LEAST_SUM:g} of the sum of their sizes, {sizes:.3g}, as with 1, 1 and "
                "-1: give the positive ones more",
            )

    def __call__(
        self, p_BU_K: Sequence[Array], base: Sequence[float], loss_KB: Sequence[Sequence[float]] = ()
    ) -> Array:
        """Truncate, weigh and combine to ``q_BU``; sharpening is left to who knows the pieces.

        ``base`` has the weight of each voter, `scaled`; ``loss_KB`` is what `perplexity` reads.
        """
        kept_BU_K = p_BU_K if self.truncate is None else cut_to_top(p_BU_K, self.truncate)
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
        """Read a `Combine`, a line such as ``"geometric truncate:10"``, or a mapping of the fields. Blanks or commas
        separate the keys of a line.

        Raises:
            SpecError: it is none of these.
        """
        if isinstance(value, cls):
            return value
        return cls(**read_form(cls, "combine", value, _read_words, hint=_FORMS))

    def __str__(self) -> str:
        return " ".join([self.rule, *changed(self, ["weights", *NUMBERS])])


NUMBERS = numbers_of(Combine)


def _read_words(text: str) -> dict[str, Any]:
    """Read ``"geometric truncate:10"``, or the keys alone."""
    rule, *words = split_words(text)
    if not rule:
        raise SpecError(f"combine is {shown(text)}", hint=_FORMS)
    if ":" in rule:
        rule, words = MEAN, [rule, *words]
    given = dict(word.partition(":")[::2] for word in words)
    if "rule" in given or len(given) < len(words):
        raise SpecError(f"combine is {shown(text)}: a key is given twice", hint=_FORMS)
    known_keys("combine", given, ["rule", "weights", *NUMBERS], hint=_FORMS)
    return {"rule": rule, **{key: read_number(word) if key in NUMBERS else word for key, word in given.items()}}


def _check_name(key: str, value: object, known: Mapping[str, Any], hint: str) -> None:
    if not isinstance(value, str):
        raise SpecError(f"the {key} is {shown(value)}", hint=f"known: {', '.join(known)}; {hint}")
    if value not in known:
        raise SpecError(f"unknown {key} {shown(value)}{nearest(value, known)}; known: {', '.join(known)}", hint=hint)
