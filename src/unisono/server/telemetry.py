"""Logs and metrics. Nothing of a prompt or an answer is in them, unless `--log-prompts` asks for it.

Logs go to stderr, one JSON object per line. Of a request, only the names of loaded models become labels of metrics.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from unisono.engine.circuit_breaker import CircuitBreaker
from unisono.engine.engine import Engine
from unisono.engine.lost_members import health
from unisono.engine.member import Member
from unisono.engine.service import Service
from unisono.records import Generation
from unisono.server.readiness import ensembles

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
SIZES = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)

CUT = 200
"""The most characters of a client's text in a log line."""
LONG = 2000
"""The most characters of other texts."""
WHOLE = ("prompt", "text")
"""What `--log-prompts` asks for."""

log = logging.getLogger("unisono.server")


def say(event: str, *, level: int = logging.INFO, **facts: Any) -> None:
    """Log an event and its facts, without those that are ``None``."""
    if log.isEnabledFor(level):
        log.log(level, event, extra={"facts": {name: value for name, value in facts.items() if value is not None}})


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": cut(record.getMessage(), LONG),
        }
        for name, value in getattr(record, "facts", {}).items():
            line[name] = value if name in WHOLE else cut(value, LONG)
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = where(record.exc_info[1])
        return json.dumps(line, default=repr)


def cut(value: Any, most: int = CUT) -> Any:
    """A value without the end of a text that is too long."""
    if isinstance(value, list):
        return [cut(each, most) for each in value]
    if isinstance(value, str) and len(value) > most:
        return f"{value[:most]}… ({len(value)} characters)"
    return value


def where(error: BaseException) -> str:
    """The type and place of an error; not its message, which may cite a prompt."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        place = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return type(error).__name__ + place


@contextlib.contextmanager
def to_stderr() -> Iterator[None]:
    """Send the logs of unisono, uvicorn and asyncio to stderr within the context."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    levels = {"unisono": logging.INFO, "uvicorn": logging.WARNING, "asyncio": logging.WARNING}
    loggers = {logging.getLogger(name): level for name, level in levels.items()}
    before = {logger: (logger.handlers[:], logger.level, logger.propagate) for logger in loggers}
    try:
        for logger, level in loggers.items():
            logger.handlers[:], logger.propagate = [handler], False
            logger.setLevel(level)
        yield
    finally:
        for logger, (handlers, level, propagate) in before.items():
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)


class ConnectionMetrics:
    """The metrics of a server's connections, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.connections = self._gauge("connections", "Open connections.")
        self.connections_ended = self._counter(
            "connections_ended", "Connections that the server closed or refused, by reason.", "reason"
        )

    def page(self) -> bytes:
        return generate_latest(self._registry)

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"unisono_{name}", words, labels, registry=self._registry)

    def _gauge(self, name: str, words: str, *labels: str) -> Gauge:
        return Gauge(f"unisono_{name}", words, labels, registry=self._registry)

    def _histogram(self, name: str, words: str, *labels: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
        return Histogram(f"unisono_{name}", words, labels, buckets=buckets, registry=self._registry)


class MemberCounters(Collector):
    """Counters that are read at each scrape, as gauges can be: members count."""

    def __init__(self) -> None:
        self.members: dict[tuple[str, str], Member] = {}
        """By model and member."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        names = ("model", "member")
        losses = CounterMetricFamily("unisono_member_losses", "How often the member was lost.", labels=names)
        choices = CounterMetricFamily(
            "unisono_member_choices",
            "Choices at which a member voted that tells its likeliest ids only, by whether these proved them.",
            labels=(*names, "certain"),
        )
        again = CounterMetricFamily(
            "unisono_member_asked_again", "How often such a member was asked for more of a distribution.", labels=names
        )
        for its, member in self.members.items():
            losses.add_metric(its, member.breaker.losses)
            if (certificates := member.certificates) is not None:
                choices.add_metric((*its, "yes"), certificates.certain)
                choices.add_metric((*its, "no"), certificates.uncertain)
                again.add_metric(its, certificates.asked_again)
        yield from (losses, choices, again)


