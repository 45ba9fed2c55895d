"""One member as an ensemble file describes it, and whose weights it runs on."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from unisono.backends.registry import backend_entry
from unisono.config.ray import RaySpec
from unisono.errors import SpecError, nearest, shown
from unisono.vocab.marks import GivenMark

OF_THE_WEIGHTS = ("backend", "dtype", "device", "context", "threads", "options", "ray")
"""Keys that a member which takes another's weights cannot have."""
ENDPOINT, RAY = "endpoint", "ray"
OF_PATHS = ("model", "tokenizer", "adapter")
"""Keys of a member that may be relative paths, from the ensemble file's folder."""
PLAIN = "plain"
"""The name of the template by which base models read conversations as questions and answers."""
OF_ENDPOINTS = ("url", "api_key_env", "served_model", "tokenizer", "top", "timeout", "retries", "wait")
"""Keys of a member that lives behind an endpoint."""
OF_ACTORS = ("top", "timeout", "retries")
"""Those of them that one in a Ray actor has, too."""


class MarkReading(BaseModel):
    """A mark for which a member has no token."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    reads: Annotated[str, Field(min_length=1)]
    """Text that the member reads in its place."""


class MemberSpec(BaseModel):
    """One member, as an ensemble file describes it.

    It needs a ``name``, and ``model``, ``url`` or ``share_weights_with``.

    Raises:
        SpecError: a key is unknown, a value is wrong, or keys contradict each other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
    model: Annotated[str, Field(min_length=1)] | None = None
    """A hub id, a folder, a GGUF file, or ``demo:NAME``."""
    share_weights_with: Annotated[str, Field(min_length=1)] | None = None
    """The member whose model this member uses too: the weights are loaded once."""
    adapter: Annotated[str, Field(min_length=1)] | None = None
    """A LoRA adapter that is added to the model's weights for this member alone: a folder of PEFT's, or a GGUF file."""
    backend: str | None = None
    """``llamacpp``, ``transformers``, ``vllm`` or ``endpoint``; by default the first installed one that reads the
    model."""
    url: str | None = None
    """The address of the engine or worker that has the model, ``http://HOST:PORT``."""
    api_key_env: str | None = None
    """The environment variable that contains the engine's key."""
    served_model: Annotated[str, Field(min_length=1)] | None = None
    """The model's name in the engine, if it serves several."""
    tokenizer: Annotated[str, Field(min_length=1)] | None = None
    """The source of its tokenizer: a hub id, a folder, a GGUF file, or ``demo:NAME``."""
    top: Annotated[int, Field(gt=0)] | None = None
    """How many of the most likely ids to request at each step."""
    timeout: Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)] | None = None
    """Seconds that a step waits for the member, retries included."""
    retries: Annotated[int, Field(ge=0, le=100)] | None = None
    """How often a request is sent again after a lost connection, or if the engine is busy."""
    wait: Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)] | None = None
    """Seconds that a start waits for an engine that does not answer."""
    weight: Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)] = 1.0
    """Share of the vote, relative to the others'; 0 leaves the member out. Only the rules ``logits`` and
    ``contrastive`` accept a negative weight."""
    temperature: Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)] = 1.0
    """Divides the member's logits before it votes: above 1 it counts as less sure, below 1 as surer."""
    calibrate: dict[Annotated[str, Field(min_length=1)], Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=dict
    )
    """How likely the member finds some one-piece answers when the question says nothing. At the first piece of a text,
    their probabilities are divided by these numbers (contextual calibration, arXiv 2102.09690)."""
    dtype: str | None = None
    """Number format of the weights (transformers, vllm): ``float32``, ``bfloat16``, ``float16`` or ``auto``."""
    device: str | None = None
    """``cpu``, ``cuda``, ``cuda:1``, ``mps`` …"""
    context: Annotated[int, Field(gt=0)] | None = None
    """The most tokens of one text."""
    threads: Annotated[int, Field(gt=0, le=1024)] | None = None
    """Processor threads."""
    chat_template: str | None = None
    """A Jinja template that replaces the model's own, or a template's name, such as ``plain``."""
    system: Annotated[str, Field(min_length=1)] | None = None
    """This member's own system message, before that of the request."""
    prefix: Annotated[str, Field(min_length=1)] | None = None
    """Text that this member reads before the first user message, or before a raw prompt."""
    marks: dict[GivenMark, Annotated[str, Field(min_length=1)] | MarkReading] = Field(default_factory=dict)
    """How the member writes marks, if its template does not show it: tokens as text, or ``{reads: …}``."""
    ray: RaySpec | None = None
    """Puts the member into a Ray actor, with these resources."""
    on_failure: Literal["error", "degrade"] = "error"
    """What happens to texts while a member that lives elsewhere does not answer: they fail, or continue without it."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the backend."""

    @field_validator("backend")
    @classmethod
    def _backend_exists(cls, name: str | None) -> str | None:
        if name is not None:
            backend_entry(name)
        return name

    @field_validator("url")
    @classmethod
    def _url_is_an_address(cls, url: str | None) -> str | None:
        return url if url is None else _address(url)

    @field_validator("api_key_env")
    @classmethod
    def _key_is_in_the_environment(cls, variable: str | None) -> str | None:
        if variable is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", variable):
            raise SpecError(  # it may be the key itself, which no message shows
                "api_key_env is not the name of an environment variable",
                hint="put the key into the environment and name the variable here, for instance MEMBER_KEY",
            )
        return variable

    @property
    def is_elsewhere(self) -> bool:
        """Whether the member lives behind an endpoint, or in a Ray actor."""
        return self.url is not None or self.ray is not None

    @property
    def home(self) -> str | None:
        """The model or the address; ``None`` if the member uses another one's weights."""
        return self.url if self.model is None else self.model

    @property
    def owner(self) -> str:
        """The member whose weights it uses: itself, or the one in ``share_weights_with``."""
        return self.share_weights_with or self.name

    @field_validator("calibrate")
    @classmethod
    def _calibration_is_of_several(cls, given: dict[str, float]) -> dict[str, float]:
        if len(given) == 1:
            raise SpecError(
                f"calibrate has one answer, {shown(next(iter(given)))}",
                hint='give all that are chosen among, such as {" A": 0.6, " B": 0.4}',
            )
        return given

    @model_validator(mode="after")
    def _has_one_model(self) -> MemberSpec:
        _check_ray(self)
        _check_endpoint(self)
        if self.home is None and self.share_weights_with is None:
            raise Misplaced(
                "lacks the key 'model'",
                hint="give it one, or share_weights_with with the name of a member that has a model",
            )
        if self.adapter is not None and self.is_elsewhere:
            raise Misplaced(
                f"is {shown(self.adapter)}, but the weights of this member are elsewhere",
                "adapter",
                hint="let the engine there apply it, and name what it serves in served_model; or load the model here",
            )
        if self.share_weights_with is None:
            return self
        if self.home is not None:
            raise Misplaced(
                f"is {shown(self.share_weights_with)}, but this member has a model of its own",
                "share_weights_with",
                hint="keep one of the two",
            )
        for key in (*OF_THE_WEIGHTS, *OF_ENDPOINTS):
            if getattr(self, key) not in (None, {}):
                raise Misplaced(
                    f"is {shown(getattr(self, key))}, which is for the weights to say, and those are of "
                    f"{shown(self.share_weights_with)}",
                    key,
                    hint=f"give it to {shown(self.share_weights_with)}, or this member a model of its own",
                )
        return self


