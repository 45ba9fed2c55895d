"""How an answer is written: what a call's fields change of the ensemble's method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from unisono.config.method import Method
from unisono.config.sampling import Sampling
from unisono.engine.engine import Engine
from unisono.engine.plan import Plan
from unisono.errors import SpecError, shown
from unisono.server.errors import invalid, refusal_of
from unisono.server.fields import contradiction, unsupported
from unisono.server.schemas import GenerationFields
from unisono.vocab.union import ABSENT

SAMPLED = (
    "temperature", "top_p", "top_k", "min_p", "typical_p",
    "repetition_penalty", "presence_penalty", "frequency_penalty", "seed", "truncated_sampling",
)  # fmt: skip
"""The fields that are options of the sampling."""
APART = {"trace", "chunk_seconds", "constraint", "weights"}
"""The keys of the extension that are none of a method."""
RANDOM = -1
"""The seed that, in vLLM and llama.cpp, stands for none."""


def read_method(request: GenerationFields, engine: Engine) -> Method:
    """The ensemble's method, or with what a call replaces of it. Raises a `Refusal`."""
    method, extension = engine.method, request.unisono
    if extension and (keys := extension.model_dump(exclude=APART, exclude_none=True)):
        method = _replaced(lambda given: _checked(engine.method.but(**given), engine), keys, "unisono")
    given = _sampled(request)
    if request.do_sample is False and given.setdefault("temperature", 0) != 0:
        raise contradiction("temperature", request.temperature, "do_sample", False)
    if extension:
        for name in ("sampling", "draw"):
            _check_agreement(request, given, getattr(extension, name), f"unisono.{name}")
    if request.logit_bias:
        given["logit_bias"] = _columns(request.logit_bias, request.model, engine)
    sampling = _replaced(method.sampling.but, given, "") if given else method.sampling
    if request.do_sample and sampling.is_greedy:
        raise unsupported("do_sample", True, "give a temperature above 0")
    if not given:
        return method
    try:
        return replace(method, sampling=sampling)
    except SpecError as error:
        name = "do_sample" if request.do_sample is False and request.temperature is None else "temperature"
        raise refusal_of(error, param=name) from None


def read_weights(request: GenerationFields, method: Method, engine: Engine) -> dict[str, float] | None:
    """The weights that a call gives in place of the file's. Raises a `Refusal`."""
    weights = None if request.unisono is None else request.unisono.weights
    if weights is not None:
        try:
            Plan(method, engine.members, engine.union, weights)
        except SpecError as error:
            raise refusal_of(error, param="unisono.weights") from None
    return weights


def _sampled(request: GenerationFields) -> dict[str, Any]:
    """The options of the sampling that a call gives by name, with what other servers write for off."""
    given = {name: value for name in SAMPLED if (value := getattr(request, name)) is not None}
    if given.get("top_k", 1) < 1:
        given["top_k"] = None
    if "seed" in given:
        given["seed"] = None if request.seed == RANDOM else given["seed"] % 2**64
    return given


def _check_agreement(request: GenerationFields, given: Mapping[str, Any], sampling: Any, its_name: str) -> None:
    """Refuse options that are given by name and, with other values, in a sampling of the extension."""
    if sampling is None:
        return
    try:
        parsed = Sampling.parse(sampling)
    except SpecError as error:
        raise refusal_of(error, param=its_name) from None
    for name, value in given.items():
        its_value = getattr(parsed, name)
        if its_value != value and (name == "temperature" or parsed.changes(name)):
            named = name if getattr(request, name) is not None else "do_sample"  # which stands for a temperature
            raise contradiction(named, getattr(request, named), its_name, sampling)


def check_stop_ids(request: GenerationFields, engine: Engine) -> None:
    """Refuse token ids that would end a text where nothing else does. Raises a `Refusal`."""
    name, ids = "stop_token_ids", request.stop_token_ids
    if not ids:
        return
    if "/" not in request.model:
        words = "members have different ids: use stop, or ask a member alone (ENSEMBLE/MEMBER)"
        raise invalid(name, f"{name} is {shown(ids)}, but {words}")
    member = engine.members[0]
    ends, column_V = member.speller.vocabulary.end_ids, member.map.column_V
    for token in ids:
        if request.ignore_eos and token in ends:
            words = "and ignore_eos is true, so that no text ends there: leave one of them out"
            raise invalid(name, f"{name} holds {token}, which is END, {words}")
        if not 0 <= token < len(column_V):
            raise invalid(name, f"{name} holds {token}: the member's tokens are numbers from 0 to {len(column_V) - 1}")
        if token not in ends and column_V[token] != ABSENT:
            piece = (member.speller.vocabulary.pieces[token] or b"").decode(errors="replace")
            raise invalid(name, f"{name} holds {token}, the text {piece!r}: texts end at strings, so use stop")


def _checked(method: Method, engine: Engine) -> Method:
    method.check({member.name: member.weight for member in engine.members})
    return method


def _replaced(make: Callable[[Mapping[str, Any]], Any], given: Mapping[str, Any], within: str) -> Any:
    try:
        return make(given)
    except SpecError as error:
        for name, value in given.items():
            try:
                make({name: value})
            except SpecError as alone:
                raise refusal_of(alone, param=f"{within}.{name}" if within else name) from None
        raise refusal_of(error, param=within or next(iter(given))) from None


def _columns(bias: Mapping[str, float], model: str, engine: Engine) -> dict[int, float]:
    column_V = engine.members[0].map.column_V if "/" in model else None
    columns: dict[int, float] = {}
    for key, more in bias.items():
        size = engine.union.size if column_V is None else len(column_V)
        if not key.isascii() or not key.isdigit() or len(key) > 9 or int(key) >= size:
            ids = "columns of the union" if column_V is None else "tokens of the member"
            raise invalid("logit_bias", f"logit_bias is given for {shown(key)}: {ids} are numbers from 0 to {size - 1}")
        column = int(key) if column_V is None else int(column_V[int(key)])
        if column == ABSENT:
            raise invalid("logit_bias", f"logit_bias is given for {key}, a token that is never written")
        if columns.setdefault(column, more) != more:
            raise invalid("logit_bias", f"logit_bias is given for {key}, and another id of the same piece has another")
    return columns
