"""Print constraints.txt anew from what is installed: run it with the Python whose versions to pin.

    .venv/bin/python tools/pin.py > constraints.new && mv constraints.new constraints.txt

Pinned are the packages that unisono and its extras need, directly or not, and nothing else that
happens to be installed. What building needs is not installed, so those lines are kept as they are.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
BUILD_HEADING = "# For building:"
HEADING = """\
# The one set of versions that unisono is tested with. `make` installs exactly these.
# Written by tools/pin.py; what follows the heading of what building needs is kept by hand.
"""


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    versions = {"pip": distribution("pip").version}
    kept = CONSTRAINTS.read_text().partition(BUILD_HEADING)[2] if CONSTRAINTS.is_file() else "\n"
    by_hand = {line.partition("==")[0] for line in kept.splitlines() if "==" in line}
    for requirement in map(Requirement, wanted):
        if requirement.name != project["name"] and requirement.name not in by_hand:
            _collect(requirement, versions, set())
    print(HEADING)
    for name in sorted(versions):
        print(f"{name}=={versions[name].partition('+')[0]}")  # 2.13.0+cpu is 2.13.0 elsewhere
    print(f"\n{BUILD_HEADING}{kept}", end="")


def _collect(requirement: Requirement, versions: dict[str, str], seen: set[tuple[str, str]]) -> None:
    """Add a requirement and all that it needs here, extra by extra."""
    name = re.sub(r"[-_.]+", "-", requirement.name).lower()
    for extra in {"", *requirement.extras}:
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            raise SystemExit(f"pin.py: {name} is not installed in this environment") from None
        versions[name] = installed.version
        for needed in map(Requirement, installed.requires or []):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                _collect(needed, versions, seen)


if __name__ == "__main__":
    main()
