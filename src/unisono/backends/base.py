"""The backend interface: all that the engine knows of a model.

A backend holds one model and its *slots*. A slot is one sequence: a row of the key-value cache. Sampling, gating,
batching policy and retries belong to the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NewType, Protocol, runtime_checkable

from unisono.errors import SpecError
from unisono.vocab.tokenizer import Tokenizer

Slot = NewType("Slot", int)
"""A handle returned by `open`. Invalid after `close`."""

Array = Any
"""Float32 logits: a numpy array in host memory, else the device library's own array (a torch tensor on CUDA or MPS).
`array_api_compat` handles both."""

Progress = Callable[[float, str], None]
"""Called during loading with the fraction done (0 to 1) and a description of the current step."""


@dataclass(frozen=True, slots=True)
class Feed:
    """The input of one slot in one forward pass."""

    slot: Slot
    ids: Sequence[int]
    """At least one token id."""
    wanted: int = 1
    """Return logits for this many last positions: 0 to ``len(ids)``."""


@dataclass(frozen=True, slots=True)
class BackendFacts:
    """Constants of a loaded model."""

    device: str
    """``cpu``, ``cuda:0``, ``mps`` … Members on different devices run in parallel."""
    rows: int
    """V: the size of the output layer, padding rows included."""
    context: int
    slots: int
    neighbours: bool = False
    """Whether contiguous slots are faster. Slots are then numbered from 0, and `open` takes the lowest free one."""
    warnings: tuple[str, ...] = ()
    """What the library warned of while it loaded the weights, and what the files' weights are not read for."""


@runtime_checkable
class Backend(Protocol):
    """One loaded model. Not thread-safe: one thread drives it."""

    facts: BackendFacts

    def open(self, copy_of: Slot | None = None) -> Slot:
        """Open an empty slot, or a copy of another without recomputing it.

        Raises `RuntimeError` when all `facts.slots` are taken, and `ValueError` when ``copy_of`` is not open.
        """
        ...

    def advance(self, feeds: Sequence[Feed]) -> Array:
        """Run one batched forward pass over all feeds.

        Returns float32 ``logits_NV``: the wanted positions of each feed, in order; N may be 0. The array is valid until
        the next call on this backend. A slot may appear once per call. The caller keeps it within `facts.context`.

        Raises `ValueError` for invalid feeds, before anything is computed. After `unload` every method raises
        `RuntimeError`.
        """
        ...

    def rewind(self, slot: Slot, length: int) -> None:
        """Truncate a slot to its first ``length`` tokens, as if the rest had never been read."""
        ...

    def close(self, slot: Slot) -> None: ...

    def unload(self) -> None:
        """Free the model. Idempotent."""
        ...


class PrefixStore(Protocol):
    """Keeps the contents of closed slots for reuse (`unisono.backends.prefix_cache`)."""

    def resume(self, ids: Sequence[int]) -> tuple[Slot, int]:
        """Open the slot with the longest prefix of a prompt's ids; return it and the prefix length."""
        ...

    def discard(self, slot: Slot) -> None:
        """Close a slot without keeping its contents."""
        ...

    def limit(self, ids: int) -> None:
        """Evict the least recently used contents until at most this many ids are kept."""
        ...


@dataclass(frozen=True, slots=True)
class ModelSource:
    """The location of a model's files, with ``demo:`` names resolved."""

    kind: Literal["hub", "folder", "gguf", "fake"]
    location: str
    sha256: str | None = None

    @property
    def path(self) -> Path:
        return Path(self.location)


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """The settings of one member. ``None`` leaves the choice to the backend."""

    name: str
    source: ModelSource
    dtype: str | None = None
    device: str | None = None
    context: int | None = None
    threads: int | None = None
    slots: int = 1
    options: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises a `SpecError` that names the member and the value."""
        for key in ("context", "threads", "slots"):
            number = getattr(self, key)
            if number is not None and number < 1:
                raise SpecError(f"member {self.name!r}: {key} is {number}", hint="it has to be 1 or more")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    architecture: str
    rows: int
    """V: the width of the logits, padding rows included."""
    parameters: int | None
    context: int
    trained_context: int | None
    weight_bytes: int
    cache_bytes: int
    """For all requested slots at full context."""
    dtype: str
    device: str
    revision: str | None = None
    threads: str | None = None
    """How many host threads compute and how they wait."""
    input_rows: int | None = None
    """How many ids can be read, where that is known and not `rows`."""
    tied: bool | None = None
    """Whether its embeddings serve as its output layer, too, where that is known."""
    warnings: tuple[str, ...] = ()
    """What may be wrong with the model's files, and what the library warned of while it read the vocabulary."""
    unchecked: tuple[str, ...] = ()
    """What of the weights is looked at only when they are loaded."""

    @property
    def usable_rows(self) -> int:
        """Ids below this number can be read and chosen."""
        return min(self.rows, self.rows if self.input_rows is None else self.input_rows)


class Loader(Protocol):
    """Loads a model in two steps: the vocabulary, then the weights.

    `unisono.backends.registry` names one loader class per backend. Its constructor takes a `LoadRequest`, validates
    options, device and dtype, and reads no weights.
    """

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, loaded once, without the weights."""
        ...

    def facts(self) -> ModelFacts: ...

    def load(self, progress: Progress) -> Backend:
        """Load the weights. Raises a `ModelError` or `DeviceError` that names the member."""
        ...


def check_feeds(feeds: Sequence[Feed], length_of: Callable[[Slot], int], facts: BackendFacts) -> list[int]:
    """Return the length of each feed's slot. Raises `ValueError` for invalid feeds; ids are not checked."""
    lengths = [length_of(feed.slot) for feed in feeds]
    if len({feed.slot for feed in feeds}) < len(feeds):
        raise ValueError("a slot is fed twice in one call")
    for feed, length in zip(feeds, lengths, strict=True):
        size = len(feed.ids)
        if not size:
            raise ValueError(f"slot {feed.slot} is fed nothing")
        if not 0 <= feed.wanted <= size:
            raise ValueError(f"{feed.wanted} distributions are wanted of {size} tokens")
        if length + size > facts.context:
            raise ValueError(
                f"slot {feed.slot} holds {length} tokens; {size} more exceed its context of {facts.context}"
            )
    return lengths


def check_ids(feeds: Sequence[Feed], rows: int) -> None:
    """Raise `ValueError` for an id outside 0 to ``rows - 1``."""
    for feed in feeds:
        for odd in (min(feed.ids), max(feed.ids)):
            if not 0 <= odd < rows:
                raise ValueError(f"slot {feed.slot} is fed the id {odd}, which is not among the model's 0 … {rows - 1}")


def check_rewind(slot: Slot, held: int, length: int) -> None:
    """Raise `ValueError` unless a slot of ``held`` tokens can be rewound to ``length``."""
    if not 0 <= length <= held:
        raise ValueError(f"slot {slot} holds {held} tokens and cannot be rewound to {length}")
