"""How many host threads a member uses, and how long they spin at a barrier.

A spinning thread occupies a core that the thread it waits for may need. GNU OpenMP spins for 300,000 rounds, which are
milliseconds. Far fewer are as fast on an idle machine and faster on a busy one (benchmarks/README.md). The thread count
depends on cores and quota, never on load, because it slightly affects a model's numbers.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Collection, Iterator, MutableMapping
from pathlib import Path

ROOT = Path("/")
FEW_CORES = 4
"""The spin bounds were measured on two cores. Above this many cores the library's default applies."""
THEIRS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
_waiting = "as its library lets them"


def free_threads(root: Path = ROOT) -> int:
    """The physical cores available to this process, within its CPU quota."""
    return within_quota(_cores(usable_cores(), root), root)


def within_quota(count: int, root: Path = ROOT) -> int:
    quota = cpu_quota(root)
    return count if quota is None else max(1, min(count, int(quota)))


def usable_cores() -> Collection[int]:
    return os.sched_getaffinity(0) if sys.platform == "linux" else range(os.cpu_count() or 1)


def cpu_quota(root: Path = ROOT) -> float | None:
    """The CPU quota of this process's control groups, in cores; ``None`` for no limit."""
    found = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, place = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            inside = Path(place.lstrip("/"))  # within a container perhaps the host's: its own group is the mount's root
            mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
            found += [_group_quota(mount / each) for each in (inside, *inside.parents)]
    return min((each for each in found if each is not None), default=None)


def _group_quota(group: Path) -> float | None:
    """A single group's limit: cgroup v2 (``max`` for none) or v1 (-1 for none)."""
    words = (_read(group / "cpu.max") or _read(group / "cpu.cfs_quota_us") + _read(group / "cpu.cfs_period_us")).split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and all(word.isdecimal() for word in words) else None


def _cores(usable: Collection[int], root: Path) -> int:
    siblings = (root / f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list" for core in usable)
    return len({_read(file).strip() or str(file) for file in siblings}) or 1


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


@contextlib.contextmanager
def bounded_spin(rounds: int | None, environment: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """Within this context GNU OpenMP, if it loads, spins for ``rounds``, unless the user has set a limit."""
    global _waiting
    if named := next((name for name in THEIRS if name in environment), None):
        _waiting = f"as {named}={environment[named]} says"
        yield
        return
    loaded = "/libgomp.so.1" in _read(ROOT / "proc/self/maps")
    if rounds and not loaded and _rounds_are_known() and free_threads() <= FEW_CORES:
        _waiting = f"for {rounds:,} rounds, then sleep"
        environment["GOMP_SPINCOUNT"] = str(rounds)
    try:
        yield
    finally:
        environment.pop("GOMP_SPINCOUNT", None)


def _rounds_are_known() -> bool:
    """Whether a spin round takes about as long as where it was measured: x86's ``pause``."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def told(count: int, *, asked: bool, openmp: bool = True) -> str:
    """Describe a member's host threads: their number, its origin, and how they wait."""
    cores, quota = len(usable_cores()), cpu_quota()
    limit = "" if quota is None else f", quota {quota:g}"
    waiting = "" if count == 1 else f", which spin {_waiting if openmp else 'without bound'}, while they wait"
    return f"{count}{' as asked' if asked else ''} ({cores} cores{limit}){waiting}"
