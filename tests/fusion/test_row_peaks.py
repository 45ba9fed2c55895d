"""Large entries of a row are found as reading it whole finds them."""

from __future__ import annotations

import numpy as np
import pytest

from unisono.fusion.row_peaks import SLICES, RowPeaks


@pytest.mark.parametrize("length", [1, 7, SLICES - 1, SLICES, SLICES + 1, 5 * SLICES + 3, 64 * SLICES + 1])
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 9.0])
def test_entries_are_those_of_the_row(length: int, sharpness: float) -> None:
    row_V = np.exp(sharpness * np.random.default_rng(length).normal(size=length)).astype(np.float32)
    row_V[-1] = row_V[0] = row_V.max()
    peaks = RowPeaks(row_V)
    assert peaks.largest == row_V.max()
    descending = np.sort(row_V)[::-1]
    for count in (1, 2, 10, 64, 65, 3000):
        if count <= length:
            bound = float(descending[count - 1])
            assert sorted(peaks.above(bound).tolist()) == np.flatnonzero(row_V >= bound).tolist()
            assert peaks.least_of_largest(count) <= bound
        else:
            assert peaks.least_of_largest(count) == 0
    if length > SLICES:
        assert peaks.least_of_largest(10) >= descending[50]
    assert not len(peaks.above(np.inf))


def test_what_is_no_number_is_the_largest_wherever_it_stands() -> None:
    for place in (0, SLICES, 2 * SLICES):
        row_V = np.zeros(2 * SLICES + 1, np.float32)
        row_V[place] = np.nan
        assert np.isnan(RowPeaks(row_V).largest)
