"""Analyses of answers: statistics, model matching, and tuning."""
