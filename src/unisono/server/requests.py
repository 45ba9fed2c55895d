"""From the wire to the service: what a request asks for, as prompts, limits and a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from unisono.chat.messages import Prompt
from unisono.config.constraint import JSON_OBJECT, JSON_SCHEMA, Constraint
from unisono.config.method import Method
from unisono.engine.engine import Engine
from unisono.engine.plan import lead_of
from unisono.engine.service import Service
from unisono.errors import SpecError, nearest, shown
from unisono.records import Limits
from unisono.server.errors import Refusal, refusal_of
from unisono.server.limits import ServerLimits
from unisono.server.messages import read_messages
from unisono.server.request_handle import Order
from unisono.server.schemas import ChatRequest, CompletionRequest, GenerationRequest
from unisono.server.tools import Calling, read_calling
from unisono.vocab.union import ABSENT


@dataclass(frozen=True, slots=True)
class Job:
    """What a call asks for."""

    model: str
    orders: tuple[Order, ...]
    """One for each prompt."""
    n: int
    lead: str
    """The member whose count of the prompt is told as ``prompt_tokens``."""
    stream: bool
    include_usage: bool
    likeliest: int | None
    """How many of the likeliest pieces are told of each; ``None`` where no probabilities are told."""
    trace: bool
    echo: bool = False
    calling: Calling | None = None
    """What the answer may call; ``None`` where it calls nothing."""


def read_chat(request: ChatRequest, service: Service, limits: ServerLimits) -> Job:
    """Read a chat. Raises a `Refusal` that names the field."""
    if request.top_logprobs is not None and not request.logprobs:
        raise _invalid("top_logprobs", "top_logprobs is given, but logprobs is not true")
    likeliest = (request.top_logprobs or 0) if request.logprobs else None
    both = (request.max_tokens, request.max_completion_tokens)
    if None not in both and both[0] != both[1]:
        raise _invalid("max_tokens", f"max_tokens is {both[0]}, but max_completion_tokens is {both[1]}: leave one out")
    constraint = read_format(request.response_format)
    prompt = _conversation(request)
    most = request.max_completion_tokens or request.max_tokens
    name = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    job = _job(request, [prompt], _limits(request, name, most, limits), likeliest, service, limits)
    calling = read_calling(
        request.tools, request.tool_choice, request.parallel_tool_calls, service.engines[job.model], job.lead
    )
    return _bound(job, constraint, calling)


def _conversation(request: ChatRequest) -> Prompt:
    try:
        return Prompt(messages=read_messages(request.messages))
    except SpecError as error:
        raise refusal_of(error, param="messages") from None


def _bound(job: Job, constraint: Constraint | None, calling: Calling | None) -> Job:
    """Bind the answer to a chat to what its format or its tools ask for; one thing alone can be asked for."""
    [order] = job.orders
    if calling is not None and constraint is not None:
        raise _invalid("response_format", "response_format is given, and tools: an answer is one or the other")
    name, bound = "response_format", constraint
    if calling is not None:
        order = replace(order, prompt=replace(order.prompt, tools=calling.tools))
        name, bound = "tools", calling.constraint
    if bound is not None:
        if order.constraint is not None:
            raise _invalid(name, f"{name} and unisono.constraint are given: leave one out")
        order = replace(order, constraint=bound, constrained_by=name)
    return replace(job, orders=(order,), calling=calling)


def read_format(given: Any) -> Constraint | None:
    """What a ``response_format`` binds an answer to. Raises a `Refusal` that names the field."""
    if given is None or given["type"] == "text":
        return None
    if given["type"] == JSON_OBJECT:
        return Constraint(JSON_OBJECT)
    wanted = given["json_schema"]
    if wanted.get("description") is not None:
        name = "response_format.json_schema.description"
        words = f"{name} is given, and no member is shown it: write it into a message"
        raise Refusal(400, words, param=name, code="unsupported")
    if (schema := wanted.get("schema")) is None:
        return Constraint(JSON_OBJECT)
    return _parsed({JSON_SCHEMA: schema}, "response_format")


def _parsed(constraint: object, name: str) -> Constraint | None:
    try:
        return Constraint.parse(constraint)
    except SpecError as error:
        raise refusal_of(error, param=name) from None


def read_completion(request: CompletionRequest, service: Service, limits: ServerLimits) -> Job:
    """Read a completion. Raises a `Refusal` that names the field."""
    texts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
    if request.echo and request.logprobs is not None:
        raise _invalid("echo", "echo does not go with logprobs: the prompt is not scored")
    prompts = [Prompt(text=text) for text in texts]
    written = _limits(request, "max_tokens", request.max_tokens, limits)
    return replace(_job(request, prompts, written, request.logprobs, service, limits), echo=bool(request.echo))


def engine_of(service: Service, model: str) -> Engine:
    """The engine of a model. Raises a `Refusal` that suggests the nearest name."""
    if model not in service.engines:
        words = f"there is no model {shown(model)}{nearest(model, service.models)}; known: {', '.join(service.models)}"
        raise Refusal(404, words, param="model", code="model_not_found")
    return service.engines[model]


def is_alone(model: str) -> bool:
    """Whether a model is one member of an ensemble by itself."""
    return "/" in model


def _job(
    request: GenerationRequest,
    prompts: list[Prompt],
    written: Limits,
    likeliest: int | None,
    service: Service,
    limits: ServerLimits,
) -> Job:
    engine = engine_of(service, request.model)
    n, trace = request.n or 1, bool(request.unisono and request.unisono.trace)
    if n * len(prompts) > limits.n:
        what = f"n is {n}" if len(prompts) == 1 else f"n is {n} for each of {len(prompts)} prompts"
        raise _invalid("n", f"{what}, and this server writes {limits.n} texts at most for a request")
    if request.stream_options is not None and not request.stream:
        raise _invalid("stream_options", "stream_options is given, but stream is not true")
    options = request.stream_options
    if options is not None and options.include_obfuscation:
        name = "stream_options.include_obfuscation"
        raise Refusal(400, f"{name} is true, which is not supported: nothing is padded", param=name, code="unsupported")
    method = _method(request, engine)
    constraint = _parsed(request.unisono and request.unisono.constraint, "unisono.constraint")
    kept = 0 if likeliest is None else max(1, likeliest)  # of no piece, no step would be kept
    return Job(
        request.model,
        tuple(Order(request.model, prompt, written, method, n, trace, kept, constraint) for prompt in prompts),
        n,
        lead_of(method, engine.members).name,
        bool(request.stream),
        bool(options and options.include_usage),
        likeliest,
        trace,
    )


def _limits(request: GenerationRequest, name: str, most: int | None, limits: ServerLimits) -> Limits:
    if most is not None and most > limits.output:
        raise _invalid(name, f"{name} is {most}, and this server writes {limits.output} at most")
    stop = () if request.stop is None else request.stop
    try:
        return Limits(most or limits.output, stop)
    except SpecError as error:
        raise refusal_of(error, param="stop") from None


def _method(request: GenerationRequest, engine: Engine) -> Method:
    """The method of the file, with the keys of the extension, and then OpenAI's fields, in place of its own."""
    method = engine.method
    keys = (
        {}
        if request.unisono is None
        else request.unisono.model_dump(exclude={"trace", "constraint"}, exclude_none=True)
    )
    if keys:
        method = _replaced(lambda given: _checked(engine.method.but(**given), engine), keys, "unisono")
    names = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed")
    given = {name: value for name in names if (value := getattr(request, name)) is not None}
    if "seed" in given:
        given["seed"] %= 2**64
    if request.logit_bias:
        given["logit_bias"] = _columns(request.logit_bias, request.model, engine)
    sampling = _replaced(method.sampling.but, given, "") if given else method.sampling
    try:
        return replace(method, sampling=sampling)
    except SpecError as error:
        raise refusal_of(error, param="temperature") from None


