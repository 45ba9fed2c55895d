"""What is kept of a step for the trace."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from array_api_compat import array_namespace

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


def step_record(
    window: Window,
    position: int,
    column: int,
    p: float,
    p_U_by_member: Mapping[str, Array],
    union: UnionVocabulary,
) -> StepRecord:
    """The record of a choice, but for its time, which is known when the step has ended.

    Args:
        window: of the text.
        position: where in it the choice was made.
        column: what was chosen.
        p: its mass in what it was chosen from.
        p_U_by_member: the voters' distributions.
        union: the vocabulary of the columns.
    """
    return StepRecord(
        piece=union.piece(column),
        p=p,
        voted=tuple(p_U_by_member),
        members={name: float(p_U[column]) for name, p_U in p_U_by_member.items()},
        top={name: _top(p_U, union) for name, p_U in p_U_by_member.items()},
        gate=window.gates[position] if window.gates else None,
        draft=_draft_record(window, position, column, union),
    )


def _draft_record(window: Window, position: int, column: int, union: UnionVocabulary) -> DraftRecord | None:
    if position >= window.last:
        return None
    piece = union.piece(window.drafted[position])
    assert piece is not None, "END is never drafted"
    return DraftRecord(str(window.drafter), piece, window.drafted[position] == column)


def _top(p_U: Array, union: UnionVocabulary) -> TopPieces:
    xp = array_namespace(p_U)
    columns = bring(xp.nonzero(p_U >= TOP_MASS)[0], _HOST)
    if not len(columns):
        columns = np.asarray([int(xp.argmax(p_U))])
    masses = np.asarray([float(p_U[int(column)]) for column in columns])
    order = np.argsort(-masses, kind="stable")[:TOP_PIECES]
    return tuple((union.piece(int(columns[place])), float(masses[place])) for place in order)
