"""A member alone has the numbers that lm-evaluation-harness's own ``hf`` model has: SmolLM2 in float32.

With UNISONO_DATA, a folder of real files, and UNISONO_LIMIT, the questions of each, the same is asked of those.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.covering import some
from support.lm_eval_files import harness_results, harness_tasks, write_data
from unisono.config.demo import demo_path
from unisono.ensemble import Ensemble
from unisono.evals.respondent import Respondent

pytest.importorskip("lm_eval")
pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("default")]  # transformers' own

LIMIT = int(os.environ.get("UNISONO_LIMIT", "2"))
TASK = """
task: conversation
dataset_path: json
dataset_kwargs:
  data_files: {data}
output_type: generate_until
test_split: train
doc_to_text: question
doc_to_target: answer
generation_kwargs: {until: [], max_gen_toks: 6}
metric_list: [{metric: exact_match}]
"""
PIECES = int(os.environ.get("UNISONO_PIECES", "12"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = os.environ.get("UNISONO_DATA")
    return Path(given) if given else write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """What transformers reads of the file's, which takes seconds."""
    from transformers import AutoTokenizer

    path = demo_path("smollm2-135m-instruct")
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


@pytest.fixture
def pair(load_demo: Callable[..., Ensemble], tokenizer: Any) -> tuple[Any, Any]:
    """The member through unisono, and the same weights with transformers' reading of the file's tokenizer."""
    from lm_eval.models.huggingface import HFLM

    from unisono.evals.lm_eval import UnisonoLM

    ensemble = load_demo("smol", backend="transformers", dtype="float32", options={"pack_weights": False})
    engine = ensemble._engine
    weights = engine.members[0].backend._forward._model  # type: ignore[attr-defined]
    theirs = HFLM(pretrained=weights, tokenizer=tokenizer, max_length=engine.context, device="cpu")
    return UnisonoLM(respondent=Respondent(engine, engine.method)), theirs


@pytest.mark.parametrize("name", some(["arc_easy", "mmlu", "piqa"], 2))
def test_likelihoods_and_accuracies_are_those_of_the_hf_model(pair: tuple[Any, Any], data: Path, name: str) -> None:
    """But for the mass of control tokens, which a member drops and the hf model keeps: by that they differ, exactly."""
    ours, theirs = (harness_results(model, harness_tasks(data, name)[:5], limit=LIMIT) for model in pair)
    apart = rounding = 0.0
    for task, samples in theirs["samples"].items():
        for own, other in zip(ours["samples"][task], samples, strict=True):
            assert own["arguments"] == other["arguments"]
            for arguments, [mine], [its] in zip(own["arguments"], own["resps"], other["resps"], strict=True):
                control = control_mass(pair, *arguments)
                assert mine[0] == pytest.approx(its[0] - control, abs=5e-4)
                assert mine[1] == its[1]
                apart = max(apart, abs(mine[0] - its[0]))
                rounding = max(rounding, abs(mine[0] - its[0] + control))
    for task, numbers in theirs["results"].items():
        for key in ("acc,none", "acc_norm,none"):
            assert ours["results"][task].get(key) == numbers.get(key)
    print(f"\n{name}: log-likelihoods differ by {apart:.2g}, without control tokens by {rounding:.2g}")
    print(theirs["results"])


def control_mass(pair: tuple[Any, Any], context: str, continuation: str) -> float:
    """The logarithm of what remains of all mass without that of control tokens, summed over a continuation."""
    import torch

    mine, theirs = pair
    [member] = mine._respondent._engine.members
    before, behind = theirs._encode_pair(context, continuation)
    with torch.no_grad():
        logits_TV = theirs.model(torch.tensor([[*before, *behind]])).logits[0, len(before) - 1 : -1]
    p_TV = torch.softmax(logits_TV.double(), -1)
    excluded = [token for token in member.speller.vocabulary.excluded_ids if token < p_TV.shape[1]]
    return float(torch.log1p(-p_TV[:, excluded].sum(-1)).sum())


def test_a_whole_text_and_one_behind_nothing_are_scored_as_by_the_hf_model(pair: tuple[Any, Any]) -> None:
    from lm_eval.api.instance import Instance

    text = "The cat sat on the mat, and — naturally — 日本 was far away. " * 3
    found = []
    for model in pair:
        rolling = model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0, ("t", 0, 1))])
        behind = model.loglikelihood([Instance("loglikelihood", {}, ("", text), 0, ("t", 0, 1))])
        found.append((rolling[0], behind[0][0]))
    assert found[0] == pytest.approx(found[1], abs=5e-3)


def test_generations_are_those_of_the_hf_model(pair: tuple[Any, Any], data: Path) -> None:
    found = []
    for model in pair:
        [task] = harness_tasks(data, "gsm8k")
        kwargs = {"max_gen_toks": PIECES}
        found.append(harness_results(model, [task], limit=min(LIMIT, 40), gen_kwargs=kwargs))
    ours, theirs = ([sample["resps"] for sample in each["samples"]["gsm8k"]] for each in found)
    assert ours == theirs
    assert found[0]["results"] == found[1]["results"]
    print(f"\ngsm8k: {len(ours)} samples of {PIECES} pieces at most, all equal")


def test_its_command_line_asks_every_member_through_its_own_template(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    (tmp_path / "conversation.yaml").write_text(TASK.replace("{data}", str(tmp_path / "data" / "gsm8k.jsonl")))
    spec = Path(__file__).parents[2] / "examples" / "duo.yaml"
    command = [sys.executable, "-m", "unisono", "lm-eval", "--model", "unisono", "--model_args", f"spec={spec},batch=2"]
    command += ["--tasks", "conversation", "--include_path", str(tmp_path), "--limit", "2", "--apply_chat_template"]
    command += ["--log_samples", "--output_path", str(tmp_path / "out")]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "|conversation|" in done.stdout
    [written] = (tmp_path / "out").rglob("samples_*.jsonl")
    samples = [json.loads(line) for line in written.read_text().splitlines()]
    with Ensemble.load(spec) as ensemble:
        for sample in samples:
            asked = [{"role": "user", "content": sample["doc"]["question"]}]
            assert sample["resps"] == [[ensemble.generate(messages=asked, max_new_tokens=6).text]]
