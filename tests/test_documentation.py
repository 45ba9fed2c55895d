"""What the documentation points to is there, and the ensemble files beside its results can be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from unisono.spec import load_spec

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_points_to_is_there(page: Path) -> None:
    for link in LINK.findall(BLOCK.sub("", page.read_text())):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} points to {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} points to {link}"


def anchors(page: Path) -> set[str]:
    """Where a link can lead to within a page."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("spec", sorted(ROOT.glob("docs/results/*.yaml")), ids=lambda spec: spec.name)
def test_an_ensemble_of_the_results_can_be_read(spec: Path) -> None:
    assert load_spec(spec).members
