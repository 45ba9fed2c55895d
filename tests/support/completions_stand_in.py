"""Speaks vLLM's /v1/completions around a fake model."""

from __future__ import annotations

from typing import Any

import numpy as np

from support.http_stand_in import Reply, Request, StandIn, as_json
from unisono.testing import FakeModel


class CompletionsStandIn(StandIn):
    """``extras`` are vLLM's; without them it is a server that has the interface alone."""

    def __init__(self, model: FakeModel, *, most: int = 20, extras: bool = True, by_id: bool = True) -> None:
        super().__init__()
        self.model, self.most, self.extras, self.by_id = model, most, extras, by_id
        self.entries = [{"id": "org/fake", "object": "model", "owned_by": "vllm", "root": "org/fake"}]
        self.entries[0] |= {"max_model_len": model.context} if extras else {"owned_by": "someone"}

    def answer(self, request: Request) -> Reply:
        body = request.body or {}
        if request.path == "/v1/models":
            return as_json({"object": "list", "data": self.entries})
        if request.path == "/version" and self.extras:
            return as_json({"version": "0.0-stand-in"})
        if request.path == "/tokenize" and self.extras:
            tokenizer = self.model.tokenizer
            return as_json({"tokens": tokenizer.encode_prompt(body["prompt"])[len(tokenizer.table.opening) :]})
        if request.path != "/v1/completions":
            return as_json({"detail": "Not Found"}, 404)
        if body.get("logprobs", 0) > self.most:
            return as_json({"error": {"message": "Requested sample logprobs is greater than max allowed"}}, 400)
        if len(body["prompt"]) + 1 > self.model.context:
            return as_json({"error": {"message": "maximum context length"}}, 400)
        return as_json(self.complete(body))

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        ids, choice = body["prompt"], {"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}
        if "logprobs" in body:
            told, logp_V = self.likeliest(ids, body["logprobs"])
            if self.extras and "logprob_token_ids" in body:  # these take the place of the likeliest
                told = list(dict.fromkeys([told[0], *body["logprob_token_ids"]]))
            names = {token: f"token_id:{token}" if self.by_id else repr(token) for token in told}
            choice["logprobs"] = {"top_logprobs": [{names[token]: float(logp_V[token]) for token in told}]}
        if self.extras and "prompt_logprobs" in body:
            choice["prompt_logprobs"] = [
                None,
                *(self.position(ids, n, body["prompt_logprobs"]) for n in range(1, len(ids))),
            ]
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1, "prompt_tokens_details": None}
        return {"id": "cmpl-1", "model": body["model"], "choices": [choice], "usage": usage}

    def position(self, ids: list[int], place: int, top: int) -> dict[str, Any]:
        likeliest, logp_V = self.likeliest(ids[:place], len(self.model.tokenizer.table.texts))
        told = dict.fromkeys([ids[place], *likeliest[:top]])
        return {str(n): {"logprob": float(logp_V[n]), "rank": likeliest.index(n) + 1} for n in told}

    def likeliest(self, ids: list[int], top: int) -> tuple[list[int], np.ndarray[Any, Any]]:
        logits_V = self.model.next_token(tuple(ids))
        logp_V = logits_V - logits_V.max()
        logp_V = np.maximum(logp_V - np.log(np.exp(logp_V).sum(dtype=np.float32)), np.float32(-9999.0))
        return np.argsort(-logits_V, kind="stable")[:top].tolist(), logp_V
