"""Which pieces a text is made of, under the ids that ``logit_bias`` takes."""

from __future__ import annotations

from unisono.engine.engine import Engine
from unisono.engine.plan import lead_of
from unisono.records import is_unicode
from unisono.server.errors import Refusal
from unisono.server.requests import is_alone
from unisono.server.schemas import Piece, PieceList
from unisono.vocab.union import ABSENT


def pieces_of(text: str, model: str, engine: Engine) -> PieceList:
    """Cut a text as the lead's tokenizer does.

    Ids are columns of the union, or, for a member alone, its own. Raises a `Refusal`.
    """
    if not is_unicode(text):
        raise Refusal(400, "the text has a lone surrogate", param="text", code="invalid_value")
    lead = lead_of(engine.method, engine.members)
    vocabulary = lead.speller.vocabulary
    ids = lead.speller.own_encoding(text.encode()) or lead.speller.longest_match(text.encode()) or ()
    column_V = lead.map.column_V
    if (text and not ids) or any(column_V[token] == ABSENT for token in ids):
        raise Refusal(400, "the text has bytes that a member cannot write", param="text", code="invalid_value")
    alone = is_alone(model)
    found = []
    for token in ids:
        piece = vocabulary.pieces[token]
        assert piece is not None
        found.append(
            Piece(id=token if alone else int(column_V[token]), text=piece.decode(errors="replace"), bytes=list(piece))
        )
    end = sorted(vocabulary.end_ids) if alone else [engine.union.end]
    return PieceList(model=model, data=found, end=end)
