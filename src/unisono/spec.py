"""The ensemble file: YAML in, validated records out. Unknown keys are refused, the nearest suggested."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from unisono.backends.registry import backend_entry
from unisono.engine.method import Method, Speculation, check_off
from unisono.errors import SpecError, nearest, shown
from unisono.fusion.combine import COMBINE_RULES
from unisono.fusion.gate import Gate

Place = tuple[int, int]
"""Line and column, counted from 1."""


class MemberSpec(BaseModel):
    """One member as a spec describes it. Only ``name`` and ``model`` are required."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
    """How the member is called in traces, figures and errors."""
    model: Annotated[str, Field(min_length=1)]
    """A hub id, a folder, a GGUF file, or ``demo:NAME``."""
    backend: str | None = None
    """``llamacpp`` or ``transformers``; default: the first that reads this model and is installed."""
    weight: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = 1.0
    """Its share of the vote, relative to the others'; 0 leaves the member out."""
    dtype: str | None = None
    """Number format of the weights (transformers)."""
    device: str | None = None
    """``cpu``, ``cuda``, ``cuda:1``, ``mps`` …"""
    context: Annotated[int, Field(gt=0)] | None = None
    """Tokens that one text may hold."""
    threads: Annotated[int, Field(gt=0, le=1024)] | None = None
    """Processor threads for computing."""
    chat_template: str | None = None
    """A Jinja template to use in place of the model's own."""
    options: dict[str, Any] = Field(default_factory=dict)
    """What only its backend understands."""

    @field_validator("backend")
    @classmethod
    def _backend_exists(cls, name: str | None) -> str | None:
        if name is not None:
            backend_entry(name)
        return name


class EnsembleSpec(BaseModel):
    """An ensemble as a file or a mapping describes it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    members: Annotated[list[MemberSpec], Field(min_length=1)]
    """The voters. Their order numbers the union vocabulary and decides ties."""
    lead: str | None = None
    """The member whose distribution the gate looks at; ``None`` for the first that votes."""
    combine: Literal["mean"] = "mean"
    """How the members' distributions become one."""
    gate: Gate = Gate()
    """When the other members are asked: all that `Gate.parse` reads."""
    speculate: Speculation | None = None
    """Who drafts: all that `Speculation.parse` reads."""
    folder: Path = Field(default=Path(), exclude=True)
    """What relative paths of models are relative to: the folder of the spec's file."""

    @field_validator("lead", mode="before")
    @classmethod
    def _lead_is_a_name(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and not isinstance(value, str):
            voters = [member.name for member in info.data.get("members", []) if member.weight > 0]
            raise SpecError(f"the lead is {shown(value)}", hint=f"members that vote: {', '.join(voters)}")
        return value

    @field_validator("gate", mode="before")
    @classmethod
    def _gate_is_read(cls, value: object) -> Gate:
        return Gate.parse(value)

    @field_validator("speculate", mode="before")
    @classmethod
    def _speculation_is_read(cls, value: object, info: ValidationInfo) -> Speculation | None:
        check_off(value, [member.name for member in info.data.get("members", [])])
        return Speculation.parse(value)

    @field_validator("lead", "gate", "speculate")
    @classmethod
    def _fits_the_members(cls, value: Any, info: ValidationInfo) -> Any:
        members: list[MemberSpec] = info.data.get("members", [])
        if info.field_name is not None and any(member.weight > 0 for member in members):
            _check_method(Method(**{info.field_name: value}), members)
        return value

    @model_validator(mode="after")
    def _members_fit_together(self) -> EnsembleSpec:
        names = [member.name for member in self.members]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two members are named {twice!r}; give each a name of its own")
        if not any(member.weight > 0 for member in self.members):
            raise ValueError("all weights are 0, so nobody would vote; give at least one member a positive weight")
        return self

    def voters(self) -> list[tuple[MemberSpec, float]]:
        """The members whose weight is not 0, with weights that sum to 1."""
        present = [member for member in self.members if member.weight > 0]
        total = sum(member.weight for member in present)
        return [(member, member.weight / total) for member in present]

    @property
    def method(self) -> Method:
        """How the ensemble writes."""
        return Method(self.lead, self.combine, self.gate, self.speculate)

    def but(self, **keys: Any) -> EnsembleSpec:
        """This spec with some keys of its method replaced, as `Method.but` takes them.

        Raises:
            SpecError: a value is wrong, or does not fit the members.
        """
        check_off(keys.get("speculate"), [member.name for member in self.members])
        method = self.method.but(**keys)
        _check_method(method, self.members)
        return self.model_copy(
            update={"lead": method.lead, "gate": method.gate, "speculate": method.speculate},
        )


def _check_method(method: Method, members: list[MemberSpec]) -> None:
    """Hold a method against the members; one that is left out of the vote can neither lead nor draft."""
    voters = [member.name for member in members if member.weight > 0]
    silent = {member.name for member in members} - set(voters)
    for role, name in (("lead", method.lead), ("drafter", method.speculate and method.speculate.drafter)):
        if name in silent:
            raise SpecError(
                f"the {role} {name!r} has weight 0, so it is left out",
                hint=f"members that vote: {', '.join(voters)}",
            )
    method.check(voters)


def load_spec(source: str | Path | Mapping[str, Any] | EnsembleSpec) -> EnsembleSpec:
    """Read and check a spec.

    Args:
        source: the path of a YAML file, the same as a mapping, or a spec that is ready.

    Raises:
        SpecError: the file is missing or not YAML, or something in it is wrong; the message has the
            file, line and column, the key, its value and what would be right.
    """
    if isinstance(source, EnsembleSpec):
        return source
    if isinstance(source, Mapping):
        return _validate(dict(source), "the spec", {}, Path())
    if not isinstance(source, str | Path) or "\0" in str(source):
        raise SpecError(
            f"a spec cannot be {shown(source)}", hint="give the path of an ensemble file, or its content as a mapping"
        )
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"there is no spec file {str(path)!r}", hint="check the path of the ensemble file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read the spec file {str(path)!r}: {error}") from error
    data, places = _parse(text, path)
    return _validate(data, str(path), places, path.resolve().parent)