def _checked(method: Method, engine: Engine) -> Method:
    """A method that fits the members."""
    method.check({member.name: member.weight for member in engine.members})
    return method


def _replaced(make: Callable[[Mapping[str, Any]], Any], given: Mapping[str, Any], within: str) -> Any:
    """Make something of what is given; a refusal names the first key that is wrong by itself."""
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
    """The columns that a bias is for: those it names, or, for a member alone, those of the tokens that it names."""
    column_V = engine.members[0].map.column_V if is_alone(model) else None
    columns: dict[int, float] = {}
    for key, more in bias.items():
        size = engine.union.size if column_V is None else len(column_V)
        if not key.isascii() or not key.isdigit() or len(key) > 9 or int(key) >= size:
            ids = "columns of the union" if column_V is None else "tokens of the member"
            raise _invalid(
                "logit_bias", f"logit_bias is given for {shown(key)}: {ids} are numbers from 0 to {size - 1}"
            )
        column = int(key) if column_V is None else int(column_V[int(key)])
        if column == ABSENT:
            raise _invalid("logit_bias", f"logit_bias is given for {key}, a token that is never written")
        if columns.setdefault(column, more) != more:
            raise _invalid("logit_bias", f"logit_bias is given for {key}, and another id of the same piece has another")
    return columns


def _invalid(name: str, words: str) -> Refusal:
    return Refusal(400, words, param=name, code="invalid_value")
