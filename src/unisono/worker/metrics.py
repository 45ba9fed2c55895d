"""A worker's metrics."""

from __future__ import annotations

from unisono.server.telemetry import SIZES, ConnectionMetrics
from unisono.worker.leases import Leases


class WorkerMetrics(ConnectionMetrics):
    def __init__(self) -> None:
        super().__init__()
        self.calls = self._counter("worker_calls", "Calls that asked the model something.")
        self.failures = self._counter("worker_failures", "Calls in which the model failed.")
        self.seconds = self._histogram("worker_pass_seconds", "Duration of a pass of the model.")
        self.batch = self._histogram("worker_batch_size", "Texts asked about in a call.", buckets=SIZES)
        self._sessions = self._gauge("worker_sessions", "Clients that hold slots.")
        self._slots = self._gauge("worker_slots_taken", "Slots that clients hold.")

    def follow(self, leases: Leases) -> None:
        """Read how much is leased at each scrape."""
        self._sessions.set_function(lambda: float(leases.sessions))
        self._slots.set_function(lambda: float(leases.slots))
