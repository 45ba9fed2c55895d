"""The waist: all that the engine knows of a model, and all that a backend has to be.

A backend holds one model and some *slots*. A slot is one text that the model has read so far: one row of its key-value
cache. Sampling, gating, batching policy and retries live above.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NewType, Protocol, runtime_checkable

from unisono.errors import SpecError
from unisono.vocab.tokenizer import Tokenizer

Slot = NewType("Slot", int)
"""A handle that `open` gave; it names nothing after `close`."""

Array = Any
"""Float32 logits: a numpy array when they lie in the host's memory, else the device library's own array (a torch tensor
on CUDA or MPS). `array_api_compat` gives the operations for either."""

Progress = Callable[[float, str], None]
"""Called while weights load with the fraction done (0 to 1) and what is being done."""


@dataclass(frozen=True, slots=True)
class Feed:
    """What one slot reads in a pass."""

    slot: Slot
    ids: Sequence[int]
    """At least one token id: a single token, a block that was caught up, or a whole prompt."""
    wanted: int = 1
    """How many of the last positions give their distribution: 0, 1, … up to ``len(ids)``."""


@dataclass(frozen=True, slots=True)
class BackendFacts:
    """What does not change while a model is loaded."""

    device: str
    """Where it computes: ``cpu``, ``cuda:0``, ``mps`` … Members on different devices run side by side."""
    rows: int
    """V: the rows of its output, padding rows beyond the tokenizer included."""
    context: int
    """Tokens that one slot holds at most."""
    slots: int
    """Slots that may be open at once."""
    neighbours: bool = False
    """Whether slots that follow one another are computed faster together. They are then numbered from 0, and `open`
    takes the lowest that is free."""


@runtime_checkable
class Backend(Protocol):
    """One loaded model. Not thread-safe: one thread drives it."""

    facts: BackendFacts

    def open(self, copy_of: Slot | None = None) -> Slot:
        """Take an empty slot, or an independent copy of another, for which nothing is computed.

        Raises `RuntimeError` when all `facts.slots` are taken, and `ValueError` when ``copy_of`` is not open.
        """
        ...

    def advance(self, feeds: Sequence[Feed]) -> Array:
        """Read every feed in one batched forward pass.

        Returns ``logits_NV``, float32: the wanted positions of the first feed in reading order, then those of the
        second, and so on; N may be 0. Valid until the next call on this backend. A slot is fed at most once a call and
        never beyond `facts.context`: the caller counts.

        Raises `ValueError` when the feeds break these rules, before anything is computed, and `RuntimeError` after
        `unload`; this holds for all methods.
        """
        ...

    def rewind(self, slot: Slot, length: int) -> None:
        """Forget all but the first ``length`` tokens of a slot, as if the rest had never been read."""
        ...

    def close(self, slot: Slot) -> None:
        """Give a slot back."""
        ...

    def unload(self) -> None:
        """Free the model. Idempotent."""
        ...


class PrefixStore(Protocol):
    """Remembers what closed slots of a backend have read (`unisono.backends.prefix_cache`)."""

    def resume(self, ids: Sequence[int]) -> tuple[Slot, int]:
        """Take a slot that holds as many of a prompt's ids as any does; return it, and how many it holds."""
        ...

    def discard(self, slot: Slot) -> None:
        """Give a slot back whose content nobody will want."""
        ...

    def limit(self, ids: int) -> None:
        """Forget what was least recently used until no more than this many ids are kept."""
        ...


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model's bytes are, after ``demo:`` names have been resolved."""

    kind: Literal["hub", "folder", "gguf", "fake"]
    location: str
    """A hub id, or a path."""
    sha256: str | None = None
    """The sum of the file, when it is known; already checked."""

    @property
    def path(self) -> Path:
        return Path(self.location)


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """One member of a spec, as its backend needs it. ``None`` leaves the choice to the backend."""

    name: str
    source: ModelSource
    dtype: str | None = None
    device: str | None = None
    context: int | None = None
    threads: int | None = None
    slots: int = 1
    options: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the numbers. Raises a `SpecError` that names the member and the value."""
        for key in ("context", "threads", "slots"):
            number = getattr(self, key)
            if number is not None and number < 1:
                raise SpecError(f"member {self.name!r}: {key} is {number}", hint="it has to be 1 or more")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a model before its weights are loaded; `doctor` shows it."""

    architecture: str
    rows: int
    """V: the rows that its output will have, as `BackendFacts.rows`."""
    parameters: int | None
    context: int
    """Tokens a slot will hold with this request."""
    trained_context: int | None
    weight_bytes: int
    """Memory the weights will need."""
    cache_bytes: int
    """Memory the key-value cache of all requested slots will need at full context."""
    dtype: str
    device: str
    revision: str | None = None
    """The commit of the hub that it is read from, where it is."""
    threads: str | None = None
    """How many threads compute on the host and how they wait, where that is so."""


class Loader(Protocol):
    """Loads a model: the vocabulary first, the weights when asked for.

    Every backend has one such class, named in `unisono.backends.registry` and made with a `LoadRequest`. Making it
    checks the request (options, device, dtype) and touches no weights.
    """

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, without loading weights. It is loaded once."""
        ...

    def facts(self) -> ModelFacts:
        """What is known without loading weights."""
        ...

    def load(self, progress: Progress) -> Backend:
        """Load the weights. Raises a `ModelError` or `DeviceError` that names the member."""
        ...


def check_feeds(feeds: Sequence[Feed], length_of: Callable[[Slot], int], facts: BackendFacts) -> list[int]:
    """Return how many tokens each feed's slot holds; ``length_of`` refuses a slot that is not open.

    Raises `ValueError` for a feed that breaks the rules. Ids are left to `check_ids`, or to a faster check.
    """
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
    """Raise `ValueError` when an id is not among a model's ``rows``."""
    for feed in feeds:
        for odd in (min(feed.ids), max(feed.ids)):
            if not 0 <= odd < rows:
                raise ValueError(f"slot {feed.slot} is fed the id {odd}, which is not among the model's 0 … {rows - 1}")


def check_rewind(slot: Slot, held: int, length: int) -> None:
    """Raise `ValueError` when a slot that holds ``held`` tokens cannot be rewound to ``length``."""
    if not 0 <= length <= held:
        raise ValueError(f"slot {slot} holds {held} tokens and cannot be rewound to {length}")
