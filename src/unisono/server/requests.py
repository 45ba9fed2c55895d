"""Turn the fields of a call into generation requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from unisono.chat.messages import Prompt
from unisono.chat.template_variables import SWITCHES, TEMPLATE_VARIABLES
from unisono.chat.thinking import EFFORT, THINKING
from unisono.config.constraint import Constraint
from unisono.engine.beginning import Beginning
from unisono.engine.engine import Engine
from unisono.engine.plan import lead_of
from unisono.engine.request import GenerationRequest
from unisono.engine.service import Service
from unisono.errors import SpecError, nearest, shown
from unisono.records import Limits
from unisono.server.api_call import ApiCall
from unisono.server.call_reader import Calling
from unisono.server.completion_prompts import check_scored, echo_of, prompts_of, scoring
from unisono.server.constraint import read_constraint, read_format
from unisono.server.continued import ANSWER, CONTINUE, as_continued
from unisono.server.errors import Refusal, invalid, refusal_of
from unisono.server.field_tables import OF_CHATS
from unisono.server.fields import Field, contradiction, unsupported
from unisono.server.limits import CHARACTERS, ServerLimits
from unisono.server.messages import read_messages
from unisono.server.method import check_stop_ids, read_method, read_weights
from unisono.server.prompt_cut import read_cuts
from unisono.server.prompt_logprobs import PromptLogprobs
from unisono.server.reasoning import effort_of, reasoned_as, shows_reasoning, tells_templates
from unisono.server.schemas import ChatRequest, CompletionRequest, GenerationFields
from unisono.server.tools import check_begun, read_calling, read_silence

PREFILL = "prefill"
ARGUMENTS = ("chat_template", "documents")
"""What other servers also read in ``chat_template_kwargs``, for it says how their templates are used."""


def read_chat(
    request: ChatRequest, service: Service, limits: ServerLimits, names: Sequence[str] | None = None
) -> ApiCall:
    """Read a chat. Raises a `Refusal` that names the wrong field; for ``names`` see `read_messages`."""
    likeliest = _likeliest(request)
    constraint = read_format(request.response_format, strict=limits.strict)
    call = _call(request, [_prompt(request, names, strict=limits.strict)], likeliest, service, limits)
    engine = service.engines[request.model]
    calling = read_calling(request, engine, call.lead, constraint, strict=limits.strict)
    check_begun(call.first.begin, calling)
    if constraint is None and call.first.constraint is None:
        constraint = read_silence(request, engine, call.lead)
    return _constrained(call, constraint, calling)


def _likeliest(request: ChatRequest) -> int | None:
    """How many of the most likely pieces a chat lists; ``None`` for no log-probabilities. Raises a `Refusal`."""
    if request.top_logprobs is not None and not request.logprobs and not request.n_probs:
        raise invalid("top_logprobs", "top_logprobs is given, but logprobs is not true")
    if request.n_probs:
        for name, its in (("logprobs", request.logprobs), ("top_logprobs", request.top_logprobs)):
            if its is not None and its != (name == "logprobs" or request.n_probs):
                raise contradiction(name, its, "n_probs", request.n_probs)
        return request.n_probs
    return (request.top_logprobs or 0) if request.logprobs else None


def _prompt(request: ChatRequest, names: Sequence[str] | None, *, strict: bool) -> Prompt:
    prompt = Prompt(messages=read_messages(request.messages, strict=strict, names=names), open_calls=not strict)
    prompt = as_continued(prompt, request)
    try:
        return replace(prompt, template_kwargs=_variables(request))
    except SpecError as error:
        raise refusal_of(error, param="chat_template_kwargs") from None


def _variables(request: ChatRequest) -> dict[str, Any] | None:
    """What the members' templates are given beside messages and tools."""
    given = dict(request.chat_template_kwargs or {})
    for name in (CONTINUE, ANSWER):  # see `as_continued`
        given.pop(name, None)
    for name in [name for name in given if name in (*TEMPLATE_VARIABLES, *ARGUMENTS)]:
        field = OF_CHATS.get(name, Field("", empty_asks=True))
        if not field.asks(given[name]):
            del given[name]
        elif name in ARGUMENTS:
            raise unsupported(f"chat_template_kwargs.{name}", given[name], field.why)
    effort = effort_of(request)
    for name, value in ((EFFORT, effort), (THINKING, request.enable_thinking)):
        if value is not None and given.setdefault(name, value) != value:
            raise contradiction(name, value, f"chat_template_kwargs.{name}", given[name])
    if (wish := tells_templates(request)) is not None:  # as in vLLM: some read an effort, some whether to think
        for name in SWITCHES:
            given.setdefault(name, not wish.wanted.off)
    return given or None


