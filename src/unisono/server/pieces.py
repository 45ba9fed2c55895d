"""The pieces of a text, as members cut it."""

from __future__ import annotations

from unisono.engine.engine import Engine
from unisono.engine.plan import lead_of
from unisono.records import is_unicode
from unisono.server.errors import Refusal
from unisono.server.schemas import Piece, PieceList
from unisono.vocab.union import ABSENT


def pieces_json(text: str, model: str, engine: Engine) -> str:
    """What `pieces_of` finds, written a piece at a time: half a million at once would stop all other threads."""
    found = pieces_of(text, model, engine)
    data = ",".join(piece.model_dump_json() for piece in found.data)
    return found.model_copy(update={"data": []}).model_dump_json().replace('"data":[]', f'"data":[{data}]', 1)


def pieces_of(text: str, model: str, engine: Engine) -> PieceList:
    """Tokenise a text as the lead does. Ids are columns of the union, or, for a member alone, its own.

    Raises a `Refusal` where a member cannot spell the text.
    """
    if not is_unicode(text):
        raise Refusal(400, "the text has a lone surrogate", param="text", code="invalid_value")
    lead = lead_of(engine.method, engine.members)
    vocabulary = lead.speller.vocabulary
    ids = lead.speller.own_encoding(text.encode()) or lead.speller.longest_match(text.encode()) or ()
    column_V = lead.map.column_V
    if (text and not ids) or any(column_V[token] == ABSENT for token in ids):
        raise Refusal(400, "the text has bytes that a member cannot write", param="text", code="invalid_value")
    alone = "/" in model  # one member by itself
    pieces = [(token if alone else int(column_V[token]), vocabulary.pieces[token] or b"") for token in ids]
    found = [Piece(id=key, text=piece.decode(errors="replace"), bytes=list(piece)) for key, piece in pieces]
    end = sorted(vocabulary.end_ids) if alone else [engine.union.end]
    return PieceList(model=model, data=found, end=end)
