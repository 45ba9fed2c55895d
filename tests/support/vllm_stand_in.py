"""A stand-in of what `unisono.backends.vllm` uses of vLLM: sessions, blocks of a cache, memory, logits processors.

Its model is a rule of the ids that were read. It schedules as vLLM does where that matters: a prompt may take several
passes, what was read before in whole blocks is not computed again, and who finds no memory loses what was read.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

NextToken = Callable[[tuple[int, ...]], Any]


class Direction(enum.Enum):
    UNIDIRECTIONAL = enum.auto()
    SWAP = enum.auto()


class Record:
    """Keeps whatever it is made of."""

    def __init__(self, **told: Any) -> None:
        self.__dict__.update(told)


@dataclass(eq=False)
class Session:
    request: Any
    ids: list[int]
    computed: int = 0
    blocks: int = 0
    waits: bool = False
    """For more ids."""

    @property
    def params(self) -> Any:
        return self.request.sampling_params


@dataclass
class Engine:
    """What the tests say of the engine that is made next, and what it did."""

    rule: NextToken
    rows: int
    block: int = 4
    blocks: int = 10_000
    tokens: int = 10_000
    """Ids of a pass."""
    passes: list[dict[str, int]] = field(default_factory=list)
    """By session, how many ids each pass computed."""
    ended: int = 0
    fails: bool = False
    v2: bool = False
    """Whether its model runner is the successor, which tells of the last id of a chunk alone."""


class GPUModelRunner:
    """Of a pass, hidden states are the numbers of positions in a list."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.read: list[tuple[int, ...]] = []
        self.requests: dict[str, Any] = {}
        self.model_config = Record(get_vocab_size=lambda: engine.rows)
        self.model = Record(compute_logits=self.compute_logits)
        self.query_start_loc = Record(np=np.zeros(0, np.int64))
        self.input_batch = Record(req_id_to_index={})

    def compute_logits(self, hidden_states: Any) -> Any:
        rows = [self.engine.rule(self.read[int(place)]) for place in hidden_states]
        return torch.from_numpy(np.stack(rows).astype(np.float32))

    def _get_prompt_logprobs_dict(self, hidden_states: Any, num_scheduled_tokens: dict[str, int]) -> dict[str, Any]:
        return {}


