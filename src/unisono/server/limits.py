"""What a server allows at most."""

from __future__ import annotations

from dataclasses import dataclass, fields

from unisono.errors import SpecError, shown
from unisono.server.errors import Refusal

CHARACTERS = 16
"""Characters that a token of a prompt stands for at most, on average."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds of a server. Whoever asks for more is refused, and told which bound it was."""

    body: int = 2**20
    """Bytes of a request."""
    values: int = 10_000
    """Values in the JSON of a request, however deep: what is wrong with each would have to be told."""
    prompt: int = 32_768
    """Tokens of a prompt, as any one member counts them. One of more than `CHARACTERS` times as many characters is
    refused without being read: tokenizers take the longer, the longer a text is, and all wait for them."""
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

    def check_characters(self, what: str, characters: int) -> None:
        """Refuse a text that is too long to be read. Raises a `Refusal`."""
        if characters > (most := CHARACTERS * self.prompt):
            words = f"the {what} has {characters} characters, and this server takes {most} at most"
            raise Refusal(400, words, code="context_length_exceeded")

    def __post_init__(self) -> None:
        """Check them. Raises a `SpecError` that names the bound."""
        for bound in fields(self):
            value, least = getattr(self, bound.name), 0 if bound.name == "grace" else 1e-9
            if not value >= least or value == float("inf"):
                fitting = "0 or a number above it" if bound.name == "grace" else "a number above 0"
                raise SpecError(f"the limit {bound.name} is {shown(value)}", hint=f"give {fitting}")
