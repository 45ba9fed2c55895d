"""The ensemble file: YAML in, validated records out. Unknown keys are refused, the nearest suggested."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from unisono.config.combine import Combine
from unisono.config.gate import Gate
from unisono.config.member import MemberSpec, Misplaced, check_owner
from unisono.config.member_line import member_alone, members_of, named_members
from unisono.config.method import Method, check_spelling
from unisono.config.reasoning import Reasoning
from unisono.config.sampling import Sampling
from unisono.config.spec_keys import explained, is_own, unknown_key, with_new_names
from unisono.config.spec_word import model_alone, no_such_spec
from unisono.config.speculation import Speculation, check_off
from unisono.config.vocabulary import SharedVocabulary
from unisono.config.without_union import check_bytes
from unisono.config.yaml_source import Places, read_yaml
from unisono.errors import SpecError, shown
from unisono.fusion.weights import scaled
from unisono.user_files import SETTINGS, read_text, why_unread


class TunedOn(BaseModel):
    """Questions that an ensemble was tuned on, which say nothing about how good it is."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    task: str
    source: str
    """The file of the questions and the sum of its content."""
    last: Annotated[int, Field(gt=0)]
    """How many of the last questions, in the task's order."""


class FittedOn(BaseModel):
    """Reference answers that members were fitted on."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    task: str
    """The name of a task; empty for a file of prompts and answers."""
    source: str
    """The file of the questions and the sum of its content."""
    questions: list[str]
    """Their ids; the numbers of lines of a file of prompts and answers."""


class Fitted(BaseModel):
    """How members' weights, temperatures and calibrations were found."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    answers: list[FittedOn] = Field(default_factory=list)
    """What `unisono fit` looked at, and `unisono eval` therefore leaves out."""
    models: dict[str, dict[str, str]] = Field(default_factory=dict)
    """By member, what tells its model from another one."""


