"""Minima of functions, and what goes with them. The one file that imports scipy."""

from __future__ import annotations

from scipy.interpolate import CubicSpline as CubicSpline
from scipy.optimize import minimize as minimize
from scipy.special import expit as expit
from scipy.special import logsumexp as logsumexp
from scipy.special import xlogy as xlogy
from scipy.stats import rankdata as rankdata
