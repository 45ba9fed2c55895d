"""Fitting members to reference answers, and what the fit is worth."""