def _constrained(call: ApiCall, constraint: Constraint | None, calling: Calling | None) -> ApiCall:
    if calling is None and constraint is None:
        return call
    [request] = call.requests
    name, wanted = "response_format", constraint
    if calling is not None:
        request = replace(request, prompt=replace(request.prompt, tools=calling.tools))
        name, wanted = calling.constraint_field, calling.constraint
    if wanted is not None:
        if request.constraint not in (None, constraint, wanted):
            raise invalid(name, f"{name} and {call.constraint_field} are given: leave one out")
        request = replace(request, constraint=wanted)
    else:
        name = call.constraint_field
    return replace(call, requests=(request,), calling=calling, constraint_field=name)


def read_completion(request: CompletionRequest, service: Service, limits: ServerLimits) -> ApiCall:
    """Read a completion. Raises a `Refusal` that names the wrong field."""
    engine = engine_of(service, request.model)
    prompts = prompts_of(request, engine)
    listed, least = request.prompt_logprobs, 0 if request.echo or request.prompt_logprobs is not None else 1
    if request.n_probs and request.logprobs not in (None, request.n_probs):
        raise contradiction("logprobs", request.logprobs, "n_probs", request.n_probs)
    logprobs = request.n_probs or request.logprobs
    call = _formed(_call(request, prompts, logprobs, service, limits, least), request, strict=limits.strict)
    if call.first.begin is not None and least == 0:
        other = "echo" if request.echo else "prompt_logprobs"
        raise invalid(PREFILL, f"{PREFILL} and {other} are given: write what the text begins with into the prompt")
    if request.echo:
        call = replace(call, echo=tuple(echo_of(prompt, engine) for prompt in prompts))
    writes = _most(request, limits, least)[0] > 0
    if writes and listed is None and (not request.echo or logprobs is None):
        return call
    check_scored(request, call.first.n, writes=writes)
    wanted = [each for each in (logprobs, listed) if each is not None]
    count = max(1, *wanted) if wanted else 0  # with 0, no step is kept
    return replace(
        call,
        requests=call.requests if writes else (),
        scored=tuple(scoring(each, count) for each in call.requests),
        prompt_logprobs=None if listed is None else PromptLogprobs(listed, request.model, engine),
    )


def _formed(call: ApiCall, request: CompletionRequest, *, strict: bool) -> ApiCall:
    """A call whose texts have the form that the request asks for."""
    wanted, name = read_format(request.response_format, strict=strict), "response_format"
    if wanted is None:
        return call
    if call.first.constraint not in (None, wanted):
        raise invalid(name, f"{name} and {call.constraint_field} are given: leave one out")
    bound = tuple(replace(each, constraint=wanted) for each in call.requests)
    return replace(call, requests=bound, constraint_field=name)


def engine_of(service: Service, model: str) -> Engine:
    """The engine of a model. Raises a `Refusal` that suggests the nearest name."""
    if model not in service.engines:
        words = f"there is no model {shown(model)}{nearest(model, service.models)}; known: {', '.join(service.models)}"
        raise Refusal(404, words, param="model", code="model_not_found")
    return service.engines[model]


