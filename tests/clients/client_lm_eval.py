"""A member alone is scored, as the harness needs its tokenizer (the second argument); texts are the pair's."""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

import lm_eval
from wanted import KEY, MODEL, URL, check, done

ROWS = [
    {"q": "The sky is", "a": ["blue", "seven"], "gold": 0},
    {"q": "Paris is the capital of", "a": ["bread", "France"], "gold": 1},
]
os.environ["OPENAI_API_KEY"] = KEY


def task(folder: Path, name: str, **keys: object) -> dict[str, object]:
    rows = folder / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, ROWS)))
    files = {"data_files": {"test": str(rows)}, "cache_dir": str(folder)}
    return {"task": name, "dataset_path": "json", "dataset_kwargs": files, "test_split": "test", "doc_to_text": "{{q}}",
            "doc_to_target": "gold", **keys}  # fmt: skip


def ask(kind: str, path: str, made: dict[str, object], **arguments: object) -> tuple[dict[str, float], list[object]]:
    arguments = {"model": MODEL, "base_url": URL + path, "max_length": 2000, "max_retries": 1, **arguments}
    found = lm_eval.simple_evaluate(
        kind, arguments, tasks=[made], apply_chat_template="chat" in kind, bootstrap_iters=0, log_samples=True
    )
    return found["results"][made["task"]], [row["filtered_resps"] for row in found["samples"][made["task"]]]


with tempfile.TemporaryDirectory() as name:
    choose = task(Path(name), "choose", output_type="multiple_choice", doc_to_choice="a")
    tokenizer = {"tokenizer_backend": "huggingface", "tokenizer": sys.argv[2]}
    scores, pairs = ask("local-completions", "/completions", choose, model=f"{MODEL}/smol", **tokenizer)
    check(len(pairs) == len(ROWS), "not every question was scored", pairs)
    check(all(float(one[0]) < 0 for row in pairs for one in row), "a likelihood is over 1", pairs)
    stop = {"until": ["\n\n"], "max_gen_toks": 12, "do_sample": False}
    metric = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    write = task(Path(name), "write", output_type="generate_until", generation_kwargs=stop, metric_list=[metric])
    texts = {}
    for kind, path in (("local-completions", "/completions"), ("local-chat-completions", "/chat/completions")):
        _, texts[kind] = ask(kind, path, write, tokenizer_backend=None, tokenized_requests=False)
        check(all(row[0].strip() for row in texts[kind]), f"{kind} gives an empty text", texts)
done("lm-eval", acc=scores["acc,none"], likelihoods=pairs, texts=texts)