def _check_ray(member: MemberSpec) -> None:
    if member.backend == RAY:
        raise Misplaced(
            f"is {RAY!r}, which is where a member lives",
            "backend",
            hint="write ray: {num_gpus: 1}, or ray: {}, and as backend the one that runs in the actor",
        )
    if member.ray is not None and member.url is not None:
        raise Misplaced(
            f"is {shown(member.url)}, but this member lives in a Ray actor",
            "url",
            hint="keep one of the two; an actor has a model",
        )


def _check_endpoint(member: MemberSpec) -> None:
    """Refuse keys of endpoints where there is none, and an endpoint beside a model."""
    if member.url is None:
        if member.backend == ENDPOINT:
            raise Misplaced(
                "lacks the key 'url'",
                hint="give it the address of the engine or worker that has the model, http://HOST:PORT",
            )
        foreign = [key for key in OF_ENDPOINTS if member.ray is None or key not in OF_ACTORS]
        given = next((key for key in foreign if getattr(member, key) is not None), None)
        if given is not None and member.share_weights_with is None:
            raise Misplaced(
                f"is {shown(getattr(member, given))}, which is for a member behind an endpoint",
                given,
                hint="give the member a url, or leave this out",
            )
    elif member.backend not in (None, ENDPOINT):
        raise Misplaced(
            f"is {shown(member.backend)}, but this member has a url: the engine there runs it",
            "backend",
            hint=f"leave it out, or write backend: {ENDPOINT}",
        )
    elif member.model is not None:
        raise Misplaced(
            f"is {shown(member.model)}, but this member has a url: the model is the one that is served there",
            "model",
            hint="leave it out; the key tokenizer names what the engine there reads text by",
        )


def _address(url: str) -> str:
    """An address without a slash, or OpenAI's ``/v1`` and what stands there, at its end."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or not url.isascii() or not url.isprintable() or " " in url:
        raise SpecError(f"url is {shown(url)}, which is not an address", hint="write http://HOST:PORT or https://HOST")
    if "@" in parts.netloc:  # a message that shows it would show the password
        raise SpecError(
            "url holds a user or a password", hint="put the key into the environment, and its name into api_key_env"
        )
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise SpecError(f"url is {shown(url)}, with a query or fragment", hint="write http://HOST:PORT alone")
    return urlunsplit(parts._replace(path=_PATH_OF_OPENAI.sub("", parts.path).rstrip("/")))


_PATH_OF_OPENAI = re.compile(r"(?<!/)/*(/v1/*(/(chat/+)?completions/*|/models/*)?)?\Z")


def check_owner(index: int, member: MemberSpec, members: Sequence[MemberSpec]) -> None:
    """Refuse ``share_weights_with`` that names nobody, the member itself, or one that shares a third's weights."""
    name, where = str(member.share_weights_with), ("members", index, "share_weights_with")
    able = [other.name for other in members if other.home is not None]
    hint = f"members with a model: {', '.join(able)}" if able else "give one of the members a model"
    owner = next((other for other in members if other.name == name), None)
    if owner is None:
        raise Misplaced(f"is {shown(name)}: there is no such member{nearest(name, able)}", *where, hint=hint)
    if owner is member:
        raise Misplaced(f"is {shown(name)}: that is the member itself", *where, hint=hint)
    if owner.share_weights_with is not None:
        end = (
            f"write share_weights_with: {owner.share_weights_with} here too"
            if owner.share_weights_with in able
            else hint
        )
        taken = f"that member takes its own weights from {shown(owner.share_weights_with)}"
        raise Misplaced(f"is {shown(name)}: {taken}", *where, hint=end)


class Misplaced(SpecError):
    """What a key of a member cannot be. The message goes on from the place, which pydantic cannot tell."""

    def __init__(self, message: str, *where: Hashable, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.where = where
        """Keys and indices that lead there from what is being validated."""