class EnsembleSpec(BaseModel):
    """An ensemble, as a file or a mapping describes it.

    Raises:
        SpecError: a key is unknown, a value is wrong, or keys contradict each other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    members: Annotated[list[MemberSpec], Field(min_length=1)]
    """The members. Their order numbers the union vocabulary and so decides ties."""
    lead: str | None = None
    """The member whose distribution the gate reads; ``None`` for the first that votes."""
    combine: Combine = Combine()
    gate: Gate = Gate()
    speculate: Speculation | None = None
    sampling: Sampling = Sampling()
    reasoning: Reasoning = Reasoning()
    vocabulary: SharedVocabulary = SharedVocabulary()
    """What members vote on."""
    spelling: None = Field(default=None, exclude=True)
    tuned_on: list[TunedOn] = Field(default_factory=list)
    """The questions that `unisono tune` used; `unisono eval` leaves them out."""
    fitted: Fitted | None = None
    """The answers on which `unisono fit` found weights, temperatures and calibrations."""
    folder: Path = Field(default=Path(), exclude=True)
    """The folder to which paths of models are relative: that of the ensemble file."""

    @field_validator("lead", mode="before")
    @classmethod
    def _lead_is_a_name(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and not isinstance(value, str):
            voters = [member.name for member in info.data.get("members", []) if member.weight]
            raise SpecError(f"the lead is {shown(value)}", hint=f"members that vote: {', '.join(voters)}")
        return value

    @field_validator("combine", "gate", "sampling", "reasoning", "vocabulary", mode="before")
    @classmethod
    def _text_or_mapping_is_read(cls, value: object, info: ValidationInfo) -> object:
        readers: dict[str | None, Any] = {
            "combine": Combine,
            "gate": Gate,
            "sampling": Sampling,
            "reasoning": Reasoning,
            "vocabulary": SharedVocabulary,
        }
        reader = readers[info.field_name]
        if value is None:
            return reader()
        old = (info.context or {}).get(("sampling",)) if reader is Sampling else None
        return reader.parse(value, *old) if old else reader.parse(value)

    @field_validator("spelling", mode="before")
    @classmethod
    def _spelling_is_dropped(cls, value: object) -> None:
        check_spelling(value)

    @field_validator("speculate", mode="before")
    @classmethod
    def _speculation_is_read(cls, value: object, info: ValidationInfo) -> Speculation | None:
        check_off(value, [member.name for member in info.data.get("members", [])])
        return Speculation.parse(value)

    @field_validator("lead", "combine", "gate", "speculate", "sampling")
    @classmethod
    def _fits_the_members(cls, value: Any, info: ValidationInfo) -> Any:
        members: list[MemberSpec] = info.data.get("members", [])
        if info.field_name == "lead" and any(member.weight < 0 for member in members):
            return value  # whether they may be, the rule says, which is read after it
        if info.field_name is not None and any(member.weight > 0 for member in members):
            known = {"combine": info.data["combine"]} if "combine" in info.data else {}
            _check_method(Method(**{**known, info.field_name: value}), members)
        return value

    @model_validator(mode="after")
    def _members_fit_together(self) -> EnsembleSpec:
        places: dict[str, int] = {}
        for place, member in enumerate(self.members):
            if places.setdefault(member.name, place) != place:
                raise Misplaced(
                    f"is given again: two members are named {member.name!r}",
                    *("members", place, "name"),
                    hint="give each a name of its own",
                )
        if not any(member.weight > 0 for member in self.members):
            raise Misplaced(
                "have no vote: no weight is positive", "members", hint="give at least one member a positive weight"
            )
        for index, member in enumerate(self.members):
            if member.share_weights_with is not None:
                check_owner(index, member, self.members)
        _check_method(self.method, self.members)
        return self

    def member(self, name: str) -> MemberSpec:
        """The member of a name. Raises `KeyError` when there is none."""
        return {member.name: member for member in self.members}[name]

    def voters(self) -> list[tuple[MemberSpec, float]]:
        """The members whose weight is not 0, with their shares; the positive ones sum to 1."""
        present = [member for member in self.members if member.weight]
        return list(zip(present, scaled([member.weight for member in present]), strict=True))

    @property
    def method(self) -> Method:
        keys = {key.name: getattr(self, key.name) for key in fields(Method)}
        return Method(**keys)

    def but(self, **keys: Any) -> EnsembleSpec:
        """This spec with keys of its method replaced, as `Method.but` takes them. Raises a `SpecError`."""
        check_off(keys.get("speculate"), [member.name for member in self.members])
        method = self.method.but(**keys)
        _check_method(method, self.members)
        return self.written_by(method)

    def measured(self) -> EnsembleSpec:
        """This spec for a measurement: a lost member is an error, as figures without it are another ensemble's."""
        members = [member.model_copy(update={"on_failure": "error"}) for member in self.members]
        return self.model_copy(update={"members": members})

    def written_by(self, method: Method, members: Sequence[MemberSpec] | None = None) -> EnsembleSpec:
        """This spec with another method, which fits its members, and with fewer members where these are given."""
        keys = {key.name: getattr(method, key.name) for key in fields(Method)}
        return self.model_copy(update={**keys, "members": list(self.members if members is None else members)})


def _check_method(method: Method, members: list[MemberSpec]) -> None:
    """Hold a method against the members; one that is left out of the vote can neither lead nor draft."""
    voters = {member.name: member.weight for member in members if member.weight}
    silent = {member.name for member in members} - set(voters)
    for role, name in (("lead", method.lead), ("drafter", method.speculate and method.speculate.drafter)):
        if name in silent:
            raise SpecError(
                f"the {role} {name!r} has weight 0, so it is left out",
                hint=f"members that vote: {', '.join(voters)}",
            )
    method.check(voters)
    check_bytes(method)


Source = str | Path | Mapping[str, Any] | EnsembleSpec | Sequence[str | Mapping[str, Any]]
"""What `load_spec` reads."""


