"""The installation's tools: how llama.cpp is compiled, and that the pins are complete."""

from __future__ import annotations

import itertools
import runpy
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent

AMX_SERVER = (
    "flags : sse4_2 avx avx2 bmi2 fma f16c avx_vnni avx512f avx512cd avx512bw avx512dq avx512vl avx512vbmi "
    "avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8"
)


@pytest.fixture(scope="module")
def llama_cmake_args() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "tools" / "llama_cmake_args.py"))


def processor_args(tool: dict[str, Any], cpuinfo: str) -> list[str]:
    args: Callable[[set[str]], list[str]] = tool["_processor_args"]
    return args(tool["_processor_flags"](cpuinfo))


def test_amx_is_never_compiled_in_but_everything_else_is(llama_cmake_args: dict[str, Any]) -> None:
    args = processor_args(llama_cmake_args, AMX_SERVER)
    assert "-DGGML_NATIVE=OFF" in args
    assert {arg for arg in args if "AMX" in arg} == {f"-DGGML_AMX_{kind}=OFF" for kind in ("TILE", "INT8", "BF16")}
    assert {"-DGGML_AVX2=ON", "-DGGML_AVX512=ON", "-DGGML_AVX512_BF16=ON"} <= set(args)


def test_a_feature_that_the_processor_lacks_is_off(llama_cmake_args: dict[str, Any]) -> None:
    args = processor_args(llama_cmake_args, "flags : sse4_2 avx avx2 bmi2 fma f16c avx512f")
    assert {"-DGGML_AVX2=ON", "-DGGML_AVX512=OFF", "-DGGML_AVX_VNNI=OFF"} <= set(args)


def test_the_users_own_arguments_come_last(llama_cmake_args: dict[str, Any]) -> None:
    args = shlex.split(llama_cmake_args["cmake_args"]({"CMAKE_ARGS": "-DGGML_AVX512=OFF -DGGML_CUDA=ON"}))
    assert args[-2:] == ["-DGGML_AVX512=OFF", "-DGGML_CUDA=ON"]


def test_every_dependency_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0] for line in lines if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    names = {
        requirement.split(">=")[0].split("[")[0] for requirement in wanted if not requirement.startswith("unisono")
    }
    assert names <= pinned
    of_ray = (ROOT / "tests" / "engines" / "requirements-ray.txt").read_text().replace("[serve]", "").splitlines()
    assert {line for line in of_ray if "==" in line} <= set(lines)  # an environment of its own, of the same versions


def test_an_old_python_is_refused_before_anything_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    monkeypatch.syspath_prepend(tmp_path / "tools")
    install = runpy.run_path(str(tmp_path / "tools" / "install.py"))
    assert project["requires-python"] == ">=" + ".".join(map(str, install["OLDEST"]))
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    monkeypatch.setattr(sys, "argv", ["install.py", "tests"])
    with pytest.raises(SystemExit, match=r"unisono needs 3\.11 or newer; name one: make PYTHON="):
        install["main"]()
    assert not (tmp_path / ".venv").exists()


def test_links_of_the_repository_lead_to_pages_of_the_site() -> None:
    site = runpy.run_path(str(ROOT / "tools" / "site_pages.py"))
    link = site["_link"]
    assert link("docs/page.md", "README.md", "index.md") == "page.md"
    assert link("../benchmarks/README.md", "docs/spec.md", "spec.md") == "benchmarks.md"
    assert link("../README.md", "docs/start.md", "start.md") == "index.md"
    assert link("../docs/adr/0005-packed-weights-on-the-cpu.md", "benchmarks/README.md", "benchmarks.md").startswith(
        "adr/"
    )
    assert link("../../benchmarks/README.md", "docs/results/README.md", "results/README.md") == "../benchmarks.md"
    assert link("../examples/tools.py", "docs/python.md", "python.md") == "examples/tools.py"
    assert not site["LOADED"].search('<a href="https://docs.ray.io">Ray</a><script src="assets/a.js"></script>')
    for loaded in (
        '<script src="https://a.example/a.js">',
        "<link rel=x href=//a.example/a.css>",
        '<img src="http://a.example">',
    ):
        assert site["LOADED"].search(loaded), loaded
