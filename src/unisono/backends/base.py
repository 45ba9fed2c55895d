"""The backend interface: all that the engine knows of a model.

A backend holds one model and its *slots*. A slot is one sequence: a row of the key-value cache. Sampling, gating,
batching policy and retries belong to the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, NewType, Protocol, runtime_checkable

from unisono.backends.top_logprobs import TopLogprobs as TopLogprobs  # what backends promise, too
from unisono.errors import MemberUnavailable, SpecError
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
    top: int = 0
    """Of a truncated backend, how many of the likeliest ids to tell; 0 for its own k. Dense ones ignore it."""
    also: Sequence[int] = ()
    """Of a truncated backend, ids to tell whatever their rank."""


class Truncation(NamedTuple):
    """How much a truncated backend tells of each distribution."""

    top: int
    """k: how many of the likeliest ids it tells by itself."""
    most: int
    """The largest k that it can be asked for."""
    also: int = 0
    """How many ids can be asked for by number, at most."""


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
    truncated: Truncation | None = None
    """Whether `Backend.advance` returns `TopLogprobs`, and how much these tell; ``None`` for dense logits."""
    rewinds_anywhere: bool = True
    """Whether a rewind keeps all ids before it. A running state is kept at some lengths: a slot that is rewound to
    another one reads again what stands behind the last of them."""
    keeps_prefixes: bool = False
    """Whether it finds by itself what it has read of a prompt, whichever slot read it."""


@runtime_checkable
class Backend(Protocol):
    """One loaded model. Not thread-safe: one thread drives it."""

    facts: BackendFacts

    def open(self, copy_of: Slot | None = None) -> Slot:
        """Open an empty slot, or a copy of another without recomputing it.

        Raises `RuntimeError` when all `facts.slots` are taken, and `ValueError` when ``copy_of`` is not open.
        """
        ...

    def advance(self, feeds: Sequence[Feed]) -> Array | TopLogprobs:
        """Run one batched forward pass over all feeds.

        Returns float32 ``logits_NV``: the wanted positions of each feed, in order; N may be 0. The array is valid until
        the next call on this backend. A slot may appear once per call. The caller keeps it within `facts.context`.

        A truncated backend (`facts.truncated`) always returns `TopLogprobs` instead. To be told more of the last
        position, rewind by one id and feed that again with a larger ``top``, or with ``also``.

        A backend whose model lives elsewhere raises `MemberUnavailable` where that does not answer, here alone: the
        other methods wait for nothing, but `unload`, briefly. What it has read of the feeds by then is forgotten by a
        `rewind`.

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


def model_of(backend: Backend) -> int:
    """Which loaded model a backend is: one number for all views of it (`Adapted`), which have it ``behind`` them."""
    return id(getattr(backend, "behind", backend))


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

    kind: Literal["hub", "folder", "gguf", "fake", "endpoint", "ray"]
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
    may_be_away: bool = False
    """Whether texts are written without the member while it is away, also when the ensemble begins."""
    alone: bool = False
    """Whether this process is the model's own, so that an engine which wants one need not start another."""
    adapters: tuple[str, ...] = ()
    """The paths of adapters that slots may have, which are their names, too (`unisono.backends.adapted`)."""

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
    truncated: Truncation | None = None
    """See `BackendFacts.truncated`."""

    @property
    def usable_rows(self) -> int:
        """Ids below this number can be read and chosen."""
        return min(self.rows, self.rows if self.input_rows is None else self.input_rows)


@runtime_checkable
class Elsewhere(Protocol):
    """A loader of a model that lives elsewhere."""

    @property
    def lost(self) -> MemberUnavailable | None:
        """Why it was not there when it was looked for, where an ensemble begins without it."""
        ...


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


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many ids two sequences begin with alike."""
    low, high = 0, min(len(left), len(right))
    while low < high:  # comparing slices is quicker than comparing ids
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def dense(told: Array | TopLogprobs) -> Array:
    """The logits of a backend that tells whole distributions."""
    if isinstance(told, TopLogprobs):
        raise AssertionError("a truncated distribution is read as a whole one")
    return told
