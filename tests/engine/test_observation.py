"""What is kept of members for fitting is what folding at each temperature gives, however unlikely a piece is."""

from __future__ import annotations

import numpy as np
import pytest

from unisono.engine.observation import _at_nodes, _calibrated, _plain
from unisono.fusion.calibration import Calibration
from unisono.fusion.fitting import NODES, NONE, Curves, Observed
from unisono.fusion.fold import fold, plan_fold

PLAN = plan_fold(np.array([0, 1, 1, 2, 3, -1], np.int32), 6)
"""Column 1 has two ids, column 4 none, and the mass of the last id is dropped."""


def test_a_piece_of_several_ids_that_is_hardly_possible_has_a_smooth_curve() -> None:
    logits_V = np.array([30, -8, -8, 29, 28, 31], np.float32)
    logp_T, logz_T = _plain(logits_V, PLAN, 1)
    x_V = logits_V[:5].astype(np.float64)
    exact_T = [np.logaddexp.reduce(t * x_V[1:3]) - np.logaddexp.reduce(t * x_V) for t in NODES]
    assert exact_T[NODES.index(1.0)] < -37
    np.testing.assert_allclose(logp_T, exact_T, rtol=1e-6)
    curves = Curves(Observed(logp_T[None, None], logz_T[None, None], np.ones(1)))
    for inverse in np.geomspace(NODES[0], NODES[-1], 40):
        exact = np.logaddexp.reduce(inverse * x_V[1:3]) - np.logaddexp.reduce(inverse * x_V)
        assert curves.logp(np.array([1 / inverse]))[0, 0] == pytest.approx(exact, abs=0.05)


def test_a_piece_without_ids_has_no_probability_and_all_others_have_some() -> None:
    logits_V = np.array([0, -600, -700, 1, 2, 3], np.float32)
    assert _plain(logits_V, PLAN, 4)[0].tolist() == [NONE] * len(NODES)
    assert _plain(logits_V, PLAN, 1)[0][-1] == pytest.approx(4 * -602, abs=2)


def test_calibrations_are_divided_in_logarithms_as_in_masses() -> None:
    calibration = Calibration((0, 1), (0.9, 0.1))
    logits_V = np.array([2, 0.5, 0.1, 1, 0, 5], np.float32)
    logp_CT = _calibrated(_at_nodes(logits_V, PLAN, calibration.columns)[0], calibration)
    for place, inverse in enumerate(NODES):
        plan = plan_fold(PLAN.column_V, 6, temperature=1 / inverse)
        p_BU = calibration(fold(logits_V[None], plan), [0])
        np.testing.assert_allclose(np.exp(logp_CT[:, place]), p_BU[0, :2], rtol=1e-5)
    hardly_V = np.array([-90, -95, -99, 1, 0, 5], np.float32)
    assert np.isfinite(_calibrated(_at_nodes(hardly_V, PLAN, calibration.columns)[0], calibration)).all()
    nothing_V = np.array([-np.inf, -np.inf, -np.inf, 1, 0, 5], np.float32)
    assert (_calibrated(_at_nodes(nothing_V, PLAN, calibration.columns)[0], calibration) == -np.inf).all()
