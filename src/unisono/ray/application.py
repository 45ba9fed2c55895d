"""The application of Ray Serve: ``import_path: unisono.ray.application:app``, and `unisono serve --ray`, which runs it.

The only file that imports Serve.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve import Application
from ray.serve.schema import ProxyStatus

from unisono.errors import ModelError, SpecError
from unisono.ray import cluster
from unisono.ray.arguments import Arguments, Replicas
from unisono.ray.replica import Replica, Unhealthy
from unisono.server.telemetry import say

NAME = "unisono"
"""Of the application that `unisono serve --ray` runs."""
HEALTH_SECONDS = 5.0
"""Between two questions whether a replica is healthy."""
PROXY_SECONDS = 120.0
"""In which a proxy has to be ready."""
DELAY_SECONDS = 60.0
"""For which fewer requests have to last before replicas are ended: a replica loads models."""


@serve.deployment(name="Ensemble")
@serve.ingress()
class Ensemble:
    async def __init__(self, arguments: Mapping[str, Any]) -> None:  # type: ignore[misc]
        self.replica = Replica(Arguments.read(arguments))
        await self.replica.start()

    def __serve_build_asgi_app__(self) -> Replica:
        return self.replica

    async def check_health(self) -> None:
        self.replica.check()


def app(arguments: Mapping[str, Any]) -> Application:
    """Make the application of its arguments, see `Arguments`. Raises a `SpecError`."""
    read = Arguments.read(arguments)
    limits = read.server_limits()
    options: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": read.num_cpus, "num_gpus": read.num_gpus, "resources": read.resources},
        # Above this Serve lets requests wait; the replica's own limit refuses them with OpenAI's error.
        "max_ongoing_requests": limits.concurrency,
        "health_check_period_s": HEALTH_SECONDS,
        "graceful_shutdown_wait_loop_s": 0.5,
        "graceful_shutdown_timeout_s": limits.grace,
    }
    if isinstance(read.replicas, Replicas):
        options["num_replicas"] = None
        options["autoscaling_config"] = {
            "min_replicas": read.replicas.least,
            "max_replicas": read.replicas.most,
            "target_ongoing_requests": read.replicas.requests or 1.5 * read.batch,
            "downscale_delay_s": DELAY_SECONDS,
        }
    else:
        options["num_replicas"] = read.replicas
    deployment: Any = Ensemble
    return deployment.options(**options).bind(read.model_dump())


def serve_application(arguments: Arguments, host: str, port: int) -> None:
    """Serve on an address of the cluster's head, wherever the replicas are, until SIGTERM or Ctrl-C.

    Raises a `SpecError` where Serve runs in the cluster already, and a `ModelError` where no replica starts.
    """
    cluster.connect(None)
    for number in (signal.SIGINT, signal.SIGTERM):  # Ray, once joined, would end the process by itself
        signal.signal(number, signal.default_int_handler)
    if serve.status().proxies:
        raise SpecError(
            "Ray Serve runs in this cluster already, on an address of its own",
            hint="deploy there: serve deploy config.yaml, with import_path unisono.ray.application:app",
        )
    try:
        start_proxy(host, port)
        say("loading", replicas=arguments.replicas)
        serve.run(app(arguments.model_dump()), name=NAME, route_prefix="/", blocking=False)
        say("ready", host=host, port=port)
        threading.Event().wait()
    except KeyboardInterrupt:
        say("draining", grace_seconds=arguments.server_limits().grace)
    except RuntimeError as error:
        raise ModelError(
            f"the application does not start: {_reason() or cluster.first_line(error)}",
            hint="the logs of its replicas say more: they are in logs/serve of Ray's session, /tmp/ray/session_latest",
        ) from error
    finally:
        serve.shutdown()
    say("ended", clean=True)


def start_proxy(host: str, port: int) -> None:
    """Start Serve, with its proxy on the cluster's head. Raises a `ModelError` where there is none in time.

    Serve ends a proxy that is not ready within seconds, as on a busy machine, and starts another one, which may take
    longer; but `serve.start` waits for the first alone.
    """
    try:
        serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
        return
    except (RayActorError, TimeoutError) as error:
        died = error
    deadline = time.monotonic() + PROXY_SECONDS
    while not (proxies := serve.status().proxies) or any(each != ProxyStatus.HEALTHY for each in proxies.values()):
        if time.monotonic() >= deadline:
            raise ModelError(
                f"the proxy of Ray Serve is not ready on {host}:{port} after {PROXY_SECONDS:g} s: "
                f"{cluster.first_line(died)}",
                hint="the machine may be too busy: start the cluster with RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S=60, "
                "the seconds that a proxy has",
            ) from died
        time.sleep(0.2)


def _reason() -> str | None:
    """What a replica that does not start says of it, which Serve cites amid a traceback."""
    present = serve.status().applications.get(NAME)
    told = "\n".join(each.message for each in present.deployments.values()) if present else ""
    lines = [line.partition(f"{Unhealthy.__name__}: ")[2] for line in told.splitlines()]
    return next((line for line in lines if line), None)
