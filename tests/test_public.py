"""What users rely on by name, and what must stay light."""

from __future__ import annotations

import subprocess
import sys

import pytest

import unisono
from unisono.cli.main import VERBS, load_verb


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


def test_the_help_reads_none_of_its_verbs() -> None:
    """It answers in under a second, as a list of verbs; each is imported when it is asked for."""
    code = "import sys, unisono.cli.main as m; m.app(['--help'], standalone_mode=False); print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(shown.stdout.splitlines()[-1].split())
    assert "unisono.cli.main" in modules
    assert not {name for name in modules if name.partition(".")[0] in ("numpy", "pydantic", "yaml", "httpx")}
    assert {name.removeprefix("unisono.cli.") for name in modules if name.startswith("unisono.cli.")} <= {
        "main",
        "console",
    }


@pytest.mark.parametrize("name", VERBS)
def test_the_help_of_a_verb_begins_as_in_the_list(name: str) -> None:
    first, *_ = load_verb(name).help.split("\n\n")
    assert " ".join(first.split()) == VERBS[name]
