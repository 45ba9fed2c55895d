"""The engines, as long as the tests run. `make test-engines` installs them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import unisono
from support.engine_processes import ENGINES, GEMMA, SMOL, free_port, llama_server_command, running, worker_command
from unisono.config.demo import demo_path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "UNISONO_ENGINES" in os.environ:
        return
    skip = pytest.mark.skip(reason="the engines are not installed: make test-engines does it")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def llama_server() -> Iterator[str]:
    """The address of llama-server with SmolLM2."""
    port = free_port()
    with running(llama_server_command(port), f"http://127.0.0.1:{port}/health"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a worker with Gemma 3."""
    port = free_port()
    command = worker_command(tmp_path_factory.mktemp("worker"), port)
    with running(command, f"http://127.0.0.1:{port}/v1/member"):
        yield f"http://127.0.0.1:{port}"


def _as_folder(model: str, made: Path) -> Path:
    """A demo model as a folder of safetensors. A model that was read from GGUF cannot be saved itself."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = demo_path(model.removeprefix("demo:"))
    read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    del read.config.quantization_config  # its weights are whole by now
    fresh = AutoModelForCausalLM.from_config(read.config)
    fresh.load_state_dict(read.state_dict())
    fresh.save_pretrained(made)
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(made)
    return made


@pytest.fixture(scope="session")
def smol_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _as_folder(SMOL, tmp_path_factory.mktemp("smol"))


@pytest.fixture(scope="session")
def gemma_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _as_folder(GEMMA, tmp_path_factory.mktemp("gemma"))


PLUGIN = "[vllm.general_plugins]\nunisono = unisono.backends.vllm.plugin:register\n"


@pytest.fixture(scope="session")
def unisono_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where another Python finds this unisono as if it was installed there."""
    installed = tmp_path_factory.mktemp("installed")
    info = installed / "unisono-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: unisono\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(PLUGIN)
    return os.pathsep.join([str(Path(unisono.__file__).parents[1]), str(installed)])


@pytest.fixture(scope="session")
def vllm_python(unisono_path: str) -> Iterator[str]:
    """The Python of vLLM, whose processes find this unisono."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", unisono_path)
        yield str(ENGINES / "vllm" / "bin" / "python")
