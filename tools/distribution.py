"""What a wheel and an sdist of unisono hold, and whether their metadata is valid."""

from __future__ import annotations

import subprocess
import tarfile
import zipfile
from pathlib import Path

from markdown_it import MarkdownIt
from packaging.metadata import Metadata
from packaging.utils import parse_sdist_filename, parse_wheel_filename

SOURCE = "src/"
"""What of the checkout is in the wheel, without this."""
INSTALLED = frozenset({"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"})
"""The files of a wheel's ``dist-info``."""
NEEDED = ("unisono/py.typed", "unisono/ordinary.txt", "unisono/page/static/index.html")
"""Read while the program runs; a wheel without them would only fail then."""


def tracked(root: Path) -> frozenset[str]:
    """The files of a checkout that git knows and that are there, by their paths from its root."""
    command = ["git", "-C", str(root), "ls-files", "-z"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    return frozenset(name for name in names if name and (root / name).is_file())


def wheel_faults(wheel: Path, files: frozenset[str]) -> list[str]:
    """What is wrong with a wheel of a checkout that has ``files``, in words; nothing where it is right."""
    name, version, _, _ = parse_wheel_filename(wheel.name)
    info = f"{name}-{version}.dist-info/"
    with zipfile.ZipFile(wheel) as archive:
        held = archive.namelist()
        metadata = archive.read(f"{info}METADATA") if f"{info}METADATA" in held else b""
    of_package = {path.removeprefix(SOURCE) for path in files if path.startswith(SOURCE)}
    wanted = {*of_package, *NEEDED, *(info + file for file in INSTALLED)}
    return [*_differences(wheel.name, held, wanted), *metadata_faults(metadata, str(version), files)]


def sdist_faults(sdist: Path, files: frozenset[str]) -> list[str]:
    """What is wrong with an sdist, as `wheel_faults`: it holds what git knows, and nothing else."""
    name, version = parse_sdist_filename(sdist.name)
    top = f"{name}-{version}/"
    with tarfile.open(sdist) as archive:
        held = [member.name for member in archive if not member.isdir()]
        inside = archive.extractfile(f"{top}PKG-INFO") if f"{top}PKG-INFO" in held else None
        metadata = inside.read() if inside else b""
    wanted = {top + path for path in {*files, "PKG-INFO"}}
    return [*_differences(sdist.name, held, wanted), *metadata_faults(metadata, str(version), files)]


def _differences(archive: str, held: list[str], wanted: set[str]) -> list[str]:
    faults = [f"{archive} lacks {path}" for path in sorted(wanted - set(held))]
    faults += [f"{archive} holds {path}, which git does not know" for path in sorted(set(held) - wanted)]
    return faults + [
        f"{archive} holds {path} twice" for path in sorted({path for path in held if held.count(path) > 1})
    ]


def metadata_faults(metadata: bytes, version: str, files: frozenset[str]) -> list[str]:
    """What an index would refuse of the metadata, and what of its description would not be shown as it is meant."""
    try:
        read = Metadata.from_email(metadata, validate=True)
    except ExceptionGroup as group:
        return [f"the metadata: {error}" for error in group.exceptions]
    faults = []
    if str(read.version) != version:
        faults.append(f"the metadata says version {read.version}, the file's name {version}")
    if read.description_content_type != "text/markdown":
        faults.append(f"the description is {read.description_content_type}, not text/markdown")
    return [*faults, *_description_faults(read.description or "", files)]


def _description_faults(description: str, files: frozenset[str]) -> list[str]:
    """Renders CommonMark with tables, as package indexes do."""
    faults = []
    headings = 0
    for token in MarkdownIt("commonmark").enable("table").parse(description):
        headings += token.type == "heading_open"
        for each in (token, *(token.children or ())):
            if each.type in ("html_block", "html_inline"):
                faults.append(f"the description has HTML, of which an index keeps little: {each.content.strip()}")
            target = str(each.attrs.get("href" if each.type == "link_open" else "src") or "")
            path = target.partition("#")[0]
            if each.type in ("link_open", "image") and "://" not in target and not _is_there(path, files):
                faults.append(f"the description points to {target}, which is not in the sdist")
    return faults if headings else [*faults, "the description has no heading"]


def _is_there(path: str, files: frozenset[str]) -> bool:
    return not path or path in files or any(file.startswith(f"{path.rstrip('/')}/") for file in files)
