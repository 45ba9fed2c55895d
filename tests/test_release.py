"""A release: its versions agree, the wheel holds what it should, and the commands of README.md are found."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from datetime import date
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = [each.split()[-1] for each in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", each)]


@pytest.fixture(autouse=True)
def _tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(into)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [made] = into.glob("*.whl")
    return made


def releases() -> list[tuple[str, str]]:
    """The versions of CHANGELOG.md, and what stands in brackets after them."""
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    found = [re.fullmatch(r"(\d+\.\d+\.\d+)(?: \((\d{4}-\d\d-\d\d)\))?", heading) for heading in headings[1:]]
    assert None not in found, headings
    return [(each[1], each[2] or "") for each in found if each]


def test_every_file_names_the_version_of_the_newest_release() -> None:
    version, day = releases()[0]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    image = re.findall(r'image\.version="(.+?)"', (ROOT / "Dockerfile").read_text())
    assert (PROJECT["version"], citation["version"], image) == (version, version, [version])
    assert citation["date-released"] == date.fromisoformat(day)
    assert (citation["license"], citation["title"].split(":")[0]) == (PROJECT["license"], PROJECT["name"])


def test_releases_are_told_from_the_newest_to_the_oldest() -> None:
    numbers = [tuple(map(int, version.split("."))) for version, _ in releases()]
    assert numbers == sorted(set(numbers), reverse=True)


def test_the_hosted_workflow_runs_the_pythons_that_the_package_names() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    matrix = workflow["jobs"]["fast"]["strategy"]["matrix"]
    assert matrix == {"os": ["ubuntu-latest", "macos-latest"], "python": PYTHONS}
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"


def test_the_image_is_made_of_files_that_reach_its_builder() -> None:
    """Of extras that there are, too."""
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    files = [file for line in copied for file in line.split()]
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(files) == sorted(let_through)
    assert all((ROOT / file).exists() for file in files)
    [extras] = re.findall(r"^ARG EXTRAS=(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()


of_checkout = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git does not know the files of an sdist")


@of_checkout
def test_the_wheel_holds_what_git_knows_of_the_package_and_nothing_else(wheel: Path) -> None:
    from distribution import tracked, wheel_faults

    assert wheel_faults(wheel, tracked(ROOT)) == []


@of_checkout
def test_what_a_wheel_lacks_or_should_not_hold_is_named(wheel: Path, tmp_path: Path) -> None:
    from distribution import tracked, wheel_faults

    spoilt = tmp_path / wheel.name
    lost = {"unisono/py.typed", "unisono/page/static/main.js"}
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(spoilt, "w") as archive:
        for name in whole.namelist():
            if name not in lost:
                content = whole.read(name)
                archive.writestr(name, content.replace(b"](docs/page.md)", b"](docs/absent.html)"))
        for name in ("tests/conftest.py", "unisono/__pycache__/errors.cpython-311.pyc"):
            archive.writestr(name, b"")
    assert wheel_faults(spoilt, tracked(ROOT)) == [
        f"{wheel.name} lacks unisono/page/static/main.js",
        f"{wheel.name} lacks unisono/py.typed",
        f"{wheel.name} holds tests/conftest.py, which git does not know",
        f"{wheel.name} holds unisono/__pycache__/errors.cpython-311.pyc, which git does not know",
        *["the description points to docs/absent.html, which is not in the sdist"] * 2,
    ]


def test_metadata_that_an_index_would_refuse_is_named() -> None:
    from distribution import metadata_faults

    text = "Metadata-Version: 2.4\nName: unisono\nVersion: 0.2.0\nDescription-Content-Type: text/markdown\n"
    told = metadata_faults(f"{text}\n# unisono\n<script>1</script>\n".encode(), "0.2.1", frozenset())
    assert told == [
        "the metadata says version 0.2.0, the file's name 0.2.1",
        "the description has HTML, of which an index keeps little: <script>1</script>",
    ]
    [told_of_licence] = metadata_faults(f"{text}License-Expression: None such\n\n# x\n".encode(), "0.2.0", frozenset())
    assert "license" in told_of_licence


def test_every_command_of_the_readme_is_one_that_make_dist_runs() -> None:
    from readme import snippets

    page = (ROOT / "README.md").read_text()
    found = snippets(page)
    shell = "\n".join(each.code for each in found if each.language == "sh")
    for line in re.findall(r"^(?:unisono|curl) .+$", "".join(page.split("```")[1::2]), re.MULTILINE):
        assert line in shell
    assert "make " not in shell
    python = [each for each in found if each.language == "python"]
    assert len(python) == page.count("```python\n")
    [server] = [each for each in found if each.serves]
    asking = [each for each in found if "8321" in each.code]
    assert len(asking) == 3
    assert {each.section for each in asking} == {server.section}
    assert asking[0] is server
