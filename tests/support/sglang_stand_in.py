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
        self.tells_blocks = True

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
            top, asked = body["top_logprobs_num"], body.get("token_ids_logprob", [])
            meta["output_top_logprobs"], meta["output_token_ids_logprobs"] = self.told([ids], top, asked)
            if (start := body["logprob_start_len"]) >= 0 and self.tells_blocks:
                before = [ids[:end] for end in range(start + 1, len(ids))]
                by_rank, by_number = self.told(before, top, asked)
                meta["input_top_logprobs"] = [None, *by_rank]
                meta["input_token_ids_logprobs"] = [None, *by_number]
                meta["input_token_logprobs"] = [[None, ids[start], None]]
                for text in before:
                    token = ids[len(text)]
                    meta["input_token_logprobs"].append([float(self.likeliest(text, 1)[1][token]), token, None])
        return {"text": "", "output_ids": [0], "meta_info": meta}

    def told(self, texts: list[list[int]], top: int, asked: list[int]) -> tuple[list[Any], list[Any]]:
        """Entries by rank and by number behind each text."""
        by_rank, by_number = [], []
        for text in texts:
            likeliest, logp_V = self.likeliest(text, top)
            by_rank.append([[float(logp_V[token]), token, None] for token in likeliest])
            by_number.append([[float(logp_V[token]), token, None] for token in asked])
        return by_rank, by_number
