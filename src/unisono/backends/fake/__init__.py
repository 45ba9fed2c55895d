"""Scripted models for tests."""
