"""The user's cache folder: written atomically, so that a reader never meets a half-written entry.

Entries are built under a temporary name in the same folder and renamed when complete. Where two processes want one
entry at once, `build_once` lets one wait for the other, and with `replace_file` the last one stays. Everything here can
be deleted at any time; it is made again when needed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import platformdirs

from unisono.errors import CacheError

ENVIRONMENT_KEY = "UNISONO_CACHE"


def cache_root() -> Path:
    """The folder that holds all entries: ``$UNISONO_CACHE``, or the platform's cache folder."""
    chosen = os.environ.get(ENVIRONMENT_KEY)
    return Path(os.path.expanduser(chosen)) if chosen else platformdirs.user_cache_path("unisono")


def require_space(folder: Path, size: int, what: str) -> None:
    """Raise a `CacheError` where the file system of ``folder`` has less than ``size`` bytes free."""
    with _cache_errors(folder, what):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    if free < size:
        raise CacheError(
            f"{what} needs {size / 1e6:,.0f} MB in {folder}, which has {free / 1e6:,.0f} MB free",
            hint=f"free some space, or set {ENVIRONMENT_KEY} to a folder on a larger disk",
        )


def build_once(path: Path, build: Callable[[Path], None], what: str) -> Path:
    """Return ``path``, after ``build`` has made it, a file or a folder, at the temporary path that it is given.

    ``what`` names the entry in errors. Raises a `CacheError` where the folder cannot be written or the disk is full.
    """
    if path.exists():
        return path
    with _cache_errors(path.parent, what):
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{path}.lock"):
            if not path.exists():  # no other process has built it meanwhile
                for left in path.parent.glob(f".{path.name}.*"):  # of a process that was killed: we hold the lock
                    shutil.rmtree(left, ignore_errors=True)
                _write(path, build)
    return path


def replace_file(path: Path, build: Callable[[Path], None], what: str) -> None:
    """Write ``path`` anew, whatever is there: readers see the old file or the new one, never a mixture."""
    with _cache_errors(path.parent, what):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, build)


def _write(path: Path, build: Callable[[Path], None]) -> None:
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        build(holder / path.name)
        os.replace(holder / path.name, path)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


@contextlib.contextmanager
def _cache_errors(folder: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            problem, way_out = "the disk is full", "free some space"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
            problem, way_out = f"it cannot be written ({error.strerror})", "check its permissions"
        else:
            raise
        raise CacheError(
            f"cannot keep {what} in {folder}: {problem}",
            hint=f"{way_out}, or set {ENVIRONMENT_KEY} to another folder",
        ) from error