def _call(
    request: GenerationFields,
    prompts: list[Prompt],
    logprobs: int | None,
    service: Service,
    limits: ServerLimits,
    least: int = 1,
) -> ApiCall:
    most, clamped = _most(request, limits, least)
    try:
        least_of_all, keeps = _least(request, max(1, most)), request.include_stop_str_in_output is True
        written = Limits(max(1, most), _stops(request.stop, limits), least_of_all, keeps)
    except SpecError as error:
        raise refusal_of(error, param="stop") from None
    engine = engine_of(service, request.model)
    extension, options = request.unisono, request.stream_options
    n, trace = request.n or 1, bool(extension and extension.trace)
    if n * len(prompts) > limits.n:
        what = f"n is {n}" if len(prompts) == 1 else f"n is {n} for each of {len(prompts)} prompts"
        raise invalid("n", f"{what}, and this server writes {limits.n} texts at most for a request")
    if limits.strict and options is not None and not request.stream:
        raise invalid("stream_options", "stream_options is given, but stream is not true")
    if limits.strict and options is not None and options.include_obfuscation:
        raise unsupported("stream_options.include_obfuscation", True, "chunks are not padded")
    check_stop_ids(request, engine)
    method = reasoned_as(read_method(request, engine), request)
    weights = read_weights(request, method, engine)
    constraint, constraint_field = read_constraint(request, strict=limits.strict)
    begin = _beginning(request, limits)
    kept = 0 if logprobs is None else max(1, logprobs)  # with 0, no step would be kept
    return ApiCall(
        tuple(
            GenerationRequest(
                "", prompt, written, trace, method, constraint, n, kept, request.model, begin=begin, weights=weights
            )
            for prompt in prompts
        ),
        (engine.plan.lead if method is engine.method else lead_of(method, engine.members)).name,
        bool(request.stream),
        bool(request.stream and options and options.include_usage),
        logprobs,
        counts_on=bool(options and options.continuous_usage_stats),
        chunk_seconds=(extension and extension.chunk_seconds) or 0.0,
        sampling_field="unisono.sampling" if extension is None or extension.draw is None else "unisono.draw",
        constraint_field=constraint_field,
        clamped=clamped,
        cuts=read_cuts(request),
        shows_reasoning=shows_reasoning(request),
    )


def _beginning(request: GenerationFields, limits: ServerLimits) -> Beginning | None:
    try:
        begin = Beginning.parse(request.prefill, PREFILL)
    except SpecError as error:
        raise refusal_of(error, param=PREFILL) from None
    if begin is not None and begin.length > CHARACTERS * limits.prompt:
        raise limits.too_long(PREFILL, begin.length)
    return begin


def _most(request: GenerationFields, limits: ServerLimits, least: int) -> tuple[int, str | None]:
    """How many pieces to write at most, and what has been clamped, as the answer's header says it."""
    name, given = "max_tokens", request.max_tokens
    if request.max_completion_tokens is not None:
        name, given = "max_completion_tokens", request.max_completion_tokens
    if given is None:
        return limits.output, None
    if -1 < given < least or (limits.strict and given < least):
        raise invalid(name, f"{name} is {given}: give 1 or more, or leave it out")
    if least <= given <= limits.output:
        return given, None
    if limits.strict:
        raise invalid(name, f"{name} is {given}, and this server writes {limits.output} at most")
    return limits.output, f"{name}={limits.output}"


def _least(request: GenerationFields, most: int) -> int:
    least = request.min_tokens or 0
    if least > most:
        raise invalid("min_tokens", f"min_tokens is {least}, but {most} pieces are written at most")
    return most if request.ignore_eos else least


def _stops(stop: str | list[str] | None, limits: ServerLimits) -> list[str]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if limits.strict and "" in stops:
        raise invalid("stop", "stop is '': it must not be empty")
    return [text for text in stops if text]
