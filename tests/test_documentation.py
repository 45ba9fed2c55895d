"""What the documentation points to is there, its commands are understood, and its ensemble files can be read."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from unisono.cli.main import app
from unisono.config.ensemble import load_spec

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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_are_understood(page: Path, tmp_path: Path) -> None:
    """Each is taken apart by a shell that finds no program, and then by the verb that it names, which is not run."""
    verbs = get_command(app)
    blocks = [match[0].split("\n", 1)[1].rsplit("\n", 1)[0] for match in BLOCK.finditer(page.read_text())]
    for block in (block for block in blocks if re.search(r"^(.*[|(;] *)?unisono ", block, re.MULTILINE)):
        heard = tmp_path / "heard"
        heard.write_bytes(b"")
        script = f"unisono() {{ printf '%s\\0' \"$@\" >> {heard}; printf '\\1' >> {heard}; }}\nPATH=\n{block}"
        bash = shutil.which("bash")
        assert bash is not None
        subprocess.run([bash, "--norc", "-c", script], cwd=tmp_path, capture_output=True, check=False)
        for call in heard.read_bytes().split(b"\1")[:-1]:
            verb, *words = call.decode().split("\0")[:-1]
            assert verb in verbs.commands, f"{page.name}: unisono {verb}"
            verbs.commands[verb].make_context(verb, words)  # raises what is not understood


def anchors(page: Path) -> set[str]:
    """Where a link can lead to within a page."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("spec", sorted(ROOT.glob("docs/results/*.yaml")), ids=lambda spec: spec.name)
def test_an_ensemble_of_the_results_can_be_read(spec: Path) -> None:
    assert load_spec(spec).members
