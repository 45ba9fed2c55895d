"""Compile llama-cpp-python's wheel for this machine from its source archive.

    build_llama.py PYTHON WHEELS VOCABULARIES REQUIREMENT CONSTRAINTS

PYTHON is the interpreter whose pip is used. The wheel is put into the folder WHEELS when it is
complete, and the vocabulary-only GGUF files that come with the source into the folder VOCABULARIES.
Prints only what the tools it runs print.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from llama_cmake_args import cmake_args


def main() -> None:
    python, wheels, vocabularies, requirement, constraints = sys.argv[1:]
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
        _unpack_vocabularies(source, Path(vocabularies))
        _run([*pip, "wheel", "-v", "--no-deps", "--build-constraint", constraints, "-w", str(building), str(source)])
        (wheel,) = building.glob("*.whl")
        os.replace(wheel, folder / wheel.name)


def _unpack_vocabularies(source: Path, folder: Path) -> None:
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        unpacked = Path(name, folder.name)
        unpacked.mkdir()
        with tarfile.open(source) as archive:
            for member in archive:
                file_name = Path(member.name).name
                content = archive.extractfile(member) if file_name.startswith("ggml-vocab-") else None
                if content is not None and file_name.endswith(".gguf"):
                    with (unpacked / file_name).open("wb") as file:
                        shutil.copyfileobj(content, file)
        os.rename(unpacked, folder)


def _run(command: list[str]) -> None:
    cores = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    environment = {"CMAKE_BUILD_PARALLEL_LEVEL": cores, **os.environ, "CMAKE_ARGS": cmake_args()}
    print("+", " ".join(command), flush=True)
    finished = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False)
    if finished.returncode != 0:
        sys.exit(finished.returncode)


if __name__ == "__main__":
    main()
