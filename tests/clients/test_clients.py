"""Clients as they come from the registry, each a program in an environment of its own, against the demo pair.

`UNISONO_CLIENTS` names the folder that `make test-clients` makes: an environment for each `requirements*.txt`, whose
versions are pinned, and `node_modules`. A program prints what it did as a line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from served import Served, serve
from support.demo import demo_spec
from support.tool_templates import TAGGED
from unisono.config.demo import demo_path

HERE = Path(__file__).parent
CLIENTS = Path(os.environ.get("UNISONO_CLIENTS", ""))
pytestmark = [
    pytest.mark.clients,
    pytest.mark.models,
    pytest.mark.skipif(
        "UNISONO_CLIENTS" not in os.environ, reason="the clients are not installed: make test-clients does it"
    ),
]
SECONDS = 240
"""For one client, on a busy machine."""
NEWEST, OPENAI_2 = "requirements", "requirements-openai2"
ENVIRONMENTS = {
    "openai": NEWEST, "agents": NEWEST, "agents_responses": NEWEST, "langchain": NEWEST, "pydantic_ai": NEWEST,
    "litellm": NEWEST, "llm": NEWEST,
    "llama_index": OPENAI_2, "instructor": OPENAI_2,
}  # fmt: skip
SETTINGS = {"PYTHONPATH": "", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "TOKENIZERS_PARALLELISM": "false"}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """The pair, with a chat template that knows tools for both."""
    members = [{**each, "chat_template": TAGGED} for each in demo_spec(backend="llamacpp", threads=1)["members"]]
    with serve({"members": members}) as running:
        yield running


def run(*command: str | Path) -> dict[str, object]:
    """Run a client; what it says that it did."""
    words = [*map(str, command)]
    done = subprocess.run(
        words, cwd=HERE, env={**os.environ, **SETTINGS}, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return said


def python(environment: str) -> Path:
    return CLIENTS / environment / "bin" / "python"


SLOW = {"pydantic_ai", "llama_index", "litellm", "langchain", "llm"}  # half a minute each, as lm-eval


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in ENVIRONMENTS]
)
def test_a_client_works_as_it_comes(name: str, served: Served) -> None:
    environment = ENVIRONMENTS[name]
    said = run(python(environment), HERE / f"client_{name}.py", f"{served.url}/v1")
    assert f"{said['client']}=={said['version']}" in pinned(f"{environment}.txt")


@pytest.mark.slow
def test_lm_eval_scores_a_member_and_asks_the_pair(served: Served, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    path = demo_path("smollm2-135m-instruct")
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(tmp_path)
    said = run(python(NEWEST), HERE / "client_lm_eval.py", f"{served.url}/v1", tmp_path)
    assert said["acc"] == 1.0


def test_the_ai_sdk_works_as_it_comes(served: Served, tmp_path: Path) -> None:
    modules = CLIENTS / "node_modules"
    if not modules.is_dir():
        pytest.skip("the npm packages are not installed: there was no npm")
    (tmp_path / "node_modules").symlink_to(modules)
    script = tmp_path / "client_ai_sdk.mjs"  # Node.js looks for packages beside it
    script.write_text((HERE / script.name).read_text())
    said = run("node", script, f"{served.url}/v1")
    assert f"ai@{said['version']}" in pinned("npm_packages.txt")


def pinned(file: str) -> list[str]:
    return [line.replace("[openai]", "") for line in (HERE / file).read_text().splitlines()]
