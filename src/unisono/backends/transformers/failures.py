"""Translates exceptions of transformers, torch, safetensors and the hub into unisono's, a first pass's included."""

from __future__ import annotations

import contextlib
import re
import struct
import traceback
from collections.abc import Iterator

from unisono.backends.base import Backend, Feed
from unisono.backends.transformers.tokenizer import PANIC, is_panic
from unisono.errors import BackendMissing, DeviceError, ModelCorrupt, ModelNotFound, ModelUnsupported, UnisonoError

OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "failed to allocate")
NOT_THERE = {
    *("HfHubHTTPError", "RepositoryNotFoundError", "GatedRepoError", "RevisionNotFoundError", "OfflineModeIsEnabled"),
    *("LocalEntryNotFoundError", "EntryNotFoundError", "HFValidationError", "ConnectError", "ConnectionError"),
}
HUB_WORDS = ("couldn't connect", "not a valid model id", "does not appear to have", "cached files", "gated repo")
DAMAGE = {
    *("SafetensorError", "UnpicklingError", "JSONDecodeError", "EOFError", "UnicodeDecodeError"),
    PANIC,
}
DAMAGE_WORDS = ("not a valid json", "error while deserializing", "size mismatch", "invalid header", "corrupt")
CUT_SHORT = (ValueError, IndexError, struct.error)
"""Raised for a GGUF file with truncated tensors."""

_NO_WEIGHTS = re.compile(
    r"Unsupported (global|class|operand|type)[^,;]{0,120}?(?= was | by default|[,;]|$)", re.IGNORECASE
)
LLAMACPP_HINT = "use the file through llama.cpp: `backend: llamacpp`"


@contextlib.contextmanager
def out_of_memory_told(who: str, device: str) -> Iterator[None]:
    """Turn running out of host or device memory into a `DeviceError`. Other exceptions pass."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        if not named and not any(words in str(error).lower() for words in OUT_OF_MEMORY):
            raise
        raise DeviceError(
            f"{who} needs more memory than {device} has free",
            hint="use a smaller model, dtype (bfloat16), context or batch, or another device",
        ) from error


@contextlib.contextmanager
def loading_errors_told(who: str, where: str, device: str) -> Iterator[None]:
    """Turn any exception during loading into a `ModelError`, `DeviceError` or `BackendMissing`."""
    try:
        with out_of_memory_told(who, device):
            yield
    except UnisonoError:
        raise
    except BaseException as error:  # the libraries raise everything from OSError to what is no Exception
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise _translated(error, who, where) from error


def check_passes(backend: Backend, architecture: str, who: str) -> None:
    """Let a model that was loaded read two tokens and one more. Raises a `ModelUnsupported` where it cannot.

    Its code may want what we do not give it, or use the cache otherwise than as one entry a token.
    """
    try:
        slot = backend.open()
        for ids in ([0, 0], [0])[: backend.facts.context - 1]:
            backend.advance([Feed(slot, ids)])
        backend.close(slot)
    except UnisonoError:
        raise
    except Exception as error:
        raise ModelUnsupported(
            f"{who} is a {architecture}, which cannot be run token by token with a cache of keys and values: "
            f"its first pass ends with {type(error).__name__}: {_short(error)}",
            hint="use a decoder-only language model whose forward reads tokens and keeps one key and value for each",
        ) from error


def _short(error: BaseException) -> str:
    said = " ".join(str(error).split())
    return said if len(said) <= 300 else said[:300] + " …"


def _translated(error: BaseException, who: str, where: str) -> UnisonoError:
    said, short = " ".join(str(error).split()), _short(error)
    chain = {type(each).__name__ for each in _chain(error)}
    lower = said.lower()
    gguf = where.endswith(".gguf")
    if "weights_only" in said:  # torch's own advice is to run whatever the pickle holds
        odd = _NO_WEIGHTS.search(said)
        reason = odd[0] if odd else type(error).__name__
        return ModelUnsupported(
            f"{who} has a pickle that holds what is no weights, or is damaged ({reason})",
            hint="take the model as safetensors or GGUF; a pickle that holds more than weights is not read",
        )
    cut_short = gguf and isinstance(error, CUT_SHORT) and "not supported" not in lower
    if cut_short or chain & DAMAGE or any(words in lower for words in DAMAGE_WORDS):
        return ModelCorrupt(f"{who} is damaged or cut short: {short}", hint="download it again")
    if chain & NOT_THERE or (isinstance(error, OSError) and any(words in lower for words in HUB_WORDS)):
        return ModelNotFound(
            f"{who}: {where!r} is neither in the local cache nor can it be fetched from the hub ({short})",
            hint="check the id and the network; or download the model elsewhere and give the path of its folder",
        )
    if isinstance(error, FileNotFoundError):
        return ModelNotFound(f"{who} lacks a file: {short}", hint="download the model again")
    if "trust_remote_code" in said:
        return ModelUnsupported(
            f"{who} brings its own Python code, which is not run",
            hint="set `options: {trust_remote_code: true}` if you trust its author",
        )
    if isinstance(error, KeyError) and "Missing required keys in `rope_parameters`" in said:
        return ModelCorrupt(
            f"{who}: its rope_scaling lacks what its kind needs: {short}",
            hint="its config.json is damaged, or of another release: download it again",
        )
    if isinstance(error, KeyError) and _raised_by_positions(error):
        return ModelUnsupported(
            f"{who} scales its positions by {error.args[0]!r} (rope_scaling), which this transformers does not know",
            hint=LLAMACPP_HINT if gguf else "update transformers, or take a GGUF file of the model",
        )
    if isinstance(error, ImportError):
        return BackendMissing(f"{who} needs another library: {short}", hint="pip install what it names")
    if not gguf and _raised_by_tokenizer(error):
        return ModelUnsupported(
            f"{who}: transformers cannot make its tokenizer: {type(error).__name__}: {short}",
            hint="its tokenizer_class may be that of another tokenizer: where it has a tokenizer.json, make that key "
            "of tokenizer_config.json PreTrainedTokenizerFast; otherwise update transformers",
        )
    return ModelUnsupported(
        f"{who} cannot be loaded by transformers: {type(error).__name__}: {short}",
        hint=LLAMACPP_HINT if gguf else "update transformers, or use a model that it can load",
    )


def _raised_by_positions(error: BaseException) -> bool:
    """Whether an error comes from a model's rotary embedding, which looks its kind up in a table."""
    places = [frame.f_code.co_qualname for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(places) and "Rotary" in places[-1]


def _raised_by_tokenizer(error: BaseException) -> bool:
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(files) and "tokenization_" in files[-1].replace("\\", "/").rpartition("/")[2]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
