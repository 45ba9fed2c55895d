"""What a server allows at most."""

from __future__ import annotations

from dataclasses import dataclass, fields

from unisono.errors import SpecError, shown


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds of a server. Whoever asks for more is refused, and told which bound it was."""

    body: int = 2**20
    """Bytes of a request."""
    prompt: int = 32_768
    """Tokens of a prompt, as any one member counts them."""
    n: int = 16
    """Texts of one request: ``n`` times the prompts of a list."""
    output: int = 4096
    """Pieces of a text, and the default of ``max_tokens``."""
    concurrency: int = 512
    """Requests that are under way at once, those that wait in line included."""
    timeout: float = 600.0
    """Seconds that a request may take, from its last byte to its last piece."""
    reading: float = 30.0
    """Seconds in which the body of a request has to arrive."""
    grace: float = 30.0
    """Seconds that running requests get to finish after a signal to end."""

    def __post_init__(self) -> None:
        """Check them. Raises a `SpecError` that names the bound."""
        for bound in fields(self):
            value, least = getattr(self, bound.name), 0 if bound.name == "grace" else 1e-9
            if not value >= least or value == float("inf"):
                raise SpecError(f"the limit {bound.name} is {shown(value)}", hint="give a number above 0")
