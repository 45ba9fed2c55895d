"""Systems to compare: the ensemble, its members alone, and the ensemble in other settings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from unisono.config.compact import read_number
from unisono.config.ensemble import EnsembleSpec, load_spec
from unisono.config.member import OF_PATHS, MemberSpec
from unisono.config.setting import parse_setting
from unisono.errors import SpecError, nearest, shown
from unisono.evals.model_pool import ModelPool
from unisono.evals.records import ENSEMBLE, System

WEIGHT = "weight"
OF_VOTES = (WEIGHT, "temperature", "calibrate")
"""Keys of a member in which a variant may differ: they change its vote, and not its model or what it reads."""
TEMPERATURES = "temperatures"
"""The key of a setting that changes the members' temperatures: ``temperatures=smol:1.2,gemma:0.8``."""
WEIGHTS = "weights"
"""The key of a setting that changes the members' weights: ``weights=smol:2,gemma:1``."""
_BY_MEMBER = (WEIGHTS, TEMPERATURES)
FILES = (".yaml", ".yml")
SEED = 0
"""Default sampling seed, so that an evaluation is reproducible."""


def ensemble(pool: ModelPool) -> System:
    method = pool.prepared.spec.method
    return _seeded(System(ENSEMBLE, pool.members, method))


def members(pool: ModelPool) -> list[System]:
    return [_seeded(pool.member(name)) for name in pool.members]


def variant(pool: ModelPool, setting: str) -> System:
    """The ensemble in another setting, such as ``gate=confidence:0.5 lead=smol`` or ``weights=smol:2,gemma:1``, or as
    another ensemble file of the same members describes it, ``duo-tuned.yaml``. Raises a `SpecError`.
    """
    words = setting.split()
    if is_file(setting):
        return _of_file(pool, Path(setting))
    numbers = {
        key: [word.removeprefix(f"{key}=") for word in words if word.startswith(f"{key}=")] for key in _BY_MEMBER
    }
    if not words:
        raise SpecError("a variant is empty", hint="the ensemble itself takes part anyway; name what differs from it")
    for key, given in numbers.items():
        if len(given) > 1:
            raise SpecError(f"the setting {key!r} is given twice in {shown(setting)}", hint="give it once")
    keys = parse_setting(" ".join(word for word in words if word.partition("=")[0] not in _BY_MEMBER), _BY_MEMBER)
    weights, temperatures = (
        parse_weights(numbers[key][0], pool.members, key) if numbers[key] else None for key in _BY_MEMBER
    )
    reshaped = None
    if temperatures is not None:
        reshaped = {name: {"temperature": value} for name, value in temperatures.items()}
    base = pool.prepared.spec.method
    return _fitting(pool, System(" ".join(words), pool.members, base.but(**keys), weights, reshaped))


def is_file(setting: str) -> bool:
    return setting.endswith(FILES) and "=" not in setting


def _of_file(pool: ModelPool, path: Path) -> System:
    spec = load_spec(path, again=True)
    weights = {member.name: member.weight for member, _ in spec.voters()}
    if set(weights) != set(pool.members):
        raise SpecError(
            f"{str(path)!r} has other members: {', '.join(weights)}, not {', '.join(pool.members)}",
            hint="a variant has the members of the ensemble that is evaluated",
        )
    base = pool.prepared.spec
    for name in dict.fromkeys(each for member, _ in spec.voters() for each in (member.name, member.owner)):
        _check_same_member(base, spec, name, path)
    reshaped = {member.name: {key: getattr(member, key) for key in OF_VOTES[1:]} for member, _ in spec.voters()}
    same = all(value == getattr(base.member(name), key) for name, its in reshaped.items() for key, value in its.items())
    return _fitting(pool, System(path.name, pool.members, spec.method, weights, None if same else reshaped))


def _check_same_member(base: EnsembleSpec, spec: EnsembleSpec, name: str, path: Path) -> None:
    """Refuse a file whose member differs in more than its vote: models are loaded and prompted as the base says."""
    known = {member.name: member for member in base.members}
    own = spec.member(name)
    keys = [key for key in MemberSpec.model_fields if key not in (*OF_VOTES, *OF_PATHS)]
    differing = [key for key in keys if name not in known or getattr(own, key) != getattr(known[name], key)]
    if not differing:
        differing = [key for key in OF_PATHS if _path(base, known[name], key) != _path(spec, own, key)]
    if differing:
        raise SpecError(
            f"in {str(path)!r} the member {name!r} has another {differing[0]} than in the ensemble that is evaluated",
            hint="a variant differs in votes and in how it writes; evaluate other members in a run of their own",
        )


def _path(spec: EnsembleSpec, member: MemberSpec, key: str) -> str | None:
    given: str | None = getattr(member, key)
    path = spec.folder / os.path.expanduser(given or "")
    return str(path.resolve()) if given and os.path.exists(path) else given


def parse_weights(text: str, names: Iterable[str], key: str = WEIGHTS) -> dict[str, float]:
    """Read ``smol:2,gemma:1``: positive numbers for some members, of a setting's ``key``. Raises a `SpecError`."""
    names, weights, what = tuple(names), dict[str, float](), key.removesuffix("s")
    for word in text.split(","):
        name, colon, number = word.partition(":")
        weight = read_number(number) if colon else None
        if isinstance(weight, str) or weight is None or not weight > 0:
            raise SpecError(
                f"the {what} {shown(word)} is not MEMBER:NUMBER",
                hint=f"write it as in {key}={names[0]}:2, with a number above 0",
            )
        if name not in names:
            raise SpecError(
                f"the {what} {shown(word)} is of no member that votes{nearest(name, names)}",
                hint=f"members that vote: {', '.join(names)}",
            )
        if name in weights:
            raise SpecError(f"the {what} of {name!r} is given twice in {shown(text)}", hint="give it once")
        weights[name] = float(weight)
    return weights


def check_names(systems: Iterable[System], baselines: Iterable[str] = ()) -> None:
    """Raise a `SpecError` when two systems or baselines share a name."""
    seen: dict[str, bool] = {}
    for name, is_member in [*((each.name, each.is_member) for each in systems), *((name, False) for name in baselines)]:
        if name in seen:
            what = "a member" if is_member or seen[name] else "a variant"
            raise SpecError(f"two systems are named {name!r}", hint=f"leave one out, or rename {what}")
        seen[name] = is_member


def to_json(system: System) -> Mapping[str, object]:
    return {
        "name": system.name,
        "kind": system.kind,
        "members": list(system.members),
        "method": system.method.to_json(),
        "weights": None if system.weights is None else dict(system.weights),
        **({} if system.reshaped is None else {"reshaped": {name: dict(its) for name, its in system.reshaped.items()}}),
    }


def _fitting(pool: ModelPool, system: System) -> System:
    seeded = _seeded(system)
    pool.check(seeded)
    return seeded


def _seeded(system: System) -> System:
    draw = system.method.draw
    if draw.is_greedy or draw.seed is not None:
        return system
    return replace(system, method=system.method.but(draw=replace(draw, seed=SEED)))
