"""Speaks llama-server's format around a fake model."""

from __future__ import annotations

import numpy as np

from support.http_stand_in import Reply, Request, StandIn, as_json
from unisono.backends.prefix_cache import common
from unisono.testing import FakeModel
from unisono.vocab.pieces import token_bytes

ANY = -1
"""The slot of questions that are no text's: those that look whether the weights are the same."""


class LlamaServerStandIn(StandIn):
    def __init__(self, model: FakeModel, *, slots: int = 4, alias: str = "fake.gguf", key: str | None = None) -> None:
        super().__init__()
        self.model, self.alias, self.key = model, alias, key
        self.size = 1000
        self.held: dict[int, list[int]] = {slot: [] for slot in range(slots)}

    def asked(self, path: str) -> list[Request]:
        return [each for each in super().asked(path) if (each.body or {}).get("id_slot") != ANY]

    def reply(self, request: Request) -> Reply:
        if (request.body or {}).get("id_slot") != ANY:
            return super().reply(request)
        self.requests.append(request)  # faults are for texts
        return self.answer(request)

    def answer(self, request: Request) -> Reply:
        path = request.path.partition("?")[0]
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return as_json({"error": {"code": 401, "message": "Invalid API Key"}}, 401)
        known = {"/props": self.props, "/v1/models": self.models, "/tokenize": self.tokenize}
        if path in known:
            return as_json(known[path](request.body or {}))
        if path == "/completion":
            return self.complete(request.body or {})
        return as_json({"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}, 404)

    def props(self, _: dict) -> dict:
        return {
            "default_generation_settings": {"n_ctx": self.model.context, "params": {}},
            "total_slots": len(self.held),
            "model_path": f"/models/{self.alias}",
            "model_alias": self.alias,
            "build_info": "b1-stand-in",
            "chat_template": self.model.tokenizer.table.chat_template or "",
        }

    def models(self, _: dict) -> dict:
        meta = {"n_vocab": self.model.output_rows, "n_params": 1, "size": self.size}
        return {"object": "list", "data": [{"id": self.alias, "owned_by": "llamacpp", "meta": meta}]}

    def tokenize(self, body: dict) -> dict:
        tokenizer = self.model.tokenizer
        return {"tokens": tokenizer.encode_prompt(body["content"])[len(tokenizer.table.opening) :]}

    def complete(self, body: dict) -> Reply:
        ids, slot = body["prompt"], body["id_slot"]
        if len(ids) >= self.model.context:
            return as_json({"error": {"code": 400, "message": "exceeds the available context size"}}, 400)
        cached = 0
        if slot != ANY:
            cached = min(common(ids, self.held[slot]), len(ids) - 1)
            self.held[slot] = list(ids)
        told = {
            "model": self.alias,
            "tokens_evaluated": len(ids),
            "truncated": False,
            "timings": {"cache_n": cached, "prompt_n": len(ids) - cached},
        }
        if body["n_predict"] and self.is_whole(ids, body["logit_bias"]):
            told["completion_probabilities"] = [self.probabilities(ids, body["n_probs"])]
        return as_json({name: told[name] for name in body["response_fields"] if name in told})

    def is_whole(self, ids: list[int], bias: list[list[float]]) -> bool:
        """Whether the token that is chosen ends a character: of others llama-server tells nothing."""
        logits_V = np.array(self.model.next_token(tuple(ids)), np.float64)
        for token, nats in bias:
            logits_V[int(token)] += nats
        table, chosen = self.model.tokenizer.table, int(logits_V.argmax())
        if chosen >= len(table.texts):
            return True
        try:
            (token_bytes(table.texts[chosen], table.kinds[chosen], table.scheme) or b"").decode()
        except UnicodeDecodeError:
            return False
        return True

    def probabilities(self, ids: list[int], top: int) -> dict:
        logits_V = self.model.next_token(tuple(ids))
        p_V = np.exp(logits_V - logits_V.max(), dtype=np.float32)
        p_V /= p_V.sum(dtype=np.float32)
        logp_V = np.where(p_V > 0, np.log(np.maximum(p_V, 1e-45)), np.finfo(np.float32).min)
        likeliest = np.argsort(-logits_V, kind="stable")[:top].tolist()
        texts = self.model.tokenizer.table.texts
        entries = [
            {"id": token, "token": texts[token] if token < len(texts) else "", "logprob": float(logp_V[token])}
            for token in likeliest
        ]
        return {**entries[0], "top_logprobs": entries}
