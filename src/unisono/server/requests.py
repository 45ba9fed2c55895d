"""Turn the fields of a call into generation requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from unisono.chat.messages import Prompt
from unisono.config.constraint import JSON_OBJECT, JSON_SCHEMA, Constraint
from unisono.config.method import Method
from unisono.engine.engine import Engine
from unisono.engine.plan import lead_of
from unisono.engine.request import GenerationRequest
from unisono.engine.service import Service
from unisono.errors import SpecError, nearest, shown
from unisono.records import Limits, is_unicode
from unisono.server.body import read_messages, unsupported
from unisono.server.errors import Refusal, refusal_of
from unisono.server.limits import ServerLimits
from unisono.server.schemas import ChatRequest, CompletionRequest, GenerationFields, Piece, PieceList
from unisono.server.tools import Calling, read_calling
from unisono.vocab.union import ABSENT


@dataclass(frozen=True, slots=True)
class ApiCall:
    """What a call asks for: a request per prompt, and the form of the answer."""

    requests: tuple[GenerationRequest, ...]
    lead: str
    """The member whose count of the prompt is ``prompt_tokens``."""
    stream: bool
    include_usage: bool
    logprobs: int | None
    """How many of the most likely pieces to list for each; ``None`` for no log-probabilities."""
    echo: bool = False
    calling: Calling | None = None
    """The tools that the answer may call; ``None`` if there are none."""
    constraint_field: str = "unisono.constraint"
    """The field that the constraint comes from."""
    sampling_field: str = "unisono.sampling"
    """The field that says how pieces are chosen, by its old name where that is used."""


def read_chat(request: ChatRequest, service: Service, limits: ServerLimits) -> ApiCall:
    """Read a chat. Raises a `Refusal` that names the wrong field."""
    if request.top_logprobs is not None and not request.logprobs:
        raise _invalid("top_logprobs", "top_logprobs is given, but logprobs is not true")
    likeliest = (request.top_logprobs or 0) if request.logprobs else None
    both = (request.max_tokens, request.max_completion_tokens)
    if None not in both and both[0] != both[1]:
        raise _invalid("max_tokens", f"max_tokens is {both[0]}, but max_completion_tokens is {both[1]}: leave one out")
    constraint = read_format(request.response_format)
    try:
        prompt = Prompt(messages=read_messages(request.messages))
    except SpecError as error:
        raise refusal_of(error, param="messages") from None
    most = request.max_completion_tokens or request.max_tokens
    name = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    call = _call(request, [prompt], name, most, likeliest, service, limits)
    calling = read_calling(
        request.tools, request.tool_choice, request.parallel_tool_calls, service.engines[request.model], call.lead
    )
    return _constrained(call, constraint, calling)


def _constrained(call: ApiCall, constraint: Constraint | None, calling: Calling | None) -> ApiCall:
    if calling is None and constraint is None:
        return call
    if calling is not None and constraint is not None:
        raise _invalid("response_format", "response_format is given, and tools: an answer is one or the other")
    [request] = call.requests
    name, wanted = "response_format", constraint
    if calling is not None:
        request = replace(request, prompt=replace(request.prompt, tools=calling.tools))
        name, wanted = "tools", calling.constraint
    if wanted is not None:
        if request.constraint is not None:
            raise _invalid(name, f"{name} and unisono.constraint are given: leave one out")
        request = replace(request, constraint=wanted)
    else:
        name = call.constraint_field
    return replace(call, requests=(request,), calling=calling, constraint_field=name)


def read_format(given: Any) -> Constraint | None:
    """The constraint of a ``response_format``. Raises a `Refusal` that names the wrong field."""
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


def read_completion(request: CompletionRequest, service: Service, limits: ServerLimits) -> ApiCall:
    """Read a completion. Raises a `Refusal` that names the wrong field."""
    texts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
    if request.echo and request.logprobs is not None:
        raise _invalid("echo", "echo does not go with logprobs: the prompt is not scored")
    prompts = [Prompt(text=text) for text in texts]
    call = _call(request, prompts, "max_tokens", request.max_tokens, request.logprobs, service, limits)
    return replace(call, echo=True) if request.echo else call


def engine_of(service: Service, model: str) -> Engine:
    """The engine of a model. Raises a `Refusal` that suggests the nearest name."""
    if model not in service.engines:
        words = f"there is no model {shown(model)}{nearest(model, service.models)}; known: {', '.join(service.models)}"
        raise Refusal(404, words, param="model", code="model_not_found")
    return service.engines[model]


def _call(
    request: GenerationFields,
    prompts: list[Prompt],
    most_name: str,
    most: int | None,
    logprobs: int | None,
    service: Service,
    limits: ServerLimits,
) -> ApiCall:
    if most is not None and most > limits.output:
        raise _invalid(most_name, f"{most_name} is {most}, and this server writes {limits.output} at most")
    try:
        written = Limits(most or limits.output, request.stop or ())
    except SpecError as error:
        raise refusal_of(error, param="stop") from None
    engine = engine_of(service, request.model)
    extension, options = request.unisono, request.stream_options
    n, trace = request.n or 1, bool(extension and extension.trace)
    if n * len(prompts) > limits.n:
        what = f"n is {n}" if len(prompts) == 1 else f"n is {n} for each of {len(prompts)} prompts"
        raise _invalid("n", f"{what}, and this server writes {limits.n} texts at most for a request")
    if options is not None and not request.stream:
        raise _invalid("stream_options", "stream_options is given, but stream is not true")
    if options is not None and options.include_obfuscation:
        raise unsupported("stream_options.include_obfuscation", True, "chunks are not padded")
    method = _method(request, engine)
    constraint = None
    if extension is not None and extension.constraint is not None:
        constraint = _parsed(extension.constraint, "unisono.constraint")
    kept = 0 if logprobs is None else max(1, logprobs)  # with 0, no step would be kept
    return ApiCall(
        tuple(
            GenerationRequest("", prompt, written, trace, method, constraint, n, kept, request.model)
            for prompt in prompts
        ),
        (engine.plan.lead if method is engine.method else lead_of(method, engine.members)).name,
        bool(request.stream),
        bool(options and options.include_usage),
        logprobs,
        sampling_field="unisono.sampling" if extension is None or extension.draw is None else "unisono.draw",
    )


def _method(request: GenerationFields, engine: Engine) -> Method:
    method = engine.method
    extension = request.unisono
    if extension and (keys := extension.model_dump(exclude={"trace", "constraint"}, exclude_none=True)):
        method = _replaced(lambda given: _checked(engine.method.but(**given), engine), keys, "unisono")
    names = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed")
    given = {name: value for name in names if (value := getattr(request, name)) is not None}
    if "seed" in given:
        given["seed"] %= 2**64
    if request.logit_bias:
        given["logit_bias"] = _columns(request.logit_bias, request.model, engine)
    if not given:
        return method
    sampling = _replaced(method.sampling.but, given, "")
    try:
        return replace(method, sampling=sampling)
    except SpecError as error:
        raise refusal_of(error, param="temperature") from None


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


def pieces_of(text: str, model: str, engine: Engine) -> PieceList:
    """Tokenise a text as the lead does. Ids are columns of the union, or, for a member alone, its own.

    Raises a `Refusal` where a member cannot spell the text.
    """
    if not is_unicode(text):
        raise Refusal(400, "the text has a lone surrogate", param="text", code="invalid_value")
    lead = lead_of(engine.method, engine.members)
    vocabulary = lead.speller.vocabulary
    ids = lead.speller.own_encoding(text.encode()) or lead.speller.longest_match(text.encode()) or ()
    column_V = lead.map.column_V
    if (text and not ids) or any(column_V[token] == ABSENT for token in ids):
        raise Refusal(400, "the text has bytes that a member cannot write", param="text", code="invalid_value")
    alone = "/" in model  # one member by itself
    pieces = [(token if alone else int(column_V[token]), vocabulary.pieces[token] or b"") for token in ids]
    found = [Piece(id=key, text=piece.decode(errors="replace"), bytes=list(piece)) for key, piece in pieces]
    end = sorted(vocabulary.end_ids) if alone else [engine.union.end]
    return PieceList(model=model, data=found, end=end)
