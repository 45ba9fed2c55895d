"""Paths that clients of other servers ask for: what to ask instead."""

from __future__ import annotations

from collections.abc import Iterable

_CHATS = "use /v1/chat/completions, which answers chats, calls tools, and reasons"
_COMPLETIONS = "use /v1/completions"
_OLLAMA = (
    "Ollama's API is not served: let the client use the OpenAI API at /v1 (/v1/chat/completions, /v1/models); GaC's "
    "endpoints are served with --gac-api"
)
_MODELS = "/v1/models lists the models, and a request names one by its field model"
_PIECES = "/tokenize and /detokenize are of a member alone; /v1/pieces lists its tokens, or the pieces of an ensemble"
_WRITES = "ensembles write text, by /v1/chat/completions and /v1/completions, and do nothing else"
_STORES = (
    "no files or threads are kept: send a conversation whole to /v1/chat/completions, or follow one by /v1/responses"
)
_RESPONSES = "use /v1/responses; to cancel one, leave while it is written"
_ELSEWHERE: dict[str, tuple[str, ...]] = {
    _CHATS: ("messages", "complete", "chat", "conversation", "apply-template"),
    _RESPONSES: ("responses",),
    _COMPLETIONS: ("completion", "generate", "generate_stream", "invocations", "infill", "edits", "fim"),
    _OLLAMA: ("api",),
    _MODELS: ("engines", "props", "info", "version", "get_model_info", "model_info", "server_info", "slots", "models"),
    _PIECES: ("tokenize", "detokenize", "tokenizer_info", "tokens", "pieces"),
    _WRITES: (
        *("embeddings", "embedding", "embed", "rerank", "reranking", "score", "classify", "pooling", "moderations"),
        *("images", "audio", "videos", "realtime", "fine_tuning", "fine-tunes", "evals"),
    ),
    _STORES: ("assistants", "threads", "files", "batches", "uploads", "vector_stores", "conversations", "containers"),
    "use /openapi.json": ("docs", "redoc", "openapi.yaml", "swagger"),
    "use /health (the process works) and /ready (requests are served)": ("healthz", "livez", "readyz", "ping"),
}
_WORDS = {segment: words for words, segments in _ELSEWHERE.items() for segment in segments}
"""By the first segment of a path, behind ``/v1``."""
_VERSIONS = ("v1", "v2", "v1beta", "openai", "")
_SERVED = (
    "the API is OpenAI's: /v1/chat/completions, /v1/responses, /v1/completions, /v1/models; /openapi.json has it all"
)


def way_out(path: str) -> str:
    """What to ask in place of a path that is not served. Nothing of the path is repeated."""
    segments = path.strip("/").lower().split("/")
    while segments and segments[0] in _VERSIONS:
        del segments[0]
    if segments[:1] == ["deployments"]:  # Azure's, of a model
        segments = [segment for segment in segments[1:] if segment in _WORDS]
    return (segments and _WORDS.get(segments[0].partition(":")[0])) or _SERVED


def other_method(method: str, taken: Iterable[str], path: str = "") -> str:
    """Why a path is not answered that is asked for with another method than it takes."""
    methods = sorted(set(taken) - {"HEAD", "OPTIONS"})
    words = f"this path takes {' or '.join(methods)}, not {method}" if methods else f"this path does not take {method}"
    if method == "POST" and way_out(path) == _RESPONSES:
        return f"{words}: /v1/responses writes them, and its usage counts tokens; nothing is compacted"
    if method == "POST":  # to the base URL alone, or what other servers have there
        return f"{words}; {_SERVED}"
    return f"{words}: send the request as a JSON body" if methods == ["POST"] else words
