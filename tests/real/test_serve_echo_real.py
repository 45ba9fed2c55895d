"""lm-evaluation-harness scores a member through the server as ``unisono lm-eval`` scores it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from served import Served, serve
from support.demo import demo_spec
from support.lm_eval_files import harness_results, harness_tasks, write_data
from support.real_tokenizers import real
from unisono.ensemble import Ensemble
from unisono.evals.respondent import Respondent

pytest.importorskip("lm_eval")
pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("default")]  # transformers' own

LIMIT = 2
MODELS = {"smol": "smollm2-135m-instruct", "gemma": "gemma3-270m"}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve(demo_spec(backend="llamacpp", threads=1)) as running:
        yield running


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By member its tokenizer, as a folder that the harness can load: what transformers reads of a file takes long."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    folders = {}
    for name, model in MODELS.items():
        own: Any = real("transformers", f"demo:{model}").tokenizer
        made, special = Tokenizer.from_str(json.dumps(own._content)), own.table.special_texts
        folder = tmp_path_factory.mktemp("tokenizer")
        PreTrainedTokenizerFast(tokenizer_object=made, eos_token=special["eos_token"]).save_pretrained(folder)
        folders[name] = str(folder)
    return folders


@pytest.mark.parametrize(
    ("name", "tokenized"),
    [("smol", True), ("smol", False), ("gemma", False)],  # the harness sends Gemma's ids without a BOS
    ids=["ids", "text", "text-after-bos"],
)
def test_local_completions_agrees_with_our_own_adapter(
    served: Served, tokenizers: dict[str, str], tmp_path: Path, name: str, tokenized: bool
) -> None:
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    from unisono.evals.lm_eval import UnisonoLM

    data = write_data(tmp_path / "data")
    through: Any = LocalCompletionsAPI(
        base_url=f"{served.url}/v1/completions",
        model=f"duo/{name}",
        tokenizer=tokenizers[name],
        tokenizer_backend="huggingface",
        tokenized_requests=tokenized,
        max_length=2048,
        batch_size=4 if tokenized else 1,
        max_retries=1,
    )
    with Ensemble.load(demo_spec(name, backend="llamacpp", threads=1)) as alone:
        engine = alone._engine
        own = UnisonoLM(respondent=Respondent(engine, engine.method))
        for task_name in ("arc_easy", "piqa"):
            found = [
                harness_results(model, harness_tasks(data, task_name)[:3], limit=LIMIT) for model in (through, own)
            ]
            for task, samples in found[1]["samples"].items():
                for its, ours in zip(found[0]["samples"][task], samples, strict=True):
                    for [one], [other] in zip(its["resps"], ours["resps"], strict=True):
                        assert one[0] == pytest.approx(other[0], abs=0.02)
                        assert one[1] == other[1]
            for task, numbers in found[1]["results"].items():
                assert {key: found[0]["results"][task][key] for key in numbers} == numbers
