"""The key ``ray`` of a member: what its actor takes of a Ray cluster, and what is loaded there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from unisono.backends.base import ModelSource
from unisono.errors import SpecError, shown

Amount = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
OWN_KEYS = {"CPU": "num_cpus", "GPU": "num_gpus"}
"""Resources of Ray that have a key of their own here."""


class RaySpec(BaseModel):
    """What the actor of a member takes, and where."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    num_cpus: Amount = 1.0
    num_gpus: Amount = 0.0
    resources: dict[Annotated[str, Field(min_length=1, max_length=128)], Amount] = Field(default_factory=dict)
    """Resources by the names that nodes were started with."""
    address: Annotated[str, Field(min_length=1)] | None = None
    """``HOST:PORT`` of the cluster; ``None`` for the one this process is in, that of ``RAY_ADDRESS``, or a new one."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)] | None = None
    """Of an actor that others may use, too: it is found by this name, or made."""
    slots: Annotated[int, Field(gt=0, le=4096)] | None = None
    """Texts that an actor with a name holds at once, of all who use it."""

    @field_validator("address")
    @classmethod
    def _address_is_of_a_cluster(cls, address: str | None) -> str | None:
        if address is not None and address.startswith("ray://"):
            raise SpecError(
                f"the address of a Ray cluster is {shown(address)}: with Ray Client each step would go through a proxy",
                hint="run unisono on a node of the cluster (ray start --address HOST:PORT), and write that HOST:PORT",
            )
        return address

    @model_validator(mode="after")
    def _amounts_can_be_had(self) -> RaySpec:
        for resource, key in OWN_KEYS.items():
            if resource in self.resources:
                raise SpecError(f"resources of ray name {resource}", hint=f"write {key}: {self.resources[resource]:g}")
        if self.num_gpus > 1 and self.num_gpus % 1:
            raise SpecError(
                f"num_gpus of ray is {self.num_gpus:g}: of several GPUs Ray gives no part",
                hint="give a whole number, or one below 1",
            )
        if self.slots is not None and self.name is None:
            raise SpecError(
                f"slots of ray are {self.slots}, of an actor without a name",
                hint="leave slots out: an actor without a name has as many as its ensemble needs",
            )
        return self

    @property
    def bundle(self) -> tuple[tuple[str, float], ...]:
        """What its actor takes, as Ray names it."""
        own = {"CPU": self.num_cpus, "GPU": self.num_gpus}
        return tuple(sorted((name, amount) for name, amount in {**own, **self.resources}.items() if amount))


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Actors that Ray places together, or not at all."""

    bundles: tuple[tuple[tuple[str, float], ...], ...]
    """What each of them takes."""


@dataclass(frozen=True, slots=True)
class RaySource(ModelSource):
    """A member that an actor loads. ``location`` is what messages call the cluster."""

    member: str = ""
    """The member's keys as JSON, without its name and those that concern its ensemble."""
    folder: str = ""
    """What relative paths are relative to, on the actor's node."""
    spec: RaySpec = field(default_factory=RaySpec, compare=False)
    wants: tuple[object, ...] = ()
    """The same, as what tells one source from another."""
    top: int | None = None
    timeout: float = 60.0
    retries: int = 2
    group: Group | None = field(default=None, compare=False)
    """Those whom it is placed with; ``None`` for an actor with a name, which stands by itself."""
    place: int = field(default=0, compare=False)
    """Its bundle in the group."""


def ray_source(spec: RaySpec, member: str, folder: Path, *, top: int | None, timeout: float, retries: int) -> RaySource:
    return RaySource(
        kind="ray",
        location=f"ray:{spec.address or 'auto'}",
        member=member,
        folder=str(folder.absolute()),
        spec=spec,
        wants=(spec.bundle, spec.address, spec.name, spec.slots),
        top=top,
        timeout=timeout,
        retries=retries,
    )


def grouped(sources: Sequence[ModelSource]) -> list[ModelSource]:
    """The same sources; those of actors without a name are one group. Raises a `SpecError`."""
    of_ray = [source for source in sources if isinstance(source, RaySource)]
    addresses = dict.fromkeys(source.spec.address for source in of_ray)
    if len(addresses) > 1:
        raise SpecError(
            f"members live in two Ray clusters, {' and '.join(str(address or 'auto') for address in addresses)}; a "
            "process is in one at a time",
            hint="write one address for all, or serve those of the other with `unisono member serve`, and name its url",
        )
    placed = [source for source in of_ray if source.spec.name is None]
    if not placed:
        return list(sources)
    group = Group(tuple(source.spec.bundle for source in placed))
    places = {id(source): place for place, source in enumerate(placed)}
    return [
        replace(source, group=group, place=places[id(source)])
        if isinstance(source, RaySource) and id(source) in places
        else source
        for source in sources
    ]
