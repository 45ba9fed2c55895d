"""What adapters as members cost and are worth; each of these does one comparison, from training to the report:

    adapted.py speed                     three adapters of one base beside one of them alone
    adapted.py three --data DIR          one small model, an adapter for each of three tasks, together on all of them
    adapted.py ensemble --data DIR       three close models, each fine-tuned on three tasks, and fitted
    adapted.py proxy --data DIR          a large model, steered by a small tuned one minus the small untuned one

``--minutes`` is the time to train each adapter; ``--limit`` and ``--skip`` are questions of each task, its last ones,
to train and to fit on; all others are asked. ``--development`` names a folder of other questions, in files of the same
names, to train on in place of the tasks' own. What is there already in ``--out`` is not made again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
TASKS = ("arc_easy", "arc_challenge", "piqa")
SMALL, CLOSE = "smollm2-135m-instruct", ("smollm2-135m-instruct", "gemma3-270m", "qwen2.5-coder-0.5b-instruct")
LARGE = "qwen2.5-coder-1.5b-instruct"
RANK = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("what", choices=("speed", "three", "ensemble", "proxy"))
    parser.add_argument("--data", type=Path, help="a folder with NAME.jsonl of each task")
    parser.add_argument("--development", type=Path, help="a folder with NAME.jsonl of each task, to train on")
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--limit", type=int, default=250)
    parser.add_argument("--skip", type=int, default=100)
    parser.add_argument("--objective", default="likelihood", help="what is fitted: likelihood or choices")
    parser.add_argument("--asked", type=int, help="ask so many questions of each task; by default all that are left")
    parser.add_argument("--small", default=SMALL, help=f"the small model of `proxy` ({SMALL})")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    flags.out = flags.out or Path(f"adapted-{flags.what}")
    flags.out.mkdir(parents=True, exist_ok=True)
    {"speed": speed, "three": three, "ensemble": ensemble, "proxy": proxy}[flags.what](flags)


def member(name: str, model: str, **keys: Any) -> dict[str, Any]:
    plain = {} if model.endswith("instruct") else {"chat_template": "plain"}
    return {"name": name, "model": f"demo:{model}", "backend": "transformers", **plain, **keys}


def speed(flags: argparse.Namespace) -> None:
    """Random adapters: what a pass takes does not depend on their numbers."""
    names = ("one", "two", "three")
    for seed, name in enumerate(names):
        _random_adapter(flags.out / name, seed)
    first = member(names[0], SMALL, adapter=names[0], threads=flags.threads)
    others = [{"name": name, "share_weights_with": names[0], "adapter": name} for name in names[1:]]
    file = _write(flags.out / "speed.yaml", {"members": [first, *others]})
    _unisono("bench", str(file), "--rounds", str(flags.rounds), "--pieces", "64")


def three(flags: argparse.Namespace) -> None:
    for task in TASKS:
        alone = _write(flags.out / f"{task}.yaml", {"members": [member(task, SMALL)]})
        _train(flags, alone, [task])
    trained = [yaml.safe_load((flags.out / "trained" / f"{task}.yaml").read_text()) for task in TASKS]
    first, *others = [its["members"][0] for its in trained]
    others = [
        {"name": each["name"], "share_weights_with": first["name"], "adapter": each["adapter"]} for each in others
    ]
    tuned_on = [each for its in trained for each in its["tuned_on"]]
    file = _write(flags.out / "trained" / "three.yaml", {"members": [first, *others], "tuned_on": tuned_on})
    _fit_and_eval(flags, file)


def ensemble(flags: argparse.Namespace) -> None:
    given = _write(flags.out / "close.yaml", {"members": [member(name.split("-")[0], name) for name in CLOSE]})
    _train(flags, given, TASKS)
    _fit_and_eval(flags, flags.out / "trained" / "close.yaml")


def proxy(flags: argparse.Namespace) -> None:
    """On the fine-tune's tasks: the large model alone, the small ones, and the large one steered."""
    given = _write(flags.out / "small.yaml", {"members": [member("tuned", flags.small)]})
    _train(flags, given, TASKS)
    trained = yaml.safe_load((flags.out / "trained" / "small.yaml").read_text())
    large, untuned = member("large", LARGE), {"name": "untuned", "share_weights_with": "tuned", "weight": -1.0}
    content = {"members": [large, *trained["members"], untuned], "combine": "logits", "tuned_on": trained["tuned_on"]}
    file = _write(flags.out / "trained" / "proxy.yaml", content)
    _eval(flags, file)


def _train(flags: argparse.Namespace, file: Path, tasks: Sequence[str]) -> None:
    if (flags.out / "trained" / file.name).exists():
        return
    script = ROOT / "examples" / "adapters" / "train.py"
    if flags.development is None:
        words = ["--tasks", ",".join(tasks), "--data", flags.data, "--limit", flags.limit, "--skip", flags.skip]
    else:
        words = ["--prompts", _answers(flags.out / f"{file.stem}.jsonl", flags.development, tasks)]
    words += ["--minutes", flags.minutes, "--threads", flags.threads, "--out", flags.out / "trained"]
    _run([sys.executable, str(script), str(file), *map(str, words)])


def _answers(file: Path, data: Path, tasks: Sequence[str]) -> Path:
    """The right answers to all questions of a folder, with the prompts that the tasks are asked with."""
    from unisono.evals.analysis.references import references_of
    from unisono.evals.tasks import load_tasks

    references = references_of(load_tasks(tasks, data=data))
    lines = [json.dumps({"prompt": each.prompt.text, "answer": each.answer}) for each in references]
    file.write_text("\n".join(lines) + "\n")
    return file


def _fit_and_eval(flags: argparse.Namespace, file: Path) -> None:
    fitted = file.with_stem(f"{file.stem}-fitted")
    tasks = ("--tasks", ",".join(TASKS), "--data", str(flags.data))
    if not fitted.exists():
        how = ("--limit", str(flags.skip), "--objective", flags.objective)
        _unisono("fit", str(file), *tasks, *how, "--out", str(fitted))
    _eval(flags, fitted)


def _eval(flags: argparse.Namespace, file: Path) -> None:
    asked = () if flags.asked is None else ("--limit", str(flags.asked))
    run = flags.out / f"run-{file.stem}"
    tasks = ("--tasks", ",".join(TASKS), "--data", str(flags.data))
    _unisono("eval", str(file), *tasks, *asked, "--compare", "--out", str(run), "--report", str(flags.out / "report"))


def _random_adapter(folder: Path, seed: int) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    from unisono.build import prepare
    from unisono.config.ensemble import load_spec

    [its] = prepare(load_spec({"members": [member("one", SMALL)]})).members
    model: Any = its.loader.model(lambda done, words: None)  # type: ignore[attr-defined]
    draw, tensors = np.random.default_rng(seed), {}
    for name, module in model.named_modules():
        if hasattr(module, "in_features") and not name.endswith("lm_head"):
            for half, shape in (("A", (RANK, module.in_features)), ("B", (module.out_features, RANK))):
                values = draw.standard_normal(shape).astype(np.float32) * 0.01
                tensors[f"base_model.model.{name}.lora_{half}.weight"] = values
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": "all-linear"}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def _write(file: Path, content: Mapping[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(dict(content), sort_keys=False))
    return file


def _unisono(*words: str) -> None:
    _run([sys.executable, "-m", "unisono", *words])


def _run(command: Sequence[str]) -> None:
    print("+", *command, file=sys.stderr)
    if code := subprocess.run(command).returncode:
        sys.exit(code)


if __name__ == "__main__":
    main()
