"""The benchmarks of the README: everything measured on this machine, side by side, written as JSON.

Usage: python benchmarks/run.py [--only NAME …] [--rounds N] [--data DIR] [--out FILE]

Each figure that asks for a process of its own (memory, time to the first piece) gets one; the speed
ratios interleave the ensemble with its members in one process. The models are the demo models.
``key_tokens`` and ``drawing`` need real questions: --data names a folder with gsm8k.jsonl, mmlu.jsonl and
triviaqa.jsonl, each line with a "question", those of MMLU with "choices".
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}Answer: {{ m.content }}\n\n"
    "{% else %}Question: {{ m.content }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}Answer:{% endif %}"
)
MODELS: dict[str, dict[str, Any]] = {
    "smol": {"model": "demo:smollm2-135m-instruct"},
    "gemma": {"model": "demo:gemma3-270m", "chat_template": TEMPLATE},
    "qwen": {"model": "demo:qwen2.5-coder-1.5b-instruct"},
}
PAIRS = (("smol", "gemma"), ("smol", "qwen"))
BACKENDS = ("llamacpp", "transformers")
KEY_TOKENS = (
    (("smol", "gemma"), {"llamacpp": 48, "transformers": 16}),
    (("qwen", "smol"), {"llamacpp": 24, "transformers": 12}),
)
"""Pairs, the lead first, and how many pieces of each answer are timed."""
SERVED_PIECES = {"llamacpp": 32, "transformers": 12}
"""Of each answer that a client asks for."""
SOAKED_PIECES = {"llamacpp": 6, "transformers": 3}


def spec(names: tuple[str, ...], backend: str) -> dict[str, Any]:
    """An ensemble of demo models through one backend."""
    return {"members": [{"name": name, "backend": backend, **MODELS[name]} for name in names]}


def step_ratio(rounds: int) -> dict[str, Any]:
    """Time a step of the ensemble beside the sum of its members', for each pair and backend."""
    return {
        f"{'+'.join(pair)}, {backend}": in_process("_step_ratio", pair, backend, rounds)
        for pair in PAIRS
        for backend in BACKENDS
    }


def _step_ratio(pair: list[str], backend: str, rounds: int) -> dict[str, Any]:
    from unisono.benchmark import measure
    from unisono.build import prepare
    from unisono.config.ensemble import load_spec

    prepared = prepare(load_spec(spec(tuple(pair), backend)))
    return measure(prepared, rounds=2 * rounds, pieces=16).to_json()


def batch(rounds: int) -> dict[str, Any]:
    """Pieces a second of eight prompts written at once, over those of one, interleaved."""
    return {backend: in_process("_batch", backend, rounds) for backend in BACKENDS}


def _batch(backend: str, rounds: int) -> dict[str, Any]:
    from unisono.chat.messages import Prompt
    from unisono.engine.request import Request
    from unisono.ensemble import Ensemble
    from unisono.records import Limits

    subjects = ("lighthouse", "bakery", "river", "library", "market", "train", "garden", "harbour")
    prompts = [Prompt(text=f"The history of the {subject} in our town began when") for subject in subjects]
    with Ensemble.load(spec(("smol", "gemma"), backend), batch=8) as ensemble:

        def pieces_a_second(size: int) -> float:
            requests = [Request(str(n), prompts[n], Limits(max_new_tokens=48)) for n in range(size)]
            began = time.perf_counter()
            results = [result for _, result in ensemble.generate_batch(requests)]
            return sum(result.usage.pieces for result in results) / (time.perf_counter() - began)  # type: ignore[union-attr]

        pieces_a_second(8)
        turns = [(pieces_a_second(1), pieces_a_second(8)) for _ in range(rounds)]
    ratios = [eight / one for one, eight in turns]
    return {
        "one": statistics.median(one for one, _ in turns),
        "eight": statistics.median(eight for _, eight in turns),
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
    }


def shared_weights(rounds: int) -> dict[str, Any]:
    """Time a step of three members that share one model's weights beside that of one."""
    return {backend: in_process("_shared_weights", backend, rounds) for backend in BACKENDS}


def _shared_weights(backend: str, rounds: int) -> dict[str, Any]:
    from shared_weights import compare

    return compare(backend, 3 * rounds, 32)


def shared_keys(rounds: int) -> dict[str, Any]:
    """A pass through transformers in bfloat16 beside one with transformers' own attention, behind 1,000 tokens."""
    return {name: in_process("_shared_keys", MODELS[name]["model"], 2 * rounds) for name in MODELS}


def _shared_keys(model: str, rounds: int) -> dict[str, Any]:
    from shared_keys import compare

    return compare(model, "bfloat16", rounds, 1000)


def union_map(rounds: int) -> dict[str, Any]:
    """Seconds to build the union of the three demo vocabularies."""
    return in_process("_union_map", rounds)


def _union_map(rounds: int) -> dict[str, Any]:
    from unisono.build import prepare
    from unisono.config.ensemble import load_spec
    from unisono.vocab.pieces import read_vocabulary
    from unisono.vocab.spelling import Speller
    from unisono.vocab.union import UnionMember, build_union

    prepared = prepare(load_spec(spec(("smol", "gemma", "qwen"), "llamacpp"))).members

    def fresh() -> list[UnionMember]:
        """Members that have worked out nothing about their vocabularies yet."""
        return [
            UnionMember(
                m.spec.name,
                Speller(read_vocabulary(m.tokenizer.table, m.endings, m.vocabulary.rows), m.tokenizer.encode),
                m.leading_space,
            )
            for m in prepared
        ]

    built = []
    for _ in range(rounds):
        members = fresh()
        built.append(timed(lambda members=members: build_union(members)))
    return {"build": spread(built), "columns": build_union(fresh()).size}


