"""The only file that imports vLLM: a logits processor that hands rows out, and what an engine is made of.

Written for the series of `versions`; others are refused by name before this is imported. What is used of vLLM beyond
its public interface stands in this file and in `local_core` alone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from functools import wraps
from typing import Any, NamedTuple

import vllm as _vllm
from vllm.distributed import parallel_state as _parallel
from vllm.engine.arg_utils import EngineArgs as _EngineArgs
from vllm.engine.protocol import StreamingInput as _StreamingInput
from vllm.platforms import current_platform as _platform
from vllm.sampling_params import RequestOutputKind as _OutputKind
from vllm.v1.engine import EngineCoreRequest as _Request
from vllm.v1.engine import EngineCoreRequestType as _RequestType
from vllm.v1.engine.core import EngineCore as _EngineCore
from vllm.v1.executor import Executor as _Executor
from vllm.v1.sample.logits_processor import LogitsProcessor as _Processor
from vllm.v1.sample.logits_processor import MoveDirectionality as _Direction
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as _Successor
from vllm.v1.worker.gpu_model_runner import GPUModelRunner as _Runner

from unisono.backends.vllm.board import RowBoard
from unisono.backends.vllm.core import Chunk
from unisono.backends.vllm.groups import GroupName, Groups

vllm: Any = _vllm
KEY = "unisono"
"""Of a request's ``extra_args``: board, first row, how many, ticket."""
GROUP = "unisono_group"
"""Of them, too: the step that a chunk belongs to."""


BLOCK = 32
"""Ids of a block of the cache on processors, whose kernels want multiples of it; vLLM's 128 makes rewinds dear."""


class _Plan(NamedTuple):
    """Where the rows of a request's last ids are to be."""

    board: RowBoard
    row: int
    wanted: int
    ticket: int

    def write(self, place: int, logits_NV: Any) -> None:
        """Write rows from one of its places on. ``logits_NV`` is ``None`` on processors that do not have them."""
        if logits_NV is None or not _writes():
            return
        self.board.write(self.row + place, logits_NV.detach().float().cpu().numpy(), self.ticket)


def _writes() -> bool:
    """Whether this is the one of several processors that share a layer which hands out."""
    return not _parallel.model_parallel_is_initialized() or _parallel.get_tensor_model_parallel_rank() == 0


_boards: dict[str, RowBoard] = {}


def _plan_of(params: Any, width: int) -> _Plan | None:
    """The plan of a request, which others than unisono do not have. What is no plan is none, and does no harm."""
    told = (getattr(params, "extra_args", None) or {}).get(KEY)
    match told:
        case [str(name), int(row), int(wanted), int(ticket)] if row >= 0 and wanted > 0:
            pass
        case _:
            return None
    board = _boards.get(name)
    if board is None and (board := RowBoard.find(name)) is not None:
        _boards[name] = board
    if board is None or row + wanted > board.rows or board.width != width:
        return None
    return _Plan(board, row, wanted, ticket)


class Rows(_Processor, _Successor):  # type: ignore[misc]
    """Hands out the rows of requests that have a plan, and changes nothing.

    It has the interfaces of both of vLLM's model runners; each calls its own. The first keeps requests by their place
    in the batch, and says who comes, goes and moves; the second by a place of their own. That of the second is untried:
    it needs a GPU.
    """

    def __init__(self, vllm_config: Any, place: Any, is_pin_memory: bool | None = None) -> None:
        self._plans: dict[int, _Plan] = {}
        self._width = int(vllm_config.model_config.get_vocab_size())
        watch_blocks()

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """All are sound: what is no plan is ignored."""

    def is_argmax_invariant(self) -> bool:
        return False  # others are not shown the rows of greedy batches

    def update_state(self, batch_update: Any) -> None:
        if batch_update is None:
            return
        plans = self._plans
        for index in batch_update.removed:
            plans.pop(index, None)
        for index, params, _, _ in batch_update.added:
            self._place(index, params)
        for here, there, direction in batch_update.moved:
            moved, replaced = plans.pop(here, None), plans.pop(there, None)
            if moved is not None:
                plans[there] = moved
            if direction == _Direction.SWAP and replaced is not None:
                plans[here] = replaced

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        self._place(req_idx, sampling_params)
        return req_idx in self._plans

    def apply(self, logits: Any, ctx: Any = None) -> Any:
        places = enumerate(range(len(logits)) if ctx is None else ctx.idx_mapping_np.tolist())
        for row, place in places:
            if (plan := self._plans.get(place)) is not None:
                plan.write(plan.wanted - 1, logits[row : row + 1])
        return logits

    def _place(self, place: int, params: Any) -> None:
        self._plans.pop(place, None)
        if (plan := _plan_of(params, self._width)) is not None:
            self._plans[place] = plan


def watch_blocks() -> None:
    """Let model runners hand out rows before the last one, too.

    They compute the logits of such positions only for log-probabilities of prompts, which for whole rows are lists of
    V numbers; here they are computed where these would be, and stay arrays.
    """
    if getattr(_Runner, "_unisono_watches", False):
        return
    plain = _Runner._get_prompt_logprobs_dict

    @wraps(plain)
    def watched(self: Any, hidden_states: Any, num_scheduled_tokens: Mapping[str, int]) -> Any:
        for request, count in num_scheduled_tokens.items():
            if count > 1:
                _write_block(self, request, hidden_states, count)
        return plain(self, hidden_states, num_scheduled_tokens)

    _Runner._get_prompt_logprobs_dict = watched
    _Runner._unisono_watches = True


