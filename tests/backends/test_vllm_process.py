"""The process of a member in vLLM: what it says when it cannot load, and that it ends with its parent."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from unisono.backends.base import LoadRequest, ModelFacts, ModelSource
from unisono.backends.options import VllmOptions
from unisono.backends.vllm.process import MemberProcess, start_backend
from unisono.errors import ModelError, SpecError

FACTS = ModelFacts("none", 40, None, 60, 61, 0, 0, "float32", "vllm")


def start(tmp_path: Path, python: str, model: str = "nowhere") -> None:
    options = {"python": python, "enforce_eager": True}
    request = LoadRequest("smol", ModelSource("folder", str(tmp_path / model)), "float32", threads=1, options=options)
    start_backend(request, VllmOptions.read(request), FACTS, lambda fraction, words: None)


def test_what_the_process_says_is_the_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the model of member 'smol', '.*nowhere', does not exist"):
        start(tmp_path, sys.executable)


def test_a_program_that_is_no_python_of_unisono_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"options\.python is '.*, which cannot be started: No such file"):
        start(tmp_path, str(tmp_path / "none"))
    with pytest.raises(ModelError, match="ended with status 1 before its model was loaded: it said nothing"):
        start(tmp_path, str(shutil.which("false")))


def test_the_process_ends_with_its_input(tmp_path: Path) -> None:
    program = tmp_path / "child"
    program.write_text("#!/bin/sh\necho '{\"ready\": true}'\nexec cat > /dev/null\n")
    program.chmod(0o755)
    process = MemberProcess("smol", str(program), {"member": {}, "slots": 1, "token": "t"})
    process.wait(lambda fraction, words: None)
    process.end()
    process.end()
    assert process.status == 0