def memory(rounds: int) -> dict[str, Any]:
    """Peak memory of the ensemble's process over the sum of its members', in bytes; one process each."""
    found = {}
    for backend in BACKENDS:
        base = in_process("_peak", [], backend)
        alone = {name: in_process("_peak", [name], backend) - base for name in ("smol", "gemma")}
        together = in_process("_peak", ["smol", "gemma"], backend) - base
        found[backend] = {
            "interpreter": base,
            **alone,
            "ensemble": together,
            "more_than_members": together - sum(alone.values()),
        }
    return found


def _peak(names: list[str], backend: str) -> int:
    import resource

    from unisono.ensemble import Ensemble

    if names:
        with Ensemble.load(spec(tuple(names), backend)) as ensemble:
            ensemble.generate("The history of the lighthouse began when", max_new_tokens=32)
    elif backend == "transformers":
        import transformers  # noqa: F401

        import unisono.backends.transformers.torch_runtime  # noqa: F401
    else:
        import llama_cpp  # noqa: F401
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def first_piece(rounds: int) -> dict[str, Any]:
    """Seconds from starting ``unisono run`` to its first character, everything installed and cached."""
    command = [sys.executable, "-m", "unisono", "run", str(ROOT / "examples" / "duo.yaml"), "Name three fruits.", "-q"]
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.read(1)
            times.append(time.perf_counter() - began)
            process.kill()
    return spread(times)


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def spread(times: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(times), "low": min(times), "high": max(times)}


def in_process(function: str, *arguments: object) -> Any:
    """Call a function of this file in a fresh process and return its result."""
    code = (
        f"import json, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import run; "
        f"print(json.dumps(run.{function}(*json.loads(sys.argv[1]))))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)], stdout=subprocess.PIPE, check=True, text=True
    )
    return json.loads(shown.stdout.splitlines()[-1])


def machine() -> dict[str, Any]:
    """Where and with what this was measured."""
    packages = ("unisono", "numpy", "torch", "transformers", "llama-cpp-python")
    return {
        "date": datetime.date.today().isoformat(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def key_tokens(data: Path, only: list[str]) -> dict[str, Any]:
    """Gates, drafts and traces beside every-step ensembling, on real questions."""
    found = {}
    for (pair, pieces), backend in itertools.product(KEY_TOKENS, BACKENDS):
        name = f"{'+'.join(pair)}, {backend}"
        if not only or name in only:
            found[name] = in_process("_key_tokens", pair, backend, str(data.resolve()), pieces[backend])
            print(json.dumps({name: found[name]}), file=sys.stderr, flush=True)
    return found


def _key_tokens(pair: list[str], backend: str, data: str, pieces: int) -> dict[str, Any]:
    from key_tokens import compare

    return compare(
        spec(tuple(pair), backend), data, pieces, everything=pair == ["smol", "gemma"] and backend == "llamacpp"
    )


def serving(rounds: int) -> dict[str, Any]:
    """`unisono serve` under 1 to 16 streams, and what HTTP and scheduling cost, for each backend."""
    return {backend: in_process("_serving", backend, rounds, pieces) for backend, pieces in SERVED_PIECES.items()}


def _serving(backend: str, rounds: int, pieces: int) -> dict[str, Any]:
    from serving import compare

    pair = spec(("smol", "gemma"), backend)
    for member in pair["members"]:
        member |= {"context": 1024, "threads": 1}  # clients compute on the same machine
    return compare(pair, rounds, pieces)


def soak(rounds: int) -> dict[str, Any]:
    """2,000 requests, some cancelled, some malformed, each answer beside what it is alone."""
    return {backend: in_process("_soak", backend, 2000, pieces) for backend, pieces in SOAKED_PIECES.items()}


def _soak(backend: str, requests: int, pieces: int) -> dict[str, Any]:
    from soak import soak as send

    pair = spec(("smol", "gemma"), backend)
    for member in pair["members"]:
        member |= {"context": 1024, "threads": 1}
    return send(pair, requests, pieces)


BENCHMARKS = {
    "step_ratio": step_ratio,
    "batch": batch,
    "shared_weights": shared_weights,
    "shared_keys": shared_keys,
    "union_map": union_map,
    "memory": memory,
    "first_piece": first_piece,
    "serving": serving,
    "soak": soak,
}


def main() -> None:
    """Run the benchmarks that were asked for and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*BENCHMARKS, "key_tokens", "drawing"], default=list(BENCHMARKS))
    parser.add_argument("--data", type=Path, help="a folder with questions, for key_tokens and drawing")
    parser.add_argument("--pairs", nargs="+", default=[], help='for key_tokens: "smol+gemma, llamacpp" …; all')
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {"machine": machine()}
    for name in options.only:
        print(f"{name} …", file=sys.stderr, flush=True)
        if name in ("key_tokens", "drawing") and options.data is None:
            parser.error(f"{name} needs --data DIR")
        if name == "key_tokens":
            result[name] = key_tokens(options.data, options.pairs)
        elif name == "drawing":
            result[name] = importlib.import_module(name).drawing(options.data)
        else:
            result[name] = BENCHMARKS[name](options.rounds)
        print(json.dumps(result[name], indent=2), file=sys.stderr, flush=True)
    text = json.dumps(result, indent=2) + "\n"
    if options.out:
        options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
