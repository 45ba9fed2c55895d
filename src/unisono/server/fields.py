"""The fields that no record of `schemas` has, but that clients send: each is accepted without effect, or refused.

What cannot change the answer is accepted. What would change it is refused by name, except for the values that ask for
nothing. The records' own fields are honoured. ``unisono serve --strict`` refuses the fields without effect, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unisono.config.sampling import MEMBER, Sampling
from unisono.errors import shown
from unisono.server.errors import Refusal, invalid

EMPTY: tuple[object, ...] = ("", [], {})
"""What asks for nothing in most fields."""
OFF: tuple[object, ...] = (None, False, *EMPTY)
"""What asks for nothing in a list or an object."""
_PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")


@dataclass(frozen=True, slots=True)
class Field:
    """A field that is not honoured, and why."""

    why: str
    neutral: tuple[object, ...] = ()
    """Values, beside null and what is empty, that ask for nothing."""
    matters: bool = True
    """Whether its other values would change the answer."""
    at_most: float | None = None
    """Up to this number it asks for nothing, either."""
    only_with: tuple[str, ...] = ()
    """The fields without which its other values change nothing."""
    of_penalties: bool = False
    """Whether its other values change nothing where no penalty is on, which the method says: see `check_sampling`."""
    of_beams: bool = False
    """The same of a beam search."""
    unmarked: tuple[object, ...] = ()
    """Values that ask for nothing where no member marks reasoning: see `check_reasoning`."""
    empty_asks: bool = False
    """Whether what is empty asks for something, too."""

    def asks(self, value: object) -> bool:
        """Whether a value asks for something."""
        if value is None or any(same(value, each) for each in (*self.neutral, *self.unmarked)):
            return False
        if self.at_most is not None and isinstance(value, int | float) and not isinstance(value, bool):
            return value > self.at_most
        return self.empty_asks or not _is_empty(value)

    @property
    def of_sampling(self) -> bool:
        """Whether the method says whether it matters."""
        return self.of_penalties or self.of_beams

    @property
    def values(self) -> tuple[object, ...]:
        """The values that ask for nothing, as far as they can be listed."""
        known = (None, *self.neutral, *self.unmarked, *(() if self.empty_asks else EMPTY))
        return tuple(each for place, each in enumerate(known) if not any(same(each, other) for other in known[:place]))


def is_off(value: object) -> bool:
    return any(same(value, each) for each in OFF)


def _is_empty(value: object) -> bool:
    """Whether a text, list or object has nothing in it, or nothing but what is off: ``{"web_search": false}``."""
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else None
    if inside is None:
        return same(value, "")
    return all(map(is_off, inside))


STOPS = ("stop", "stop_sequences", "stopping_strings")
NAMES_OF_ONE = (
    ("max_tokens", "max_completion_tokens", "n_predict", "max_new_tokens", "num_predict", "max_output_tokens"),
    ("min_tokens", "min_new_tokens", "min_completion_tokens"),
    ("repetition_penalty", "repeat_penalty", "rep_pen"),
    (
        *("thinking_token_budget", "thinking_budget_tokens", "reasoning_budget_tokens"),
        *("thinking_budget", "reasoning_budget"),
    ),
    STOPS,
    ("typical_p", "typical", "typ_p"),
    ("seed", "random_seed", "sampler_seed"),
    ("truncate_prompt_tokens", "truncate", "prompt_truncate_len"),
    ("ignore_eos", "ban_eos_token"),
    ("include_stop_str_in_output", "no_stop_trim"),
    ("n", "num_return_sequences", "n_cmpl", "best_of"),
)
"""Names of one thing. The records know all of them but ``best_of``: texts are not ranked, so it has to be ``n``."""


def read_fields(body: Mapping[str, Any], table: Mapping[str, Field], *, strict: bool) -> dict[str, Any]:
    """Return a body without the fields that have no effect, such as every null: it stands for leaving a field out.

    Raises a `Refusal` that names one that would have an effect.
    """
    given = {name: value for name, value in body.items() if name not in table and value is not None}
    for name, value in body.items():
        field = table.get(name)
        if field is None or not field.asks(value):
            continue
        alone = field.only_with and all(is_off(body.get(other)) for other in field.only_with)
        if strict or (field.matters and not field.of_sampling and not alone):
            raise unsupported(name, value, field.why)
    is_zero = not strict and "messages" in given and same(given.get("logprobs"), 0)  # of completions it asks for some
    if is_zero or same(given.get("logprobs"), False):
        del given["logprobs"]
    if "logprobs" not in given and same(given.get("top_logprobs"), 0):
        del given["top_logprobs"]
    return given


def by_one_name(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same fields, each thing by one of its names. Raises a `Refusal` where two names have different values."""
    given = dict(given)
    for names in NAMES_OF_ONE:
        first, *others = [name for name in names if given.get(name) is not None] or [""]
        for other in others:
            if not (
                same(given[first], given[other]) or (first in STOPS and _listed(given[first]) == _listed(given[other]))
            ):
                raise contradiction(first, given[first], other, given[other])
        given = {name: value for name, value in given.items() if name == first or name not in names}
    if (best := given.pop("best_of", None)) is not None and not same(best, 1):
        raise unsupported("best_of", best, "texts are not ranked: ask for n texts and choose")
    return given


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


def check_sampling(body: Mapping[str, Any], table: Mapping[str, Field], sampling: Sampling) -> None:
    """Refuse fields that say what penalties count, where one is on, or how a beam searches. Raises a `Refusal`."""
    has_penalty = any(sampling.changes(prefix + name) for prefix in ("", MEMBER) for name in _PENALTIES)
    has_beam = sampling.beam_width > 1
    for name, value in body.items():
        field = table.get(name)
        matters = field is not None and ((field.of_penalties and has_penalty) or (field.of_beams and has_beam))
        if field is not None and matters and field.asks(value):
            raise unsupported(name, value, field.why)


def check_reasoning(body: Mapping[str, Any], table: Mapping[str, Field]) -> None:
    """Refuse what asks for reasoning within an answer's text, of an ensemble that marks it. Raises a `Refusal`."""
    for name, value in body.items():
        field = table.get(name)
        if field is not None and any(same(value, each) for each in field.unmarked):
            raise unsupported(name, value, field.why)


def same(value: object, other: object) -> bool:
    """Whether two values of JSON are the same; true is not 1."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def unsupported(name: str, value: object, why: str) -> Refusal:
    return Refusal(400, f"{name} is {shown(value)}, which is not supported: {why}", param=name, code="unsupported")


def contradiction(name: str, value: object, other: str, its_value: object) -> Refusal:
    """The refusal of two names of one thing with different values."""
    return invalid(name, f"{name} is {shown(value)}, but {other} is {shown(its_value)}: leave one out")
