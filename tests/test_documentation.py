"""What the documentation points to is there, its commands are understood, and its ensemble files can be read."""

from __future__ import annotations

import importlib
import json
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import unisono.errors
import unisono.tools
import unisono.types
from unisono.cli.main import VERBS, load_verb
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
    verbs = {name: load_verb(name) for name in VERBS}
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
            assert verb in verbs, f"{page.name}: unisono {verb}"
            verbs[verb].make_context(verb, words)  # raises what is not understood


def test_every_page_is_in_the_site_and_every_page_of_the_site_is_there() -> None:
    """`make docs` finds it too, and whoever adds a page runs this first."""
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    named = set(re.findall(r"[\w./*-]+\.md", json.dumps(settings["nav"])))
    listed = {path for name in named for path in (ROOT / "docs").glob(name)}
    outside = {name for name in named if not list((ROOT / "docs").glob(name))}
    reports = set((ROOT / "docs").glob("results/*/report.md"))  # the results lead there
    assert listed | reports == {*(ROOT / "docs").rglob("*.md")}
    assert outside <= set(runpy.run_path(str(ROOT / "tools" / "site_pages.py"))["PAGES"].values())


def test_every_public_name_has_its_place_in_the_reference() -> None:
    told = {
        name for page in ROOT.glob("docs/reference/*.md") for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)
    }
    short = {name.rpartition(".")[2] for name in told}
    for module in (unisono, unisono.types, unisono.tools, unisono.errors):
        public = getattr(module, "__all__", None) or [name for name in vars(module) if name[0].isupper()]
        classes = {name for name in public if not name.isupper() and name not in ("Iterable", "Iterator", "Mapping")}
        assert classes <= short, f"{module.__name__}: {sorted(classes - short)}"


NAMED = re.compile(
    r"(?<![\w/.-])(?:src/unisono|tests|tools|benchmarks|docs|examples)/[\w./-]*\w\.(?:py|md|yaml|json|txt|cmake)\b"
)
GONE = {"benchmarks/spelling.py"}  # whose figures of then are still told


def test_what_is_said_of_flags_holds_for_those_verbs_and_no_others() -> None:
    """Of sentences of docs/command-line.md that list verbs: which they name, and which flag these have, or lack."""
    text = " ".join((ROOT / "docs" / "command-line.md").read_text().split())
    verbs = {name: load_verb(name) for name in VERBS if name != "member"}
    verbs["member serve"] = load_verb("member").commands["serve"]
    for flag, sentence, has in (
        ("--json", r"all but ([^.]*?) have `--json`", False),
        ("--member", r"\. ([^.]*?) take `-m`", True),
        ("--gate", r"say for ([^.]*?) how these members write", True),
    ):
        found = re.search(sentence, text)
        assert found, sentence
        named = set(re.findall(r"`([a-z -]+)`", found[1]))
        flags = {name: {each for param in verb.params for each in param.opts} for name, verb in verbs.items()}
        if flag == "--member":
            flags["member serve"] = set()  # whose flag of that name chooses one
        assert named == {name for name in verbs if (flag in flags[name]) == has}, flag


@pytest.mark.parametrize("folder", ["src", "tests", "tools", "benchmarks", "docs", ".ci", "."])
def test_files_that_are_named_in_passing_are_there(folder: str) -> None:
    """In comments, docstrings and prose too, where no link and no type checker looks."""
    inside = ROOT.glob("*") if folder == "." else (ROOT / folder).rglob("*")
    for path in sorted(inside):
        if path.is_file() and (path.suffix in {".py", ".md", ".toml"} or path.name in {"Makefile", "run"}):
            for name in NAMED.findall(path.read_text()):
                assert (ROOT / name).exists() or name in GONE, f"{path.relative_to(ROOT)} names {name}"


def test_every_room_is_on_the_map() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text()
    rooms = {path.stem for path in (ROOT / "src" / "unisono").iterdir() if path.suffix in ("", ".py")}
    lacking = {room for room in rooms if not room.startswith("__")} - set(re.findall(r"\w+", page))
    assert not lacking


@pytest.mark.parametrize(
    ("folder", "page"),
    [("engine", "engine.md"), ("chat", "chats.md"), ("backends", "backends.md"), ("server", "server.md")],
)
def test_every_file_of_a_folder_has_its_line_and_every_line_its_file(folder: str, page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    files = {path.stem for path in (ROOT / "src" / "unisono" / folder).rglob("*.py")} - {"__init__"}
    assert files <= set(re.findall(r"`(\w+)`", text))
    titles = {name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert titles <= files


def test_what_the_installation_reads_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is a stamp of an earlier installation it would only be missed by the next clean clone."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    install = importlib.import_module("install")
    tracked = [
        path for path in vars(install).values() if isinstance(path, Path) and install.VENV not in (path, *path.parents)
    ]
    assert install.DEMO_MODELS in tracked
    for path in tracked:
        assert path.exists(), path


def anchors(page: Path) -> set[str]:
    """Where a link can lead to within a page."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("spec", sorted(ROOT.glob("docs/results/*.yaml")), ids=lambda spec: spec.name)
def test_an_ensemble_of_the_results_can_be_read(spec: Path) -> None:
    assert load_spec(spec).members
