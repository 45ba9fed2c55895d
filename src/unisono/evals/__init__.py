"""Evaluation: whether, where and by how much an ensemble beats its members."""