def tells_blocks(config: Any) -> bool:
    """Whether an engine's model runner is the one that `watch_blocks` knows."""
    return not config.use_v2_model_runner


def _write_block(runner: Any, name: str, hidden_states: Any, count: int) -> None:
    """Write the wanted rows, but the last, of the positions that this pass has computed of a request."""
    request = runner.requests[name]
    plan = _plan_of(request.sampling_params, runner.model_config.get_vocab_size())
    if plan is None or plan.wanted < 2:
        return
    start, total = request.num_computed_tokens, len(request.prompt_token_ids)
    first = total - plan.wanted
    low, high = max(first, start), min(total - 1, start + count)
    if low < high:
        offset = int(runner.query_start_loc.np[runner.input_batch.req_id_to_index[name]]) - start
        plan.write(low - first, runner.model.compute_logits(hidden_states[offset + low : offset + high]))


def engine_config(arguments: Mapping[str, object]) -> Any:
    """The configuration of an engine. Raises what vLLM raises where the arguments do not fit the model.

    Beside vLLM's own arguments there is one for processors without accelerator: memory for keys and values.
    """
    given: dict[str, Any] = dict(arguments)
    memory = given.pop("memory_without_accelerator", None)
    if _platform.is_cpu():
        given = {"kv_cache_memory_bytes": memory, "block_size": BLOCK, **given}
    return _EngineArgs(**given, logits_processors=[Rows]).create_engine_config()


def make_engine(config: Any) -> Any:
    """An engine in this process; its workers are others where it is spread over several devices."""
    return _EngineCore(vllm_config=config, executor_class=_Executor.get_class(config), log_stats=False)


def params_of(board: RowBoard, chunk: Chunk, group: GroupName | None = None) -> Any:
    """The parameters with which a chunk is read: one token, which nobody looks at, its rows, and its step."""
    plan: dict[str, object] = {KEY: [board.name, chunk.row, chunk.wanted, chunk.ticket]} if chunk.wanted else {}
    if group is not None:
        plan[GROUP] = list(group)
    return vllm.SamplingParams(
        max_tokens=1,
        temperature=0.0,
        ignore_eos=True,
        detokenize=False,
        output_kind=_OutputKind.DELTA,
        extra_args=plan or None,
        skip_reading_prefix_cache=True if chunk.uncached else None,
    )


def request_of(board: RowBoard, chunk: Chunk) -> Any:
    """A request that goes on when it is given more ids. Its list of ids is the engine's own from then on."""
    return _Request(
        request_id=chunk.session,
        prompt_token_ids=list(chunk.ids),
        mm_features=None,
        sampling_params=params_of(board, chunk),
        pooling_params=None,
        arrival_time=time.time(),
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
        resumable=True,
    )


def input_of(board: RowBoard, chunk: Chunk, group: GroupName) -> Any:
    """What a request of a server's engine is given to read next. Its list of ids is the engine's own from then on."""
    prompt = {"prompt_token_ids": list(chunk.ids)}
    return _StreamingInput(prompt=prompt, sampling_params=params_of(board, chunk, group))


def gather_groups() -> None:
    """Let engines of this process hold chunks until those of their step are together. Others' requests pass by."""
    if getattr(_EngineCore, "_unisono_gathers", False):
        return
    add, abort = _EngineCore.add_request, _EngineCore.abort_requests

    @wraps(add)
    def add_gathered(self: Any, request: Any, request_wave: int = 0) -> None:
        groups = _groups_of(self)
        if isinstance(request, GroupName):  # which is overdue
            ready: Sequence[Any] = groups.release(request)
        elif (name := _group_of(request)) is not None:
            ready = groups.hold(name, request.request_id, (request, request_wave))
        else:
            ready = [(request, request_wave)]
        for each, wave in ready:
            add(self, each, wave)

    @wraps(abort)
    def abort_held(self: Any, request_ids: Sequence[str]) -> Any:
        _groups_of(self).drop(request_ids)
        return abort(self, request_ids)

    _EngineCore.add_request, _EngineCore.abort_requests = add_gathered, abort_held
    _EngineCore._unisono_gathers = True


def _groups_of(engine: Any) -> Groups:
    found: Groups | None = engine.__dict__.get("_unisono_groups")
    if found is None:
        # an entry of its queue wakes the engine's loop
        found = engine._unisono_groups = Groups(lambda name: engine.input_queue.put((_RequestType.ADD, (name, 0))))
    return found


def _group_of(request: Any) -> GroupName | None:
    """The step of a chunk, where it is one that goes on with others."""
    if not request.resumable or request.sampling_params is None:
        return None
    match (request.sampling_params.extra_args or {}).get(GROUP):
        case [str(owner), int(number), int(size)] if 0 < size <= 4096:
            return GroupName(owner, number, size)
    return None


def release() -> None:
    """Give back what an engine in this process held, as far as the library can."""
    with contextlib.suppress(Exception):
        _parallel.destroy_model_parallel()
        _parallel.destroy_distributed_environment()


def answered(outputs: Sequence[Any]) -> list[str]:
    """The sessions of which a token has come, which is after their rows."""
    return [output.request_id for output in outputs if output.new_token_ids]
