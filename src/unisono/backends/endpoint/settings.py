"""Where a member lives that is asked over HTTP, and how it is asked."""

from __future__ import annotations

from dataclasses import dataclass

from unisono.backends.base import ModelSource

TIMEOUT, RETRIES, TOP = 60.0, 2, 20


@dataclass(frozen=True, slots=True)
class EndpointSource(ModelSource):
    """The keys of a member behind an endpoint; ``location`` is its address, without a slash at the end."""

    api_key_env: str | None = None
    """The environment variable that holds its key."""
    served_model: str | None = None
    """The model's name there, where the engine serves several."""
    tokenizer: ModelSource | None = None
    """What a local backend reads the tokenizer from; ``None`` where the engine gives its own."""
    tokenizer_backend: str = ""
    """The local backend that does."""
    top: int | None = None
    """How many of the likeliest ids to ask for ; ``None`` for `TOP`, or for whole rows from a worker."""
    timeout: float = TIMEOUT
    """Seconds that a step may wait for its answer, retries included."""
    retries: int = RETRIES
    """How often a lost request is sent again within that time."""
    wait: float | None = None
    """Seconds for which a start waits for an engine that does not answer; ``None`` for `loader.WAIT`."""

    @property
    def address(self) -> str:
        return self.location