class Metrics(ConnectionMetrics):
    """The metrics of one server of ensembles."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = self._counter("requests", "HTTP requests answered.", "path", "model", "status")
        self.request_seconds = self._histogram(
            "request_seconds", "From the first byte of a request to the last byte of its answer.", "path", "model"
        )
        self.failures = self._counter("failures", "Requests that ended because a model failed.", "model")
        self.ready = self._gauge("ready", "1 if the server is ready, else 0.")
        self.running = self._gauge("requests_running", "Requests being served.")
        self.waiting = self._gauge("requests_waiting", "Requests in the queue.")
        self.batch = self._histogram("batch_size", "Requests served by a step.", buckets=SIZES)
        self.turn_seconds = self._histogram("turn_seconds", "Duration of a step.")
        self.first_piece = self._histogram(
            "time_to_first_token_seconds", "From the arrival of a request to the first text of its answer.", "model"
        )
        self.between_pieces = self._histogram(
            "time_between_pieces_seconds", "Between two outputs of a text; an accepted draft is one output.", "model"
        )
        self._prompt_tokens = self._counter("prompt_tokens", "Prompt tokens, by member.", "model", "member")
        self._member_seconds = self._counter(
            "member_seconds", "Time in forward passes; a pass shared by texts counts fully for each.", "model", "member"
        )
        self._pieces = self._counter("pieces", "Pieces generated.", "model")
        self._ensembled = self._counter("pieces_ensembled", "Pieces for which all members ran.", "model")
        self._drafted = self._counter("pieces_drafted", "Pieces drafted.", "model")
        self._accepted = self._counter("pieces_accepted", "Drafted pieces accepted.", "model")
        self._uncertain = self._counter(
            "pieces_uncertain", "Pieces and ends that what members tell of their distributions did not prove.", "model"
        )
        self._degraded = self._counter(
            "choices_degraded", "Pieces and ends chosen without a member that was away.", "model", "member"
        )
        self._unasked = self._counter(
            "choices_unasked", "Pieces and ends that were certain without a member (gate: certain).", "model", "member"
        )
        self._member_up = self._gauge("member_up", "1 if the member answers, else 0.", "model", "member")
        self._member_pass = self._gauge(
            "member_pass_seconds", "What a pass of the member takes, lately.", "model", "member"
        )
        self._members = MemberCounters()
        self._registry.register(self._members)
        self._member_behind = self._gauge(
            "member_behind_ids", "Ids that wait for the member in texts that go on without it.", "model", "member"
        )
        self._ended = self._counter("texts", "Texts finished, by reason.", "model", "finish")

    def follow(self, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        """Read the numbers of requests from the service at each scrape."""
        self.running.set_function(running)
        self.waiting.set_function(waiting)

    def follow_members(self, service: Service) -> None:
        """Read how the members do at each scrape."""
        for model, member, _ in ensembles(service):
            names, engine, breaker = (model, member.name), service.engines[model], member.breaker
            self._member_up.labels(*names).set_function(partial(_is_up, breaker))
            self._member_pass.labels(*names).set_function(partial(_pass_seconds, breaker))
            self._members.members[names] = member
            self._member_behind.labels(*names).set_function(partial(_behind, member, engine))

    def ended(self, model: str, index: int, generation: Generation) -> None:
        """Count a finished text; the prompt counts with the first text of its request."""
        usage = generation.usage
        self._pieces.labels(model).inc(usage.pieces)
        self._ensembled.labels(model).inc(usage.ensembled)
        self._drafted.labels(model).inc(usage.drafted)
        self._accepted.labels(model).inc(usage.accepted)
        self._uncertain.labels(model).inc(usage.uncertain or 0)
        for member, count in (usage.degraded or {}).items():
            self._degraded.labels(model, member).inc(count)
        for member, count in (usage.unasked or {}).items():
            self._unasked.labels(model, member).inc(count)
        self._ended.labels(model, generation.finish_reason).inc()
        for member, tokens in usage.prompt_tokens.items() if index == 0 else ():
            self._prompt_tokens.labels(model, member).inc(tokens)
        for member, seconds in generation.seconds.members.items():
            self._member_seconds.labels(model, member).inc(seconds)


def _is_up(breaker: CircuitBreaker) -> float:
    return float(breaker.reason is None)


def _pass_seconds(breaker: CircuitBreaker) -> float:
    return breaker.pass_seconds or 0.0


def _behind(member: Member, engine: Engine) -> float:
    return float(health(member, engine.groups).behind)
