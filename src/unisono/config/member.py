"""One member as an ensemble file describes it, and whose weights it runs on."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from unisono.backends.registry import backend_entry
from unisono.errors import SpecError, nearest, shown
from unisono.vocab.marks import GivenMark

OF_THE_WEIGHTS = ("backend", "dtype", "device", "context", "threads", "options")
"""Keys that a member which takes another's weights cannot have."""


class MarkReading(BaseModel):
    """A mark for which a member has no token."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    reads: Annotated[str, Field(min_length=1)]
    """Text that the member reads in its place."""


class MemberSpec(BaseModel):
    """One member as a spec describes it. Only ``name`` and one of ``model`` and ``share_weights_with`` are required."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
    model: Annotated[str, Field(min_length=1)] | None = None
    """A hub id, a folder, a GGUF file, or ``demo:NAME``."""
    share_weights_with: Annotated[str, Field(min_length=1)] | None = None
    """The member whose model it is too: the weights are loaded once."""
    backend: str | None = None
    """``llamacpp`` or ``transformers``; default: the first that reads this model and is installed."""
    weight: Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)] = 1.0
    """Its share of the vote, relative to the others'; 0 leaves the member out. Only the rule ``contrastive``
    has a use for a negative one, an amateur's."""
    dtype: str | None = None
    """Number format of the weights (transformers)."""
    device: str | None = None
    """``cpu``, ``cuda``, ``cuda:1``, ``mps`` …"""
    context: Annotated[int, Field(gt=0)] | None = None
    """Tokens that one text may hold."""
    threads: Annotated[int, Field(gt=0, le=1024)] | None = None
    chat_template: str | None = None
    """A Jinja template to use in place of the model's own."""
    system: Annotated[str, Field(min_length=1)] | None = None
    """This member's own system message, put before that of the request."""
    prefix: Annotated[str, Field(min_length=1)] | None = None
    """Text that this member reads before the first user message, or before a raw prompt."""
    marks: dict[GivenMark, Annotated[str, Field(min_length=1)] | MarkReading] = Field(default_factory=dict)
    """How it writes marks, where its template does not show that: tokens as text, or ``{reads: …}``."""
    on_failure: Literal["error", "degrade"] = "error"
    """What becomes of texts when it does not answer, where it lives elsewhere: they fail, or go on without it."""
    options: dict[str, Any] = Field(default_factory=dict)
    """What only its backend understands."""

    @field_validator("backend")
    @classmethod
    def _backend_exists(cls, name: str | None) -> str | None:
        if name is not None:
            backend_entry(name)
        return name

    @property
    def owner(self) -> str:
        """The member whose weights it runs on: itself, or the one that ``share_weights_with`` names."""
        return self.share_weights_with or self.name

    @model_validator(mode="after")
    def _has_one_model(self) -> MemberSpec:
        if self.model is None and self.share_weights_with is None:
            raise Misplaced(
                "lacks the key 'model'",
                hint="give it one, or share_weights_with with the name of a member that has a model",
            )
        if self.share_weights_with is None:
            return self
        if self.model is not None:
            raise Misplaced(
                f"is {shown(self.share_weights_with)}, but this member has a model of its own",
                "share_weights_with",
                hint="keep one of the two",
            )
        for key in OF_THE_WEIGHTS:
            if getattr(self, key):
                raise Misplaced(
                    f"is {shown(getattr(self, key))}, which is for the weights to say, and those are of "
                    f"{shown(self.share_weights_with)}",
                    key,
                    hint=f"give it to {shown(self.share_weights_with)}, or this member a model of its own",
                )
        return self


def check_owner(index: int, member: MemberSpec, members: Sequence[MemberSpec]) -> None:
    """Refuse ``share_weights_with`` that names nobody, the member itself, or one that shares a third's weights."""
    name, where = str(member.share_weights_with), ("members", index, "share_weights_with")
    able = [other.name for other in members if other.model is not None]
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
