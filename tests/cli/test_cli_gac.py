"""``unisono import-gac``, in this process."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from support.command_line import Run
from unisono.config.ensemble import load_spec

CONFIG = """\
NORM_TYPE_API_SERVER: 'score'
THRESHOLD_API_SERVER: 0.5
CONFIG_API_SERVER:
  - weight: 'org/a'
    max_memory: {0: '24GiB'}
    num_gpus: 1
    name: 'a'
    score: 60
    priority: 'primary'
    quantization: 'none'
  - {weight: 'org/b', max_memory: {0: '24GiB'}, num_gpus: 1, name: 'b', score: 40, priority: 'supportive'}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "gac.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def test_the_ensemble_goes_to_stdout_and_the_notes_to_stderr(run: Run, config: Path, tmp_path: Path) -> None:
    shown = run("import-gac", config)
    assert shown.code == 0
    ours = tmp_path / "ours.yaml"
    ours.write_text(shown.out, encoding="utf-8")
    spec = load_spec(ours)
    assert [(m.name, m.weight, m.device) for m in spec.members] == [("a", 60, "cuda:0"), ("b", 40, "cuda:1")]
    assert (spec.lead, str(spec.gate)) == ("a", "confidence:0.5")
    assert shown.err.startswith(
        "note: CONFIG_API_SERVER[0].max_memory, CONFIG_API_SERVER[1].max_memory (lines 5, 11): "
    )
    assert len(shown.err.splitlines()) == 1


def test_the_ensemble_goes_to_a_file_that_is_not_replaced_unasked(run: Run, config: Path, tmp_path: Path) -> None:
    ours = tmp_path / "ours.yaml"
    shown = run("import-gac", config, "--out", ours)
    assert (shown.code, shown.out) == (0, "")
    assert ours.read_text(encoding="utf-8") == run("import-gac", config).out
    ours.write_text("mine", encoding="utf-8")
    refused = run("import-gac", config, "--out", ours)
    assert refused.code == 2
    assert "is there already" in refused.err
    assert "--overwrite" in refused.err
    assert ours.read_text(encoding="utf-8") == "mine"
    assert run("import-gac", config, "--out", ours, "--overwrite").code == 0
    assert load_spec(ours).lead == "a"


def test_json_has_the_spec_and_the_notes(run: Run, config: Path, tmp_path: Path) -> None:
    shown = run("import-gac", config, "--json", "--out", tmp_path / "ours.yaml")
    (record,) = shown.lines()
    assert load_spec(record["spec"]).members == load_spec(tmp_path / "ours.yaml").members
    (note,) = record["notes"]
    assert note["keys"] == ["CONFIG_API_SERVER[0].max_memory", "CONFIG_API_SERVER[1].max_memory"]
    assert note["lines"] == [5, 11]
    assert note["why"].startswith("no counterpart")


def test_mistakes_end_with_status_2_and_their_place(run: Run, config: Path, tmp_path: Path) -> None:
    config.write_text(CONFIG.replace("primary", "first"), encoding="utf-8")
    shown = run("import-gac", config)
    assert (shown.code, shown.out) == (2, "")
    assert "line 9, column 5: CONFIG_API_SERVER[0].priority is 'first'" in shown.err
    missing = run("import-gac", tmp_path / "none.yaml")
    assert (missing.code, "there is no configuration" in missing.err) == (2, True)
    config.write_bytes(b"\xff")
    assert "cannot read" in run("import-gac", config).err
    config.write_text(CONFIG, encoding="utf-8")
    nowhere = run("import-gac", config, "--out", tmp_path / "no" / "folder.yaml")
    assert (nowhere.code, "cannot write" in nowhere.err) == (2, True)


def test_the_documentation_shows_what_comes_out(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "from-gac.md").read_text(encoding="utf-8")
    theirs, ours = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    command, doctor = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)[0].splitlines()
    monkeypatch.chdir(tmp_path)
    Path("gac.yaml").write_text(theirs, encoding="utf-8")
    assert run(*shlex.split(command)[1:]).code == 0
    made = Path("ensemble.yaml").read_text(encoding="utf-8")
    assert made[made.index("members:") :] == ours.removeprefix("# ensemble.yaml\n")
    assert doctor == "unisono doctor ensemble.yaml"
    assert load_spec("ensemble.yaml").lead == "SOLAR-10.7B-Instruct-v1.0"
