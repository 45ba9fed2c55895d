"""Logits and maps into a union, as strategies."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays


@st.composite
def logits_and_maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    rows, width, size = draw(st.integers(1, 4)), draw(st.integers(1, 12)), draw(st.integers(1, 9))
    column_V = np.array(draw(st.lists(st.integers(-1, size - 1), min_size=width, max_size=width)), np.int32)
    column_V[draw(st.integers(0, width - 1))] = size - 1
    logits = draw(arrays.arrays(np.float32, (rows, width), elements=st.floats(-80, 80, width=32)))
    return logits, column_V, size
