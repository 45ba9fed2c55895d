"""Compile llama-cpp-python's wheel for this machine from its source archive.

    build_llama.py PYTHON WHEELS SHARE REQUIREMENT CONSTRAINTS

PYTHON is the interpreter whose pip is used. The wheel is put into the folder WHEELS when it is
complete; the vocabulary-only GGUF files and the chat templates that come with the source, which tests read
(tests/support), are put into SHARE/vocabularies and SHARE/chat-templates.
Prints only what the tools it runs print.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from llama_cmake_args import cmake_args
from unpacking import unpack


def main() -> None:
    python, wheels, share, requirement, constraints = sys.argv[1:]
    folder = Path(wheels)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".building-*"):
        shutil.rmtree(left)  # of a build that was killed
    with tempfile.TemporaryDirectory(prefix=".building-", dir=folder) as name:
        building = Path(name)
        pip = [python, "-m", "pip", "--disable-pip-version-check"]
        options = ["--no-deps", "--build-constraint", constraints, "-d", str(building)]
        _run([*pip, "download", "--no-binary", "llama-cpp-python", *options, requirement])
        (source,) = building.glob("*.tar.gz")
        unpack(source, Path(share, "vocabularies"), _is_vocabulary)
        unpack(source, Path(share, "chat-templates"), _is_template)
        if any(folder.glob("*.whl")):  # of an installation that had not all of these files
            return
        _run([*pip, "wheel", "-v", "--no-deps", "--build-constraint", constraints, "-w", str(building), str(source)])
        (wheel,) = building.glob("*.whl")
        os.replace(wheel, folder / wheel.name)


def _is_vocabulary(path: Path) -> bool:
    return path.name.startswith("ggml-vocab-") and path.suffix == ".gguf"


def _is_template(path: Path) -> bool:
    return path.suffix == ".jinja" and path.parent.name == "templates"


def _run(command: list[str]) -> None:
    cores = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    environment = {"CMAKE_BUILD_PARALLEL_LEVEL": cores, **os.environ, "CMAKE_ARGS": cmake_args()}
    print("+", " ".join(command), flush=True)
    finished = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False)
    if finished.returncode != 0:
        sys.exit(finished.returncode)


if __name__ == "__main__":
    main()
