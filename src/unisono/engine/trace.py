"""What is kept of a step for the trace."""

from __future__ import annotations

import numpy as np
from array_api_compat import array_namespace

from unisono.engine.choosing import Said
from unisono.engine.window import Window
from unisono.fusion.fold import Array, bring
from unisono.types import DraftRecord, StepRecord
from unisono.vocab.union import UnionVocabulary

TOP_PIECES = 5
"""Likeliest pieces of each voter that a trace keeps, at most."""
TOP_MASS = 1e-3
"""Pieces of less mass are left out, but for the likeliest."""

_HOST = np.empty(0, np.float32)

TopPieces = tuple[tuple[bytes | None, float], ...]


def record(window: Window, position: int, column: int, said: Said, row: int, union: UnionVocabulary) -> None:
    """Keep the record of a choice, if the text has a trace; its time is known when the step has ended.

    Args:
        window: of the text.
        position: where in it the choice was made.
        column: what was chosen.
        said: what it was chosen by.
        row: of this text in it.
        union: the vocabulary of the columns.
    """
    if window.text.steps is None:
        return
    p_U_by_member = said.of(row)
    window.record(
        StepRecord(
            piece=union.piece(column),
            p=float(said.q_BU[row, column]),
            voted=tuple(p_U_by_member),
            members={name: float(p_U[column]) for name, p_U in p_U_by_member.items()},
            top={name: _top(p_U, union) for name, p_U in p_U_by_member.items()},
            gate=window.gates[position] if window.gates else None,
            draft=_draft_record(window, position, column, union),
        )
    )


def _draft_record(window: Window, position: int, column: int, union: UnionVocabulary) -> DraftRecord | None:
    if position >= window.last:
        return None
    piece = union.piece(window.drafted[position])
    assert piece is not None, "END is never drafted"
    return DraftRecord(str(window.drafter), piece, window.drafted[position] == column)


def _top(p_U: Array, union: UnionVocabulary) -> TopPieces:
    xp = array_namespace(p_U)
    found = xp.nonzero(p_U >= TOP_MASS)[0]
    if not len(found):
        found = xp.reshape(xp.argmax(p_U), (1,))
    columns, masses = bring(found, _HOST), bring(xp.take(p_U, found), _HOST)
    order = np.argsort(-masses, kind="stable")[:TOP_PIECES]
    return tuple((union.piece(int(columns[place])), float(masses[place])) for place in order)
