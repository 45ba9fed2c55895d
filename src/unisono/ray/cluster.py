"""The only file that imports Ray for members: joins a cluster, places actors, calls them, and reads Ray's errors."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field, replace
from typing import Any

import ray
import ray.exceptions
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from unisono.config.ray import Group, RaySource
from unisono.errors import ModelError, SpecError
from unisono.ray.actor import Fault, Loading, MemberActor, Reply

NAMESPACE = "unisono"
"""In which actors with a name are found."""
PLACING_SECONDS = 300.0
"""How long a group may wait for nodes that have room for it."""
CONCURRENCY = 1000
"""Calls that an actor takes at once: those of all who use it."""


@dataclass(slots=True)
class _Room:
    """What a group has taken of the cluster, and which of its places are in use."""

    placement: PlacementGroup
    used: set[int] = field(default_factory=set)


_lock = threading.Lock()
_rooms: dict[Group, _Room] = {}


def connect(address: str | None) -> None:
    """Join the cluster at an address, or, without one, that of the environment, or a new one on this machine.

    A process that is in a cluster stays in it. Raises a `SpecError`.
    """
    with _lock:
        if ray.is_initialized():
            present = ray.get_runtime_context().gcs_address
            if address not in (None, "auto", present):
                raise SpecError(
                    f"a member lives in the Ray cluster {address}, and this process is in {present}",
                    hint="a process is in one cluster at a time: leave the address out, or start another process",
                )
            return
        try:
            ray.init(address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.WARNING)
        except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
            raise SpecError(
                f"the Ray cluster {address or 'of this machine'} cannot be joined: {first_line(error)}",
                hint="start it (ray start --head), give its HOST:PORT as address, and its token in RAY_AUTH_TOKEN",
            ) from error


class HostedMember(MemberActor):
    """A `MemberActor` that can end itself."""

    def end(self) -> None:
        ray.kill(ray.get_runtime_context().current_actor)


def make(source: RaySource, loading: Loading) -> Any:
    """Start an actor, or find that of the name. Returns its handle; waits for its place, not for its model.

    Raises a `SpecError` where an actor of that name loads something else, and a `ModelError` where there is no room.
    """
    spec = source.spec
    options: dict[str, Any] = {
        "num_cpus": spec.num_cpus,
        "num_gpus": spec.num_gpus,
        "resources": {name: amount for name, amount in spec.resources.items() if amount},
        "max_restarts": -1,
        "max_task_retries": 0,  # the caller knows when to ask again
        "max_concurrency": CONCURRENCY,
    }
    if spec.name is not None:
        options |= {"name": spec.name, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
    elif source.group is not None:
        placement = _room(source.group, source.place)
        options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(placement, source.place)
    actor = ray.remote(HostedMember).options(**options).remote(loading)
    if spec.name is None:
        return actor
    present = ray.get(actor.made_of.remote())
    if present != (loading if spec.slots else replace(loading, slots=present.slots)):
        raise SpecError(
            f"the Ray actor {spec.name!r} loads {present.member} from {present.folder} with {present.slots} slots, and "
            f"this file says {loading.member} from {loading.folder} with {loading.slots}",
            hint="write the same keys in all files that name it, or give it another name",
        )
    return actor


def loaded(actor: Any) -> Fault | None:
    """Wait for an actor's model; return why it cannot be loaded."""
    fault: Fault | None = ray.get(actor.loaded.remote())
    return fault


async def call(actor: Any, path: str, body: bytes) -> Reply:
    """Call an actor. Raises errors that `lost` reads."""
    reply: Reply = await actor.call.remote(path, body)
    return reply


def call_and_wait(actor: Any, path: str, body: bytes, seconds: float) -> Reply:
    """The same in the caller's thread. Raises a `TimeoutError`, too."""
    reply: Reply = ray.get(actor.call.remote(path, body), timeout=seconds)
    return reply


def lost(error: Exception) -> str | None:
    """Why an actor does not answer, of an error of Ray; ``None`` for another error."""
    match error:
        case TimeoutError():  # one of Ray's, too
            return None
        case ray.exceptions.ActorDiedError():
            return f"its actor has died ({first_line(error)})"
        case ray.exceptions.RayActorError():
            return f"its actor is away ({first_line(error)})"
        case ray.exceptions.RayTaskError():  # a node without unisono, or with another one; what a model does is a reply
            return f"its actor cannot run there ({first_line(error.cause or error)})"
        case ray.exceptions.RayError():
            return f"Ray fails ({first_line(error)})"
    return None


def is_over(error: Exception) -> bool:
    """Whether Ray will not start the actor again."""
    return isinstance(error, ray.exceptions.ActorDiedError)


def end(actor: Any, source: RaySource) -> None:
    """End an actor that has no name, and give back the room of its group when it was the last one there."""
    if source.spec.name is not None or not ray.is_initialized():
        return
    ray.kill(actor)
    if source.group is not None:
        _leave(source.group, source.place)


def _room(group: Group, place: int) -> PlacementGroup:
    """The placement group of a group, taken when the first of its places is. Waits until it is there."""
    bundles = [dict(bundle) or {"CPU": 0.001} for bundle in group.bundles]
    with _lock:
        if group not in _rooms:
            _rooms[group] = _Room(placement_group(bundles, strategy="PACK"))
        room = _rooms[group]
        room.used.add(place)
    if room.placement.wait(PLACING_SECONDS):
        return room.placement
    _leave(group, place)
    raise ModelError(
        f"the Ray cluster has had no room for {_listed(bundles)} for {PLACING_SECONDS:g} s; free are "
        f"{_listed([ray.available_resources()])}",
        hint="add nodes, end what takes them (ray status), or lower what the members' key ray asks for",
    )


def _leave(group: Group, place: int) -> None:
    """Give the room of a group back when its last place is left."""
    with _lock:
        room = _rooms.get(group)
        if room is None:
            return
        room.used.discard(place)
        if not room.used:
            remove_placement_group(_rooms.pop(group).placement)


def _listed(bundles: list[dict[str, float]]) -> str:
    """Resources in words, without those that Ray makes up itself."""
    known = [{name: amount for name, amount in each.items() if ":" not in name and "_" not in name} for each in bundles]
    return " and ".join(", ".join(f"{name} {amount:g}" for name, amount in each.items()) for each in known)


def first_line(error: BaseException) -> str:
    """The beginning of what an error says."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
