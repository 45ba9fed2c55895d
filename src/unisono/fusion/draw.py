"""What a spec, a flag or an argument says about drawing: the options, and what they may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import NamedTuple, Self
from urllib.parse import quote_from_bytes, unquote_to_bytes

from unisono.errors import SpecError, nearest
from unisono.fusion.gate import known_keys

GREEDY = "greedy"
ONE_MEMBER = "one-member"


class Option(NamedTuple):
    """What the number of an option may be."""

    allows: Callable[[float], bool]
    limits: str
    meaning: str
    whole: bool = False
    drawing: bool = False
    """Whether it acts on what is drawn, and so does nothing where nothing is."""


OPTIONS: dict[str, Option] = {
    # OpenAI: 0 to 2; transformers: anything above 0; vLLM raises what is below 0.01 to 0.01.
    "temperature": Option(
        lambda value: value == 0 or 0.01 <= value <= 100,
        "0, or a number from 0.01 to 100",
        "0 takes the likeliest piece, 1 draws from the distribution as it is, more flattens it",
    ),
    # transformers and vLLM: 1 or more (0 for off is `None` here); OpenAI has none.
    "top_k": Option(
        lambda value: 1 <= value <= 2**31,
        "a whole number of 1 or more, 2,147,483,648 at most",
        "it counts the likeliest pieces that are drawn among; leave it out for all",
        whole=True,
        drawing=True,
    ),
    # OpenAI and transformers: 0 to 1.
    "top_p": Option(
        lambda value: 0 <= value <= 1,
        "a number from 0 to 1",
        "pieces are drawn among the likeliest that have this much mass; 1 leaves all",
        drawing=True,
    ),
    # transformers and vLLM: 0 to 1.
    "min_p": Option(
        lambda value: 0 <= value <= 1,
        "a number from 0 to 1",
        "pieces are drawn that have at least this share of the likeliest one's mass; 0 leaves all",
        drawing=True,
    ),
    # transformers: above 0 and below 1, with 1 for off.
    "typical_p": Option(
        lambda value: 0 < value <= 1,
        "a number above 0, 1 at most",
        "pieces are drawn among the most typical that have this much mass; 1 leaves all",
        drawing=True,
    ),
    # transformers and vLLM: anything above 0.
    "repetition_penalty": Option(
        lambda value: 0 < value <= 100,
        "a number above 0, 100 at most",
        "1 changes nothing, more makes pieces that were written less likely",
    ),
    # OpenAI: -2 to 2.
    "presence_penalty": Option(
        lambda value: -2 <= value <= 2,
        "a number from -2 to 2",
        "it is taken once from the log-mass of a piece that was written",
    ),
    # OpenAI: -2 to 2.
    "frequency_penalty": Option(
        lambda value: -2 <= value <= 2,
        "a number from -2 to 2",
        "it is taken from the log-mass of a piece for each time that it was written",
    ),
    "seed": Option(
        lambda value: 0 <= value < 2**64,
        "a whole number from 0 to 18,446,744,073,709,551,615",
        "the same seed draws the same text; leave it out for another one each time",
        whole=True,
    ),
}
"""The options that are numbers, by name."""


@dataclass(frozen=True, slots=True)
class Draw:
    """How a piece is chosen from a distribution. The default is greedy.

    `fusion.sample.shape` says what each option does, and in which order they are applied.
    """

    temperature: float = 0
    """Masses are raised to the power 1/temperature; at 0 the likeliest piece is taken."""
    top_k: int | None = None
    """Draw among this many likeliest pieces; ``None`` for all."""
    top_p: float = 1
    """Draw among the likeliest pieces that have this much mass together."""
    min_p: float = 0
    """Draw among the pieces that have at least this share of the likeliest one's mass."""
    typical_p: float = 1
    """Draw among the most typical pieces that have this much mass together."""
    repetition_penalty: float = 1
    """The masses of pieces that were written are raised to this power."""
    presence_penalty: float = 0
    """Taken once from the log-mass of every piece that was written."""
    frequency_penalty: float = 0
    """Taken from the log-mass of a piece for each time that it was written."""
    bias: Mapping[bytes, float] = field(default_factory=dict, hash=False)
    """Added to the log-masses of pieces, -100 to 100 as in the OpenAI API; given as text or bytes."""
    seed: int | None = None
    """``None`` for another text each time: who begins a text then chooses a seed for it. With greedy a
    seed promises what holds anyway, the same text again."""
    one_member: bool = False
    """Draw a member by weight and the piece from that member's distribution alone: the others are not run
    (mixture sampling, arXiv 2605.00419). All other options then act on that member's distribution."""

    def __post_init__(self) -> None:
        """Check it. Raises a `SpecError` that names the value and the choices."""
        for name, option in OPTIONS.items():
            value = getattr(self, name)
            wanted = int if option.whole else (int, float)
            sound = isinstance(value, wanted) and not isinstance(value, bool)
            if value is None and name in ("top_k", "seed"):
                continue
            if not sound or not option.allows(value):
                raise SpecError(f"{name} is {value!r}: it must be {option.limits}", hint=option.meaning)
            if option.drawing and self.is_greedy and value != _DEFAULTS[name]:
                raise SpecError(
                    f"{name} is {value!r}, but at temperature 0 the likeliest piece is taken and nothing drawn",
                    hint=f"leave {name} out, or give a temperature above 0, such as 1",
                )
        if not isinstance(self.one_member, bool):
            raise SpecError(f"one_member is {self.one_member!r}", hint="it is true or false")
        if self.one_member and self.is_greedy:
            raise SpecError(
                "one_member is true, but at temperature 0 nothing is drawn, no member either",
                hint="give a temperature above 0: 1 draws from the member's distribution as it is",
            )
        object.__setattr__(self, "bias", _checked_bias(self.bias))

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest piece is taken."""
        return self.temperature == 0

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read what a spec, a flag or an argument gives.

        Args:
            value: a `Draw`; a number, the temperature; ``"greedy"``; ``"one-member"``; words such as
                ``"temperature:0.7 top_p:0.9 seed:1"``, where the temperature may be the number alone, a
                bias is ``bias:PIECE=NUMBER`` with the piece percent-encoded, and ``one-member`` without a
                temperature means 1; a mapping of the fields of a draw.

        Raises:
            SpecError: it is none of these.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return cls(temperature=value)
        if isinstance(value, str):
            return cls(**_read_words(value))  # type: ignore[arg-type]
        if isinstance(value, Mapping):
            return cls(**known_keys("draw", value, [key.name for key in fields(cls)]))
        raise SpecError(f"draw is {value!r}", hint=_WAYS)

    def __str__(self) -> str:
        """In one line, as `parse` reads it: what differs from the default."""
        given = {name: getattr(self, name) for name in OPTIONS}
        words = [f"{name}:{value}" for name, value in given.items() if value != _DEFAULTS[name]]
        words = [GREEDY, *words] if self.is_greedy else words
        words += [f"bias:{quote_from_bytes(piece, safe='')}={number}" for piece, number in self.bias.items()]
        return " ".join([*words, ONE_MEMBER] if self.one_member else words)


_DEFAULTS = {key.name: key.default for key in fields(Draw)}
_WAYS = "write it as greedy, one-member, 0.7, temperature:0.7 top_p:0.9 or {temperature: 0.7, top_p: 0.9}"


def _checked_bias(bias: object) -> dict[bytes, float]:
    if not isinstance(bias, Mapping):
        raise SpecError(f"bias is {bias!r}", hint="write it as {PIECE: NUMBER, …}")
    checked: dict[bytes, float] = {}
    for key, number in bias.items():
        if not isinstance(key, (str, bytes)) or not key:
            raise SpecError(f"bias is given for {key!r}", hint="a piece is text or bytes, and not empty")
        piece = key.encode(errors="surrogatepass") if isinstance(key, str) else key
        if piece in checked:
            raise SpecError(f"bias is given twice for {key!r}", hint="as text and as bytes it is one piece: leave one")
        sound = isinstance(number, (int, float)) and not isinstance(number, bool)
        if not sound or not -100 <= number <= 100:
            raise SpecError(
                f"the bias of {key!r} is {number!r}: it must be a number from -100 to 100",
                hint="it is added to the piece's log-mass: -100 as good as bans it, 100 as good as forces it",
            )
        checked[piece] = number
    return checked


def _read_words(text: str) -> dict[str, object]:
    """Read ``"temperature:0.7 bias:%20the=-1 one-member"``; the values are checked by `Draw`."""
    given: dict[str | bytes, object] = {}
    for word in text.split() or [text]:
        key, value = _read_word(word)
        if key in given:
            what = key if isinstance(key, str) else f"the bias of {key!r}"
            raise SpecError(f"draw gives {what} twice: {text!r}", hint="leave one of them out")
        given[key] = value
    if "one_member" in given:
        given.setdefault("temperature", 1)
    fields_given: dict[str, object] = {key: value for key, value in given.items() if isinstance(key, str)}
    return {**fields_given, "bias": {key: value for key, value in given.items() if isinstance(key, bytes)}}


def _read_word(word: str) -> tuple[str | bytes, object]:
    """Return the field and its value; for a bias, the piece and its number."""
    if word == GREEDY:
        return "temperature", 0
    if word == ONE_MEMBER:
        return "one_member", True
    key, _, rest = word.partition(":")
    if key in OPTIONS:
        return key, _number(rest, whole=OPTIONS[key].whole)
    if key == "bias":
        piece, _, number = rest.rpartition("=")
        return unquote_to_bytes(piece), _number(number)
    if isinstance(temperature := _number(word), float):
        return "temperature", temperature
    known = [GREEDY, ONE_MEMBER, *OPTIONS, "bias"]
    raise SpecError(f"unknown {word!r} in draw{nearest(key, known)}; known: {', '.join(known)}", hint=_WAYS)


def _number(text: str, *, whole: bool = False) -> object:
    """Return the number, or the text when it is none."""
    try:
        return int(text) if whole else float(text)
    except ValueError:
        return text