def _parse(text: str, path: Path) -> tuple[Any, dict[tuple[Hashable, ...], Place]]:
    """The document, and where each of its values stands."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        places: dict[tuple[Hashable, ...], Place] = {}
        if node is not None:
            _locate(node, (), places, path)
        return yaml.safe_load(text), places
    except SpecError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SpecError(
            f"{path}{where}: this is not valid YAML: {error.problem or error.context}",
            hint=_without_the_space(text.splitlines()[mark.line])
            if mark and mark.line < text.count("\n") + 1
            else None,
        ) from error
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise SpecError(f"{path}: this is not valid YAML: {error}") from error
    except RecursionError:
        raise SpecError(f"{path}: this is nested too deeply, or refers to itself") from None


def _without_the_space(line: str) -> str | None:
    """What is meant by ``gate: confidence: 0.5``, which YAML refuses."""
    slip = re.match(r"\s*(gate|speculate)\s*:\s*([\w.-]+)\s*:\s+([\w.-]+)", line)
    return slip and f"write {slip[1]}: {slip[2]}:{slip[3]}"


def _locate(
    node: yaml.Node, where: tuple[Hashable, ...], places: dict[tuple[Hashable, ...], Place], path: Path
) -> None:
    places.setdefault(where, (node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _locate(item, (*where, index), places, path)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                line, column = key.start_mark.line + 1, key.start_mark.column + 1
                raise SpecError(f"{path}, line {line}, column {column}: a key has to be plain text")
            inner = (*where, key.value)
            if inner in places:
                line, column = key.start_mark.line + 1, key.start_mark.column + 1
                raise SpecError(f"{path}, line {line}, column {column}: the key {shown(key.value)} is given twice")
            places[inner] = (key.start_mark.line + 1, key.start_mark.column + 1)
            _locate(value, inner, places, path)


def _validate(data: Any, source: str, places: dict[tuple[Hashable, ...], Place], folder: Path) -> EnsembleSpec:
    if not isinstance(data, dict):
        raise SpecError(
            f"{source}: a spec is a mapping with the key 'members', not {shown(data)}",
            hint="begin the file with 'members:' and a list of members, each with a name and a model",
        )
    if "folder" in data:
        raise SpecError(_unknown_key(source, ("folder",), places, EnsembleSpec))
    try:
        return EnsembleSpec.model_validate({**data, "folder": folder})
    except ValidationError as error:
        problems = [_explain(dict(problem), source, places) for problem in error.errors(include_url=False)]
        raise SpecError("\n".join(problems), hint="docs/spec.md explains every key") from error


def _explain(problem: dict[str, Any], source: str, places: dict[tuple[Hashable, ...], Place]) -> str:
    where: tuple[Hashable, ...] = tuple(problem["loc"])
    kind, value = problem["type"], problem["input"]
    prefix = f"{source}{_place(where, places)}: "
    if kind == "extra_forbidden":
        return _unknown_key(source, where, places, MemberSpec if where[0] == "members" else EnsembleSpec)
    if kind == "missing":
        return f"{prefix}{_named(where[:-1])} lacks the key {where[-1]!r}"
    if kind == "literal_error" and where == ("combine",):
        near = nearest(value, COMBINE_RULES) if isinstance(value, str) else ""
        return f"{prefix}unknown rule {shown(value)}{near}; known: {', '.join(COMBINE_RULES)}"
    if kind == "too_short" and where == ("members",):
        return f"{prefix}there are no members; list at least one, each with a name and a model"
    if kind == "string_pattern_mismatch":
        return f"{prefix}{_named(where)} is {shown(value)}: use letters, digits, '.', '_' and '-'"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if kind == "value_error" and isinstance(value, Mapping):
        prefix = f"{source}{_place(_inner(where, value, message), places)}: "
    if kind == "model_type":
        return f"{prefix}{_named(where)} is {shown(value)}: a member is a mapping with a name and a model"
    if kind == "value_error" or not where:
        return f"{prefix}{message}{_way_out(problem)}"
    return f"{prefix}{_named(where)} is {shown(value)}: {message[:1].lower()}{message[1:]}"


def _inner(where: tuple[Hashable, ...], value: Mapping[Any, Any], message: str) -> tuple[Hashable, ...]:
    """Where the key of a mapping stands that a message speaks of first."""
    found = {str(key): re.search(rf"\b{re.escape(str(key))}\b", message) for key in value}
    spoken_of = {key: match.start() for key, match in found.items() if match}
    return (*where, min(spoken_of, key=spoken_of.__getitem__)) if spoken_of else where


def _way_out(problem: dict[str, Any]) -> str:
    """The hint of an error of ours that a validator raised."""
    hint = getattr(problem.get("ctx", {}).get("error"), "hint", None)
    return f"; {hint}" if hint else ""


def _unknown_key(
    source: str, where: tuple[Hashable, ...], places: dict[tuple[Hashable, ...], Place], model: type[BaseModel]
) -> str:
    known = [name for name in model.model_fields if name != "folder"]
    key = str(where[-1])
    inside = f" in {_named(where[:-1])}" if len(where) > 1 else ""
    near = nearest(key, known)
    return f"{source}{_place(where, places)}: unknown key {shown(key)}{inside}{near}; known: {', '.join(known)}"


def _place(where: tuple[Hashable, ...], places: dict[tuple[Hashable, ...], Place]) -> str:
    while where and where not in places:
        where = where[:-1]
    if where not in places:
        return ""
    line, column = places[where]
    return f", line {line}, column {column}"


def _named(where: tuple[Hashable, ...]) -> str:
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "the spec"