def source_of(spec: Source | None, members: Mapping[str, str | Mapping[str, Any]]) -> Source:
    """The one of the two that is given, for `load_spec`: a spec, or members by their names. Raises a `SpecError`."""
    if spec is None:
        if not members:
            raise SpecError("there is no ensemble", hint="give the path of its file, a list of models, or NAME=MODEL")
        return named_members(members)
    if members:
        raise SpecError(
            f"a spec is given, and {', '.join(members)} beside it",
            hint="keywords beside batch and report name members, in place of a spec",
        )
    return spec


def load_spec(source: Source, *, again: bool = False, combine: object = None) -> EnsembleSpec:
    """Read and check a spec.

    It is the path of a YAML file, or a model alone (`model_alone`); the content of such a file as a mapping; a list of
    members, each in a line (`read_member`) or as a mapping; or a spec that is ready.

    ``combine`` is the rule of members in a list, where it is known: whether weights may be negative depends on it.
    The path may be a pipe, unless the file will be read ``again``. Paths of models begin in the file's folder, or in
    the current one where there is no file, or a pipe.

    Raises:
        SpecError: the message has the file, line and column, the key, its value and what would be right.
    """
    if isinstance(source, EnsembleSpec):
        return source
    if isinstance(source, Mapping):
        return _validate(dict(source), "the spec", {}, Path())
    if isinstance(source, list | tuple):
        rule = {} if combine is None else {"combine": combine}
        return _validate({"members": members_of(source), **rule}, "the members", {}, Path())
    if not isinstance(source, str | Path) or "\0" in str(source):
        raise SpecError(
            f"a spec cannot be {shown(source)}",
            hint="give the path of an ensemble file, its content as a mapping, or a list of models",
        )
    if source == "":
        raise SpecError("the path of the ensemble file is empty", hint="name an ensemble file, or a model alone")
    if (model := model_alone(source)) is not None:
        return _validate({"members": [member_alone(model)]}, "the model", {}, Path())
    path = Path(source)
    if os.path.isdir(path):
        files = sorted(file.name for file in path.iterdir() if file.suffix in (".yaml", ".yml"))
        there = f"; it holds {', '.join(files[:6])}" if files else ""
        raise SpecError(
            f"cannot read the ensemble file {str(path)!r}: it is a folder", hint=f"name the ensemble file{there}"
        )
    try:
        text = read_text(path, SETTINGS, named=not again)
    except FileNotFoundError:
        raise no_such_spec(path) from None
    except (OSError, UnicodeDecodeError) as error:
        words = f"cannot read the ensemble file {str(path)!r}: {why_unread(error)}"
        raise SpecError(words, hint="name an ensemble file") from error
    data, places = read_yaml(text, path)
    resolved = path.resolve()  # /dev/stdin and /dev/fd/3 lead to no file where they are pipes
    nowhere = not resolved.exists() or (not resolved.is_file() and resolved.is_relative_to("/dev"))
    folder = Path.cwd() if nowhere else resolved.parent
    return _validate(data, str(path), places, folder)


def _validate(data: Any, source: str, places: Places, folder: Path) -> EnsembleSpec:
    if not isinstance(data, dict):
        raise SpecError(
            f"{source} is empty"
            if data is None
            else f"{source}: a spec is a mapping with the key 'members', not {shown(data)}",
            hint="begin the file with 'members:' and a list of members, each with a name and a model",
        )
    data, old_names = with_new_names({key: value for key, value in data.items() if not is_own(key)}, places)
    if "folder" in data:
        raise SpecError(unknown_key(source, ("folder",), places, EnsembleSpec))
    try:
        return EnsembleSpec.model_validate({**data, "folder": folder}, context=old_names)
    except ValidationError as error:
        problems = [
            explained(dict(problem), source, places, old_names, EnsembleSpec)
            for problem in error.errors(include_url=False)
        ]
        raise SpecError("\n".join(problems), hint="docs/spec.md explains every key") from error
