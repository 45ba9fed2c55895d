"""What is kept of a step for the trace."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from array_api_compat import array_namespace

from unisono.fusion.fold import Array, bring
from unisono.vocab.union import UnionVocabulary

TOP_PIECES = 5
"""Likeliest pieces of each voter that a trace keeps, at most."""
TOP_MASS = 1e-3
"""Pieces of less mass are left out, but for the likeliest."""

_HOST = np.empty(0, np.float32)


TopPieces = tuple[tuple[bytes | None, float], ...]


def top_pieces(p_U_by_member: Mapping[str, Array], union: UnionVocabulary) -> dict[str, TopPieces]:
    """Each voter's likeliest pieces with their masses, the likeliest first."""
    return {name: _top(p_U, union) for name, p_U in p_U_by_member.items()}


def _top(p_U: Array, union: UnionVocabulary) -> TopPieces:
    xp = array_namespace(p_U)
    columns = bring(xp.nonzero(p_U >= TOP_MASS)[0], _HOST)
    if not len(columns):
        columns = np.asarray([int(xp.argmax(p_U))])
    masses = np.asarray([float(p_U[int(column)]) for column in columns])
    order = np.argsort(-masses, kind="stable")[:TOP_PIECES]
    return tuple((union.piece(int(columns[place])), float(masses[place])) for place in order)
