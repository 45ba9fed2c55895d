"""What is counted for Prometheus. No label comes from a request but the names of models that there are."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from unisono.records import Generation

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
SIZES = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "unisono_requests", "Answered HTTP requests.", ("path", "model", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "unisono_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ("path", "model"),
            buckets=SECONDS,
            registry=registry,
        )
        self.failures = Counter(
            "unisono_failures", "Requests that a model's failure ended.", ("model",), registry=registry
        )
        self.ready = Gauge("unisono_ready", "1 where the server is ready, 0 where it is not.", registry=registry)
        self.running = Gauge("unisono_requests_running", "Requests that are being served.", registry=registry)
        self.waiting = Gauge("unisono_requests_waiting", "Requests that stand in line.", registry=registry)
        self.batch = Histogram(
            "unisono_batch_size", "Requests that were served in a turn.", buckets=SIZES, registry=registry
        )
        self.turn_seconds = Histogram(
            "unisono_turn_seconds", "What a turn took for all it served.", buckets=SECONDS, registry=registry
        )
        self.first_piece = Histogram(
            "unisono_time_to_first_token_seconds",
            "From the arrival of a request to the first text of its answer.",
            ("model",),
            buckets=SECONDS,
            registry=registry,
        )
        self.between_pieces = Histogram(
            "unisono_time_between_pieces_seconds",
            "Between two moments at which something of a text was told; an accepted draft is told at once.",
            ("model",),
            buckets=SECONDS,
            registry=registry,
        )
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts, as each member counts.", "member")
        self._member_seconds = self._counter(
            "member_seconds", "Forward passes; one that serves several texts counts whole for each.", "member"
        )
        self._pieces = self._counter("pieces", "Pieces written.")
        self._ensembled = self._counter("pieces_ensembled", "Pieces at which all members were asked.")
        self._drafted = self._counter("pieces_drafted", "Pieces drafted.")
        self._accepted = self._counter("pieces_accepted", "Drafted pieces that were chosen.")
        self._ended = self._counter("texts", "Texts that ended, and why.", "finish")

    def follow(self, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        """Take the numbers of requests from the service itself."""
        self.running.set_function(running)
        self.waiting.set_function(waiting)

    def ended(self, model: str, index: int, generation: Generation) -> None:
        """Count a text that has ended; its prompt with the first of a request."""
        usage = generation.usage
        self._pieces.labels(model).inc(usage.pieces)
        self._ensembled.labels(model).inc(usage.ensembled)
        self._drafted.labels(model).inc(usage.drafted)
        self._accepted.labels(model).inc(usage.accepted)
        self._ended.labels(model, generation.finish_reason).inc()
        for member, tokens in usage.prompt_tokens.items() if index == 0 else ():
            self._prompt_tokens.labels(model, member).inc(tokens)
        for member, seconds in generation.seconds.members.items():
            self._member_seconds.labels(model, member).inc(seconds)

    def page(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self._registry)

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"unisono_{name}", words, ("model", *labels), registry=self._registry)
