"""Requests and answers about the pieces of texts, and the tokens of one member, as JSON."""

from __future__ import annotations

from pydantic import BaseModel

from unisono.server.message_types import Messages
from unisono.server.schemas import Record, TokenIds


class PiecesRequest(Record):
    """A request for ``/v1/pieces``."""

    model: str
    text: str


class Piece(BaseModel):
    """One piece of a text."""

    id: int
    """Its key in ``logit_bias``."""
    text: str
    bytes: list[int]


class PieceList(BaseModel):
    """An answer of ``/v1/pieces``."""

    object: str = "list"
    model: str
    data: list[Piece]
    end: list[int]
    """The ids that end a text."""


class TokenizeRequest(Record):
    """A request for ``/tokenize``."""

    model: str
    """A member alone."""
    prompt: str | None = None
    messages: Messages | None = None
    """Either these or ``prompt``."""
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    """As in chats."""
    add_special_tokens: bool | None = None
    """Whether a prompt begins as a text does: by default, it does. Messages begin as their template says."""
    return_token_strs: bool | None = None


class TokenizeAnswer(BaseModel):
    """An answer of ``/tokenize``."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(Record):
    """A request for ``/detokenize``."""

    model: str
    """A member alone."""
    tokens: TokenIds


class DetokenizeAnswer(BaseModel):
    """An answer of ``/detokenize``."""

    prompt: str
