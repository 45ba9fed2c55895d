"""Actors, nodes and the cluster's head that are killed while texts are written, and come back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from support import ray_clusters
from support.fakes import PROMPTS, make_fakes
from unisono import Ensemble
from unisono.errors import MemberUnavailable

FAR = {"num_cpus": 0.5, "resources": {"far": 0.1}}
ACTOR = "ray::HostedMember"


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that keeps its state in files, and a node with the resource ``far``."""
    monkeypatch.setenv("RAY_gcs_storage", "rocksdb")
    monkeypatch.setenv("RAY_gcs_storage_path", str(tmp_path / "gcs"))
    make_fakes()
    with ray_clusters.cluster() as made:
        made.far = add_far(made)  # type: ignore[attr-defined]
        yield made


def add_far(cluster: Cluster) -> Any:
    node = cluster.add_node(**ray_clusters.NODE, resources={"far": 1}, include_dashboard=False)
    cluster.wait_for_nodes()
    return node


def pair(**keys: Any) -> dict[str, Any]:
    far = {"name": "a", "model": "fake:a", "ray": FAR, "timeout": 5.0, **keys}
    return {"members": [far, {"name": "b", "model": "fake:b"}]}


def written(ensemble: Ensemble) -> tuple[str, int]:
    """A text, and how many of its choices were made without the far member."""
    generation = ensemble.generate(PROMPTS[0], max_new_tokens=12)
    return generation.text, (generation.usage.degraded or {}).get("a", 0)


def test_texts_go_on_without_an_actor_or_a_node_that_is_killed(nodes: Cluster) -> None:
    with Ensemble.load(pair(on_failure="degrade")) as ensemble:
        expected = written(ensemble)
        assert expected[1] == 0
        stream = ensemble.stream(PROMPTS[0], max_new_tokens=12)
        for number, _ in enumerate(stream):
            if number == 2:
                [pid] = ray_clusters.processes(ACTOR)
                ray_clusters.kill(pid)
        assert stream.generation is not None
        assert (stream.generation.usage.degraded or {})["a"] > 0
        ray_clusters.until(lambda: written(ensemble) == expected)

        nodes.remove_node(nodes.far, allow_graceful=False)  # type: ignore[attr-defined]
        ray_clusters.until(lambda: written(ensemble)[1] > 0)  # its processes notice that a little later
        add_far(nodes)
        ray_clusters.until(lambda: written(ensemble) == expected)

        nodes.head_node.kill_gcs_server()
        assert written(ensemble) == expected  # who is there needs no head
        [pid] = ray_clusters.processes(ACTOR)
        ray_clusters.kill(pid)
        assert written(ensemble)[1] > 0
        nodes.head_node.start_gcs_server()
        ray_clusters.until(lambda: written(ensemble) == expected)

        ray.kill(actor_of(ensemble))  # for good: it is made anew
        assert written(ensemble)[1] > 0
        ray_clusters.until(lambda: written(ensemble) == expected)


def test_an_error_names_the_member_and_what_became_of_its_actor(nodes: Cluster) -> None:
    with Ensemble.load(pair(retries=0)) as ensemble:
        expected = written(ensemble)
        [pid] = ray_clusters.processes(ACTOR)
        ray_clusters.kill(pid)
        with pytest.raises(MemberUnavailable, match=r"member 'a' at ray:auto/a .*its actor"):
            written(ensemble)

        def is_back() -> bool:
            try:
                return written(ensemble) == expected
            except MemberUnavailable:
                return False

        ray_clusters.until(is_back)


def actor_of(ensemble: Ensemble) -> Any:
    [backend] = [member.backend for member in ensemble._engine.members if member.name == "a"]
    return backend._caller.actor()
