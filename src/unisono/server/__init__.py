"""Servers in front of an ensemble; FastAPI is imported nowhere else."""
