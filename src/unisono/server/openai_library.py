"""OpenAI's own records: the one file that imports them."""

from __future__ import annotations

from openai.types import Completion, CompletionUsage, Model, chat, completion_choice, shared_params
from openai.types.chat import ChatCompletion, ChatCompletionChunk, chat_completion
from openai.types.chat import chat_completion_chunk as chat_chunk
from openai.types.chat.chat_completion_token_logprob import TopLogprob
from openai.types.completion_choice import Logprobs
from openai.types.responses import ResponseIncludable

__all__ = [
    "ChatCompletion",
    "ChatCompletionChunk",
    "Completion",
    "CompletionUsage",
    "Logprobs",
    "Model",
    "ResponseIncludable",
    "TopLogprob",
    "chat",
    "chat_chunk",
    "chat_completion",
    "completion_choice",
    "shared_params",
]  # fmt: skip
