"""What a spec, a flag or an argument says about drawing: the options, and what they may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial, wraps
from typing import Annotated, Any, Self
from urllib.parse import quote_from_bytes, unquote_to_bytes

from unisono.config.bias import checked_bias, checked_logit_bias
from unisono.config.compact import Number, changed, numbers_of, read_form, read_number, renamed, split_words
from unisono.config.sampling_options import (
    FrequencyPenalty,
    MinP,
    PresencePenalty,
    RepetitionPenalty,
    Seed,
    Temperature,
    TopK,
    TopP,
    TypicalP,
)
from unisono.errors import SpecError, nearest, shown

GREEDY = "greedy"
ONE_MEMBER = "one-member"
MIXTURE = "mixture"
OLD_MIXTURE = "one_member"
"""The field's old name, which run folders keep."""
TRUNCATED = "truncated_sampling"
MEMBER = "member_"
"""What the options begin with that act on every member's distribution before these are combined."""


class _Remembering:
    __slots__ = ("_written",)
    _written: str

    @property
    def written(self) -> str:
        """The word by which ``mixture`` was asked for, which errors say too."""
        return getattr(self, "_written", MIXTURE)


@dataclass(frozen=True, slots=True)
class Sampling(_Remembering):
    """How a piece is chosen from the combined distribution. The default is greedy.

    Options apply in this order: bias, penalties, temperature, ``top_k``, ``top_p``, ``min_p``, ``typical_p``. Penalties
    count the pieces of the answer, not those of the prompt. `unisono.fusion.logits_processors` has the formulas.

    Raises:
        SpecError: a value is out of range, or options contradict each other.
    """

    temperature: Temperature = 0
    """Probabilities are raised to the power 1/temperature, 0 to 100; at 0 the most likely piece is chosen."""
    top_k: TopK | None = None
    """Sample from this many most likely pieces; ``None`` for all."""
    top_p: TopP = 1
    """Sample from the most likely pieces with this total probability, 0 to 1."""
    min_p: MinP = 0
    """Sample from pieces with at least this share of the largest probability, 0 to 1."""
    typical_p: TypicalP = 1
    """Sample from the most typical pieces with this total probability (arXiv 2202.00666), above 0 to 1."""
    repetition_penalty: RepetitionPenalty = 1
    """The probabilities of generated pieces are raised to this power, above 0 to 100."""
    presence_penalty: PresencePenalty = 0
    """Subtracted once from the log-probability of a generated piece, -2 to 2."""
    frequency_penalty: FrequencyPenalty = 0
    """Subtracted from the log-probability of a generated piece for each occurrence, -2 to 2."""
    bias: Mapping[bytes, float] = field(default_factory=dict, hash=False)
    """Added to the log-probability of the piece that completes a text, -100 to 100; see `Bias`."""
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    """Added to the log-probability of a column of the union, END included, -100 to 100."""
    member_temperature: Annotated[
        float,
        Number(
            0.01,
            100,
            "1 leaves each member's distribution as it is, less makes every member surer before they are combined",
        ),
    ] = 1
    """Options with ``member_`` act on each member's distribution before combining."""
    member_top_k: TopK | None = None
    member_top_p: TopP = 1
    member_min_p: MinP = 0
    member_typical_p: TypicalP = 1
    member_repetition_penalty: RepetitionPenalty = 1
    member_presence_penalty: PresencePenalty = 0
    member_frequency_penalty: FrequencyPenalty = 0
    member_bias: Mapping[bytes, float] = field(default_factory=dict, hash=False)
    seed: Seed | None = None
    """The same seed gives the same text. ``None`` for a new seed each time. No effect with greedy."""
    mixture: bool = False
    """Sample a member by weight, and the piece from that member's distribution alone; the others are not run (mixture
    sampling, arXiv 2605.00419). The distribution of the text is that of the weighted mean."""
    truncated_sampling: bool = False
    """Whether pieces may be sampled if members report only their most likely ids; `unisono.fusion.completion` estimates
    the rest."""
    # transformers and vLLM: 1 or more.
    beam_width: Annotated[
        int, Number(1, 64, "it counts the texts that are followed at once; 1 is greedy", whole=True)
    ] = 1
    """Beam search over this many texts, 1 to 64; 1 for none."""
    # transformers and vLLM: any number.
    length_penalty: Annotated[
        float,
        Number(-10, 10, "a text's log-mass is divided by its pieces to this power: more favours long texts"),
    ] = 1
    """In beam search, a text's log-probability is divided by its number of pieces to this power, -10 to 10 (GNMT, arXiv
    1609.08144, section 7, without its constant, as in transformers)."""

    def __post_init__(self) -> None:
        for name, option in OPTIONS.items():
            if getattr(self, name) is not None or _DEFAULTS[name] is not None:
                self._check_option(name, option)
        for name, value in ((self.written, self.mixture), (TRUNCATED, self.truncated_sampling)):
            if not isinstance(value, bool):
                raise SpecError(f"{name} is {shown(value)}", hint="it is true or false")
        object.__setattr__(self, "bias", checked_bias("bias", self.bias))
        object.__setattr__(self, "member_bias", checked_bias("member_bias", self.member_bias))
        object.__setattr__(self, "logit_bias", checked_logit_bias(self.logit_bias))
        if self.mixture:
            self._check_mixture()
        if self.beam_width > 1 and self.mixture:
            raise SpecError(
                f"{self.written} draws, and a beam searches for the most likely text", hint="leave one of them out"
            )
        if self.beam_width > 1 and not self.is_greedy:
            raise SpecError(
                f"beam_width is {self.beam_width}, but at temperature {self.temperature:g} pieces are drawn: "
                "a search keeps the likeliest",
                hint="leave beam_width out, or the temperature",
            )
        if self.length_penalty != 1 and self.beam_width == 1:
            raise SpecError(
                f"length_penalty is {self.length_penalty:g}, but without a beam there is one text only",
                hint="leave it out, or give a beam_width of 2 or more",
            )

    def _check_option(self, name: str, option: Number) -> None:
        value = option.checked(name, getattr(self, name))
        value = _DEFAULTS[name] if value in option.off else value
        object.__setattr__(self, name, value)
        if name in _DRAWING and self.is_greedy and value != _DEFAULTS[name]:
            raise SpecError(
                f"{name} is {shown(value)}, but at temperature 0 the most likely piece is taken and nothing is drawn",
                hint=f"leave {name} out, or give a temperature above 0, such as 1",
            )

    def _check_mixture(self) -> None:
        if self.is_greedy:
            raise SpecError(
                f"{self.written} draws a member and a piece, but at temperature 0 nothing is drawn",
                hint="leave the temperature out; member_temperature makes each member surer",
            )
        acting = next((name for name in SHAPING if name != "temperature" and self.changes(name)), None)
        acting = acting or ("temperature" if self.temperature != 1 else None)
        if acting is not None:
            own = "" if acting == "logit_bias" else f"write {MEMBER}{acting}, which acts on the drawn member's, or "
            raise SpecError(
                f"{self.written} runs a single member, but {acting} acts on the distribution of all of them",
                hint=own + f"leave {self.written} out",
            )

    def changes(self, name: str) -> bool:
        default = {} if name.endswith("bias") else _DEFAULTS[name]
        return bool(getattr(self, name) != default)

    @property
    def shapes(self) -> bool:
        """Whether a combined distribution is reshaped before the likeliest piece is taken or one drawn."""
        return any(self.changes(name) for name in SHAPING if name != "temperature") or self.temperature not in (0, 1)

    def of_members(self) -> Sampling | None:
        """What is done to each member's distribution before they are combined; ``None`` for nothing."""
        own = (name for name in SHAPING if name != "logit_bias" and self.changes(MEMBER + name))
        given = {name: getattr(self, MEMBER + name) for name in own}
        return Sampling(**{"temperature": 1, **given}) if given else None

    @property
    def one_member(self) -> bool:
        """The old name of `mixture`."""
        return self.mixture

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0

    def but(self, options: Mapping[str, Any]) -> Self:
        """With some options replaced; at temperature 0, those that only act on what is drawn are checked, no more."""
        if options and options.get("temperature", self.temperature) == 0:
            for name in _DRAWING:
                if options.get(name) is not None:
                    OPTIONS[name].checked(name, options[name])
            options = {**options, **{name: _DEFAULTS[name] for name in _DRAWING}}
        return replace(self, **{**options, "written": self.written})

    @classmethod
    def parse(cls, value: object, key: str = "sampling") -> Self:
        """Read what a spec, a flag or an argument gives, which errors call ``key``.

        It is a `Sampling`; a number, the temperature; a mapping of the fields; or words with blanks or commas between,
        as ``"0.7 top_p:0.9 seed:1"``, where a bias is ``bias:TEXT=NUMBER`` with the text percent-encoded. ``"greedy"``
        is temperature 0; ``"mixture"``, or ``"one-member"``, draws at temperature 1. Raises a `SpecError`.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return cls(temperature=value)
        if is_old := isinstance(value, Mapping) and OLD_MIXTURE in value:
            value = renamed(value, MIXTURE, OLD_MIXTURE)
        given = read_form(cls, key, value, partial(_read_words, within=key), hint=_WAYS)
        if is_old:
            given["written"] = OLD_MIXTURE
        return cls(**({"temperature": 1, **given} if given.get(MIXTURE) is True else given))

    def __str__(self) -> str:
        """As `parse` reads it: what differs from the default."""
        words = [*[GREEDY] * self.is_greedy, *changed(self, list(OPTIONS))]
        for name in ("bias", MEMBER + "bias"):
            words += [f"{name}:{quote_from_bytes(text, safe='')}={more}" for text, more in getattr(self, name).items()]
        words += [f"logit_bias:{column}={more}" for column, more in self.logit_bias.items()]
        words += [ONE_MEMBER] * self.mixture + [TRUNCATED] * self.truncated_sampling
        return " ".join(words)


def _taking_old_name(init: Callable[..., None]) -> Callable[..., None]:
    """Let the constructor, and so `replace`, take the old name of `mixture` too, and how it was written."""

    @wraps(init)
    def take(self: Sampling, *args: Any, written: str = MIXTURE, **options: Any) -> None:
        if OLD_MIXTURE in options:
            if len(options) > len(_DEFAULTS):  # `replace` gives all fields, and so the new name too
                del options[MIXTURE]
            options, written = renamed(options, MIXTURE, OLD_MIXTURE), OLD_MIXTURE
        object.__setattr__(self, "_written", written)
        init(self, *args, **options)

    return take


Sampling.__init__ = _taking_old_name(Sampling.__init__)  # type: ignore[method-assign]
OPTIONS = numbers_of(Sampling)
SHAPING = (*(name for name in OPTIONS if MEMBER + name in OPTIONS), "bias", "logit_bias")
"""What reshapes a distribution: the combined one, and with `MEMBER` before it each member's."""
_DRAWING = [name for name, option in OPTIONS.items() if option.drawing and not name.startswith(MEMBER)]
"""What acts where pieces are drawn, and so does nothing where the likeliest is taken."""
_DEFAULTS: dict[str, Any] = {key.name: key.default for key in fields(Sampling)}
_WAYS = "write it as greedy, mixture, 0.7, temperature:0.7 top_p:0.9 or {temperature: 0.7, top_p: 0.9}"