class EngineCore:
    runner_class: type[GPUModelRunner]

    def __init__(self, vllm_config: Any, executor_class: Any, log_stats: bool) -> None:
        self.engine = vllm_config.engine
        self.config = vllm_config
        self.runner = self.runner_class(self.engine)
        (processor,) = vllm_config.processors
        self.processor = processor(vllm_config, "cpu", None if self.engine.v2 else False)
        self.sessions: dict[str, Session] = {}
        self.cached: set[tuple[int, ...]] = set()
        self.batch: list[str] = []

    def preprocess_add_request(self, request: Any) -> tuple[Any, int]:
        return request, 0

    def add_request(self, request: Any, wave: int) -> None:
        session = self.sessions.get(request.request_id)
        if session is None:
            self.sessions[request.request_id] = Session(request, list(request.prompt_token_ids))
            return
        assert session.waits, "a session is fed while it reads"
        session.ids += request.prompt_token_ids
        session.request, session.waits = request, False
        request.prompt_token_ids[:] = session.ids  # as vLLM changes lists that it was given

    def abort_requests(self, names: Sequence[str]) -> None:
        for name in names:
            self.engine.ended += self.sessions.pop(name, None) is not None

    def post_step(self, moved: bool) -> None:
        pass

    def shutdown(self) -> None:
        self.sessions.clear()

    def step_fn(self) -> tuple[dict[int, Any], bool]:
        if self.engine.fails:
            raise RuntimeError("out of memory")
        counts = self._schedule()
        if not counts:
            return {}, False
        self.engine.passes.append(counts)
        self._compute(counts)
        told = []
        for name, count in counts.items():
            session = self.sessions[name]
            session.computed += count
            for end in range(self.engine.block, session.computed + 1, self.engine.block):
                self.cached.add(tuple(session.ids[:end]))
            session.waits = session.computed == len(session.ids)
            if session.waits:
                told.append(Record(request_id=name, new_token_ids=[7]))
        return {0: Record(outputs=told)}, True

    def _schedule(self) -> dict[str, int]:
        counts, left = dict[str, int](), self.engine.tokens
        active = sum(session.waits or session.blocks > 0 for session in self.sessions.values())
        for name, session in self.sessions.items():
            if session.waits or not left:
                continue
            if not session.blocks and active >= self.config.scheduler_config.max_num_seqs:
                continue
            if not session.computed and not session.params.skip_reading_prefix_cache:
                session.computed = self._hit(session.ids)
            count = min(len(session.ids) - session.computed, left)
            needed = -(-(session.computed + count) // self.engine.block)
            if needed - session.blocks > self.engine.blocks - sum(each.blocks for each in self.sessions.values()):
                session.computed = session.blocks = 0
                continue
            active += not session.blocks
            session.blocks, counts[name], left = needed, count, left - count
        return counts

    def _hit(self, ids: Sequence[int]) -> int:
        ends = range(self.engine.block, len(ids), self.engine.block)
        return max((end for end in ends if tuple(ids[:end]) in self.cached), default=0)

    def _compute(self, counts: dict[str, int]) -> None:
        runner, before, batch = self.runner, self.batch, list(counts)
        added = [(place, self.sessions[name].params, [], []) for place, name in enumerate(batch)]
        update = Record(removed=range(len(batch), len(before)), added=added, moved=[])
        if len(batch) > 1:  # who is first in the batch comes last, as when vLLM orders one
            added[0], added[-1] = (0, *added[-1][1:]), (len(batch) - 1, *added[0][1:])
            update.moved = [(0, len(batch) - 1, Direction.SWAP)]
        if self.engine.v2:
            for place, name in enumerate(batch):
                self.processor.add_request(len(batch) - place, self.sessions[name].params)
        else:
            self.processor.update_state(update)
        starts = np.cumsum([0, *counts.values()])
        runner.read, last = [], []
        for name, count in counts.items():
            session = self.sessions[name]
            ends = range(session.computed + 1, session.computed + count + 1)
            runner.read += [tuple(session.ids[:end]) for end in ends]
            last.append(self.engine.rule(tuple(session.ids[: ends[-1]])))
            runner.requests[name] = Record(
                sampling_params=session.params, num_computed_tokens=session.computed, prompt_token_ids=session.ids
            )
        runner.query_start_loc.np = starts
        runner.input_batch.req_id_to_index = {name: place for place, name in enumerate(batch)}
        self.batch = batch
        logits = torch.from_numpy(np.stack(last).astype(np.float32))
        context = [Record(idx_mapping_np=np.arange(len(batch), 0, -1))] if self.engine.v2 else []
        told = self.processor.apply(logits.clone(), *context)
        assert torch.equal(told, logits), "the processor changes what others choose by"
        if not self.engine.v2:
            runner._get_prompt_logprobs_dict(torch.arange(len(runner.read)), counts)


class _EngineArgs:
    engine: Engine

    def __init__(self, *, max_num_seqs: int, logits_processors: Sequence[type], **told: Any) -> None:
        self.sessions, self.processors, self.told = max_num_seqs, logits_processors, told

    def create_engine_config(self) -> Any:
        engine = self.engine
        return Record(
            engine=engine,
            use_v2_model_runner=engine.v2,
            processors=self.processors,
            told=self.told,
            scheduler_config=Record(max_num_seqs=self.sessions),
            model_config=Record(get_vocab_size=lambda: engine.rows),
            device_config=Record(device_type="cpu"),
        )


@contextlib.contextmanager
def vllm_stands_in(engine: Engine) -> Iterator[types.ModuleType]:
    """Let `unisono.backends.vllm.library` find this where it looks for vLLM; gives that module."""
    runner = type("GPUModelRunner", (GPUModelRunner,), {})
    core = type("EngineCore", (EngineCore,), {"runner_class": runner})
    arguments = type("EngineArgs", (_EngineArgs,), {"engine": engine})
    parallel = dict.fromkeys(("destroy_model_parallel", "destroy_distributed_environment"), lambda: None)
    interface: Any = type("LogitsProcessor", (), {})
    successor: Any = type("LogitsProcessor", (), {})
    contents: dict[str, dict[str, Any]] = {
        "vllm": {"SamplingParams": Record, "__version__": "0.32.0"},
        "vllm.distributed": {},
        "vllm.distributed.parallel_state": {"model_parallel_is_initialized": lambda: False, **parallel},
        "vllm.engine": {},
        "vllm.engine.arg_utils": {"EngineArgs": arguments},
        "vllm.engine.protocol": {"StreamingInput": Record},
        "vllm.platforms": {"current_platform": Record(is_cpu=lambda: True)},
        "vllm.sampling_params": {"RequestOutputKind": Record(DELTA="delta")},
        "vllm.v1": {},
        "vllm.v1.engine": {"EngineCoreRequest": Record, "EngineCoreRequestType": Record(ADD="add")},
        "vllm.v1.engine.core": {"EngineCore": core},
        "vllm.v1.executor": {"Executor": Record(get_class=lambda config: None)},
        "vllm.v1.sample": {},
        "vllm.v1.sample.logits_processor": {"LogitsProcessor": interface, "MoveDirectionality": Direction},
        "vllm.v1.worker": {},
        "vllm.v1.worker.gpu": {},
        "vllm.v1.worker.gpu.sample": {},
        "vllm.v1.worker.gpu.sample.logits_processor": {},
        "vllm.v1.worker.gpu.sample.logits_processor.interface": {"LogitsProcessor": successor},
        "vllm.v1.worker.gpu_model_runner": {"GPUModelRunner": runner},
    }
    ours = ("unisono.backends.vllm.library", "unisono.backends.vllm.local_core")
    before = {name: sys.modules.pop(name, None) for name in (*contents, *ours)}
    for name, held in contents.items():
        module = types.ModuleType(name)
        module.__dict__.update(held)
        sys.modules[name] = module
        if "." in name:
            setattr(sys.modules[name.rpartition(".")[0]], name.rpartition(".")[2], module)
    try:
        import unisono.backends.vllm.library as library

        yield library
    finally:
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


class AsyncLLM:
    """The engine of a server: it reads what generators give, in the loop of whoever made it."""

    def __init__(self, engine: Engine, *, sessions: int, context: int, blocks: int) -> None:
        from unisono.backends.vllm.library import Rows

        self.vllm_config = Record(
            engine=engine,
            use_v2_model_runner=engine.v2,
            processors=[Rows],
            scheduler_config=Record(max_num_seqs=sessions),
            model_config=Record(get_vocab_size=lambda: engine.rows, max_model_len=context + 1),
            cache_config=Record(num_gpu_blocks=blocks, block_size=engine.block),
            device_config=Record(device_type="cpu"),
        )
        self._loop = asyncio.get_running_loop()
        self._core = sys.modules["vllm.v1.engine.core"].EngineCore(self.vllm_config, None, False)
        self._core.input_queue = Record(put=lambda entry: self._loop.call_soon_threadsafe(self._add, *entry[1]))
        self._answers: dict[str, asyncio.Queue[Any]] = {}
        self._steps = False

    async def generate(self, inputs: Any, params: Any, name: str) -> Any:
        answers = self._answers[name] = asyncio.Queue()
        reader = asyncio.create_task(self._read(inputs, name))
        try:
            while True:
                answer = await answers.get()
                if isinstance(answer, BaseException):
                    raise answer
                yield answer
        finally:
            reader.cancel()
            del self._answers[name]
            self._core.abort_requests([name])

    async def _read(self, inputs: Any, name: str) -> None:
        async for each in inputs:
            ids, params = each.prompt["prompt_token_ids"], each.sampling_params
            for _ in range(3 * list(self._answers).index(name)):  # each chunk comes by itself
                await asyncio.sleep(0)
            self._add(Record(request_id=name, prompt_token_ids=ids, sampling_params=params, resumable=True), 0)

    def _add(self, request: Any, wave: int) -> None:
        self._core.add_request(request, wave)
        if not self._steps:
            self._steps = True
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        try:
            outputs, moved = self._core.step_fn()
        except RuntimeError as error:
            for answers in self._answers.values():
                answers.put_nowait(error)
            return
        for told in outputs[0].outputs if outputs else []:
            if told.request_id in self._answers:
                self._answers[told.request_id].put_nowait(Record(outputs=[Record(token_ids=told.new_token_ids)]))
        self._steps = moved
        if moved:
            self._loop.call_soon(self._step)
