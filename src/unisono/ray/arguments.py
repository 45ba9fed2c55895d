"""The arguments of the application: what a Serve config says under ``args``."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from unisono.config.ray import Amount
from unisono.errors import SpecError, nearest, shown
from unisono.server.limits import ServerLimits
from unisono.validation import explain

OF_SOCKETS = ("connections", "connections_per_address", "headers", "keep_alive", "sending")
"""Limits that only a server with sockets of its own can keep: here Serve's proxies have them."""
LIMITS = {each.name: each.default for each in fields(ServerLimits) if each.name not in (*OF_SOCKETS, "strict")}


class Replicas(BaseModel):
    """How many replicas there are: as many as the requests that wait and run ask for."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    least: Annotated[int, Field(ge=0, le=1000)] = 1
    most: Annotated[int, Field(ge=1, le=1000)] = 1
    requests: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Requests, running and waiting, for which one replica is enough; ``None`` for one and a half times ``batch``."""

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.least > self.most:
            raise SpecError(f"replicas are {self.least} at least and {self.most} at most", hint="raise most")
        return self


class Arguments(BaseModel):
    """What a replica serves, and how. The keys mean what the flags of ``unisono serve`` mean."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    ensembles: Annotated[list[str], Field(min_length=1)]
    """``[NAME=]FILE``, paths on the nodes."""
    replicas: Replicas | Annotated[int, Field(ge=1, le=1000)] = 1
    num_cpus: Amount = 1.0
    """Of a replica's own process: members without the key ``ray`` run in it."""
    num_gpus: Amount = 0.0
    resources: dict[str, Amount] = Field(default_factory=dict)
    batch: Annotated[int, Field(ge=1)] = 8
    queue: Annotated[int, Field(ge=1)] = 256
    chunk: Annotated[int, Field(ge=1)] = 256
    members_alone: bool = True
    api_key_file: str | None = None
    no_keys: bool = False
    gac_api: bool = False
    log_prompts: bool = False
    strict: bool = False
    allow_origin: list[str] = Field(default_factory=list)
    limits: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    revision: str = ""
    """Any text; another one rolls the replicas, as after new weights at the same path."""

    @classmethod
    def read(cls, given: object) -> Self:
        """Check arguments. Raises a `SpecError` that names the key."""
        try:
            arguments = cls.model_validate(given)
        except ValidationError as error:
            # Of a key that takes a number or a record, the fault says more than that it is none of the other kind.
            first = min(error.errors(include_url=False), key=lambda each: each["type"] in ("model_type", "int_type"))
            place = ".".join(str(part) for part in first["loc"] if str(part).isidentifier()) or "args"
            value = first["input"]
            if first["type"] == "extra_forbidden":
                key, known = str(first["loc"][-1]), (Replicas if first["loc"][0] == "replicas" else cls).model_fields
                raise SpecError(
                    f"the application has no argument {place!r}{nearest(key, known)}",
                    hint=f"choose among {', '.join(known)}",
                ) from None
            words = (
                "is missing"
                if first["type"] == "missing"
                else f"is {shown(value)}: {explain([first], an_object='a mapping')}"
            )
            raise SpecError(f"the application's argument {place!r} {words}", hint="see docs/ray.md") from None
        arguments.server_limits()
        return arguments

    def server_limits(self) -> ServerLimits:
        """The limits of each replica. Raises a `SpecError`."""
        for key in self.limits:
            if key in OF_SOCKETS:
                raise SpecError(
                    f"the limit {key} is for a server with sockets of its own", hint="Serve's proxies have them here"
                )
            if key not in LIMITS:
                raise SpecError(
                    f"there is no limit {key!r}{nearest(key, LIMITS)}", hint=f"choose among {', '.join(LIMITS)}"
                )
        own: dict[str, Any] = {
            key: int(value) if isinstance(LIMITS[key], int) else value for key, value in self.limits.items()
        }
        return ServerLimits(**own, strict=self.strict)