def _read_words(text: str, within: str) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for word in split_words(text):
        name, biased, value = _read_word(word, within)
        options: dict[Any, Any] = given if biased is None else given.setdefault(name, {})
        key, what = (name, name) if biased is None else (biased, f"the {name} of {biased!r}")
        if key in options:
            raise SpecError(f"{within} gives {what} twice: {shown(text)}", hint="leave one of them out")
        options[key] = value
        if key == MIXTURE:
            given["written"] = word
    return given


def _read_word(word: str, within: str) -> tuple[str, object, object]:
    """The field, for a bias the text or column that is biased, and the value."""
    if word == GREEDY:
        return "temperature", None, 0
    if word in (MIXTURE, ONE_MEMBER, OLD_MIXTURE):
        return MIXTURE, None, True
    if word == TRUNCATED:
        return TRUNCATED, None, True
    key, _, rest = word.partition(":")
    if key in OPTIONS:
        return key, None, read_number(rest)
    if key in ("bias", "logit_bias", MEMBER + "bias"):
        biased, equals, number = rest.rpartition("=")
        is_column = key == "logit_bias"
        if not equals:
            way = "COLUMN=NUMBER, as in logit_bias:9=-5" if is_column else f"TEXT=NUMBER, as in {key}:%20the=-5"
            raise SpecError(f"{shown(word)} gives no number", hint=f"write {key}:{way}")
        return key, read_number(biased) if is_column else unquote_to_bytes(biased), read_number(number)
    if not isinstance(temperature := read_number(word), str):
        return "temperature", None, temperature
    known = [GREEDY, MIXTURE, TRUNCATED, *OPTIONS, "bias", "logit_bias", MEMBER + "bias"]
    raise SpecError(f"unknown {shown(word)} in {within}{nearest(key, known)}; known: {', '.join(known)}", hint=_WAYS)
