"""Actors, nodes and the cluster's head that are killed while texts are written, and come back."""

from __future__ import annotations

from collections.abc import Iterator
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


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A head that keeps its state in files, and a node with the resource ``far``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_gcs_storage", "rocksdb")
        patch.setenv("RAY_gcs_storage_path", str(tmp_path_factory.mktemp("gcs")))
        make_fakes()
        with ray_clusters.cluster() as made:
            yield Nodes(made)


class Nodes:
    def __init__(self, cluster: Cluster) -> None:
        self.head = cluster.head_node
        self._cluster = cluster
        self.add_far()

    def add_far(self) -> None:
        self._far = self._cluster.add_node(**ray_clusters.NODE, resources={"far": 1}, include_dashboard=False)

    def kill_far(self) -> None:
        self._cluster.remove_node(self._far, allow_graceful=False)


def pair(**keys: Any) -> Ensemble:
    far = {"name": "a", "model": "fake:a", "ray": FAR, "timeout": 5.0, **keys}
    return Ensemble.load({"members": [far, {"name": "b", "model": "fake:b"}]})


def written(ensemble: Ensemble) -> tuple[str, int]:
    """A text, and how many of its choices were made without the far member."""
    generation = ensemble.generate(PROMPTS[0], max_new_tokens=12)
    return generation.text, (generation.usage.degraded or {}).get("a", 0)


def kill_actor() -> None:
    [pid] = ray_clusters.processes(ACTOR)
    ray_clusters.kill(pid)


def test_a_text_goes_on_without_an_actor_that_is_killed(nodes: Nodes) -> None:
    with pair(on_failure="degrade") as ensemble:
        expected = written(ensemble)
        assert expected[1] == 0
        stream = ensemble.stream(PROMPTS[0], max_new_tokens=12)
        for number, _ in enumerate(stream):
            if number == 2:
                kill_actor()
        assert stream.generation is not None
        assert (stream.generation.usage.degraded or {})["a"] > 0
        ray_clusters.until(lambda: written(ensemble) == expected)


def test_an_error_names_the_member_and_what_became_of_its_actor(nodes: Nodes) -> None:
    def is_back() -> bool:
        try:
            return written(ensemble) == expected
        except MemberUnavailable:
            return False

    with pair() as ensemble:
        expected = written(ensemble)
        kill_actor()
        with pytest.raises(MemberUnavailable, match=r"member 'a' at ray:auto/a .*its actor"):
            written(ensemble)
        ray_clusters.until(is_back)


def test_an_actor_that_is_killed_for_good_is_made_anew(nodes: Nodes) -> None:
    with pair(on_failure="degrade") as ensemble:
        expected = written(ensemble)
        [backend] = [member.backend for member in ensemble._engine.members if member.name == "a"]
        ray.kill(backend._caller.actor())  # type: ignore[attr-defined]
        ray_clusters.until(lambda: written(ensemble)[1] > 0)
        ray_clusters.until(lambda: written(ensemble) == expected)


def test_without_the_head_steps_go_on_and_with_it_the_lost_come_back(nodes: Nodes) -> None:
    with pair(on_failure="degrade") as ensemble:
        expected = written(ensemble)
        nodes.head.kill_gcs_server()
        assert written(ensemble) == expected
        kill_actor()
        ray_clusters.until(lambda: written(ensemble)[1] > 0)
        nodes.head.start_gcs_server()
        ray_clusters.until(lambda: written(ensemble) == expected)


def test_a_member_whose_node_is_killed_comes_back_with_another_node(nodes: Nodes) -> None:
    with pair(on_failure="degrade") as ensemble:
        expected = written(ensemble)
        nodes.kill_far()
        ray_clusters.until(lambda: written(ensemble)[1] > 0)  # its processes notice that a little later
        nodes.add_far()
        ray_clusters.until(lambda: written(ensemble) == expected)
