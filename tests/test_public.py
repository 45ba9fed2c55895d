"""What users rely on by name, and what must stay light."""

from __future__ import annotations

import subprocess
import sys

import unisono


def test_the_public_names_are_these_and_no_others() -> None:
    assert unisono.__all__ == [
        "AsyncEnsemble",
        "Ensemble",
        "EnsembleSpec",
        "Generation",
        "Limits",
        "Method",
        "Prompt",
        "Request",
        "Sampling",
        "Score",
        "StepRecord",
        "Stream",
        "UnisonoError",
        "diagnose",
        "load_spec",
        "measure",
    ]
    assert all(hasattr(unisono, name) for name in unisono.__all__)


def test_neither_the_library_nor_the_help_imports_a_model_library() -> None:
    heavy = {"torch", "transformers", "tokenizers", "llama_cpp", "gguf", "accelerate", "safetensors", "scipy"}
    for module in ("unisono", "unisono.cli.main", "unisono.testing"):
        code = f"import sys, {module}; print(sorted({heavy!r} & sys.modules.keys()))"
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert shown.stdout.strip() == "[]", module
