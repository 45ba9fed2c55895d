"""The limits of a server."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, fields

from unisono.chat.messages import Prompt
from unisono.errors import SpecError, shown
from unisono.server.errors import Refusal

CHARACTERS = 16
"""The most characters that a token of a prompt stands for, on average."""
TOO_LONG = "context_length_exceeded"
"""The code of refusals of what is too long to be read."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What a server accepts. A request over a limit is refused, and the error names the limit."""

    body: int = 2**20
    """Bytes of a request."""
    values: int = 10_000
    """Values in a request's JSON, nested ones included: validation may report an error for each. Token ids of a prompt
    do not count.
    """
    prompt: int = 32_768
    """Tokens of a prompt, for each member. A prompt of more than `CHARACTERS` times as many characters is refused
    before it is tokenised, because one long tokenisation delays all requests."""
    n: int = 16
    """Texts of a request: ``n`` times the number of prompts."""
    output: int = 4096
    """Pieces of a text, and the default of ``max_tokens``."""
    concurrency: int = 512
    """Requests that run or wait at once."""
    timeout: float = 600.0
    """Seconds of a request, from the last byte of its body to its last piece."""
    reading: float = 30.0
    """Seconds for the body of a request to arrive."""
    connections: int | None = None
    """Connections in all; ``None`` takes what the process may open, see `room_for_connections`."""
    connections_per_address: int | None = None
    """Connections of one address; ``None`` is three quarters of all."""
    headers: float = 10.0
    """Seconds for the head of a request to arrive."""
    keep_alive: float = 5.0
    """Seconds for which a connection stays open between requests."""
    sending: float = 30.0
    """Seconds for which a client may take nothing of its answer."""
    grace: float = 30.0
    """Seconds for running requests to finish after a signal to end."""
    responses: int = 1000
    """Responses that are kept in memory, so that others can follow them; 0 keeps none."""
    strict: bool = False
    """Whether fields without effect and limits that are too high are refused; else they are accepted, and clamped."""

    def __post_init__(self) -> None:
        for limit in [each for each in fields(self) if each.name != "strict"]:
            may_be_0 = limit.name in ("grace", "responses")
            value, least = getattr(self, limit.name), 0 if may_be_0 else 1e-9
            if value is None:
                continue
            if not value >= least or value == float("inf"):
                fitting = "0 or a number above it" if may_be_0 else "a number above 0"
                raise SpecError(f"the limit {limit.name} is {shown(value)}", hint=f"give {fitting}")

    def too_long(self, what: str, characters: int, *, field: str | None = None) -> Refusal:
        """The refusal of a text that is too long to be tokenised; ``field`` is where it stands, if not in ``what``."""
        words = f"the {what} has {characters} characters, and this server takes {CHARACTERS * self.prompt} at most"
        return Refusal(400, words, param=field or what, code=TOO_LONG)

    def check_tokens(self, member: str, length: int, prompt: Prompt) -> None:
        """Raise a `Refusal` where a prompt has too many tokens for a member."""
        if length > self.prompt:
            words = f"the prompt has {length} tokens for member {member!r}, and this server takes {self.prompt} at most"
            raise Refusal(400, words, param=prompt_field(prompt), code=TOO_LONG)


def prompt_field(prompt: Prompt) -> str:
    """The field of a request in which a prompt stands."""
    return "prompt" if prompt.messages is None else "messages"


MOST_CONNECTIONS = 1024
"""Of a server that is not told otherwise: more would wait for its models only."""
FILES_KEPT = 64
"""Files that are kept for models, logs and libraries; half of all where there are few."""


def room_for_connections(limits: ServerLimits) -> tuple[int, int]:
    """The most connections in all, and of one address. Raises a `SpecError` if the process may not open so many."""
    files = _most_files()
    room = files - min(FILES_KEPT, files // 2)
    most = min(MOST_CONNECTIONS, room) if limits.connections is None else limits.connections
    if most > room:
        raise SpecError(
            f"the limit connections is {most}; this process may open {files} files, and keeps {files - room} of them",
            hint=f"give {room} or less, or raise the number of open files (`ulimit -n`)",
        )
    of_address = limits.connections_per_address
    return most, max(1, most * 3 // 4) if of_address is None else min(of_address, most)


def _most_files() -> int:
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return 2**20 if soft == resource.RLIM_INFINITY else soft
    return 2**20
