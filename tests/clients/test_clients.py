"""Clients as they come from the registry, each a program in an environment of its own, against the demo pair.

`UNISONO_CLIENTS` names the environment (a folder with `bin/python`, and `node_modules` for JavaScript); a client that
it lacks is skipped. `constraints-clients.txt` pins the versions.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from served import Served, serve
from support.demo import demo_spec
from support.tool_templates import TAGGED

pytestmark = [pytest.mark.models, pytest.mark.clients]

HERE = Path(__file__).parent
CLIENTS = Path(os.environ.get("UNISONO_CLIENTS", HERE.parents[1] / ".venv-clients"))
MODULES = {
    "openai": "openai",
    "agents": "agents",
    "langchain": "langchain_openai",
    "pydantic_ai": "pydantic_ai",
    "litellm": "litellm",
    "llama_index": "llama_index.llms.openai_like",
    "instructor": "instructor",
    "llm": "llm",
}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    members = [{**each, "chat_template": TAGGED} for each in demo_spec(backend="llamacpp", threads=1)["members"]]
    with serve({"members": members}) as running:
        yield running


def run(*command: str | Path, folder: Path = HERE) -> None:
    settings = {"PYTHONPATH": "", "OPENAI_AGENTS_DISABLE_TRACING": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]


def python_with(module: str) -> Path:
    """The environment's Python, if it has a module."""
    python = CLIENTS / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no clients in {CLIENTS}: make test-clients installs them")
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    if subprocess.run([python, "-c", look], capture_output=True).returncode:
        pytest.skip(f"{CLIENTS} lacks {module}")
    return python


@pytest.mark.parametrize("name", MODULES)
def test_a_client_works_as_it_comes(name: str, request: pytest.FixtureRequest) -> None:
    python = python_with(MODULES[name])
    run(python, HERE / f"client_{name}.py", f"{request.getfixturevalue('served').url}/v1")


def test_the_ai_sdk_works_as_it_comes(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    modules = CLIENTS / "node_modules"
    if not (modules / "@ai-sdk" / "openai-compatible").exists():
        pytest.skip(f"{CLIENTS} lacks the npm packages ai and @ai-sdk/openai-compatible")
    (tmp_path / "node_modules").symlink_to(modules)
    script = tmp_path / "client_ai_sdk.mjs"
    script.write_text((HERE / script.name).read_text())
    run("node", script, f"{request.getfixturevalue('served').url}/v1", folder=tmp_path)
