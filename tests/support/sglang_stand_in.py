"""Speaks SGLang's /generate around a fake model."""

from __future__ import annotations

from typing import Any

from support.completions_stand_in import CompletionsStandIn
from support.http_stand_in import Reply, Request, as_json
from unisono.testing import FakeModel


class SGLangStandIn(CompletionsStandIn):
    def __init__(self, model: FakeModel) -> None:
        super().__init__(model)
        self.entries[0]["owned_by"] = "sglang"
        self.weights = "default"

    def answer(self, request: Request) -> Reply:
        if request.path in ("/model_info", "/server_info"):
            return as_json({"model_path": "org/fake", "version": "0.0-stand-in"})
        if request.path == "/generate":
            return as_json(self.generate(request.body or {}))
        if request.path == "/v1/completions":
            return as_json({"error": "not asked for here"}, 404)
        return super().answer(request)

    def generate(self, body: dict[str, Any]) -> dict[str, Any]:
        ids = body["input_ids"]
        meta: dict[str, Any] = {"prompt_tokens": len(ids), "cached_tokens": 0, "weight_version": self.weights}
        if body.get("return_logprob"):
            told, logp_V = self.likeliest(ids, body["top_logprobs_num"])
            meta["output_top_logprobs"] = [[[float(logp_V[token]), token, None] for token in told]]
            asked = body.get("token_ids_logprob", [])
            meta["output_token_ids_logprobs"] = [[[float(logp_V[token]), token, None] for token in asked]]
        return {"text": "", "output_ids": [0], "meta_info": meta}
