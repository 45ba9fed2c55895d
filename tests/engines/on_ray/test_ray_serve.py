"""Replicas of an ensemble by Ray Serve: nothing is lost or wrong when one dies, and none is missed when they change."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from ray import serve

from support import ray_clusters
from support.engine_processes import free_port
from support.fakes import PROMPTS, make_fakes
from unisono import Ensemble
from unisono.ray.application import NAME, app, start_proxy

REQUESTS = 200
REPLICA = f"ray::ServeReplica:{NAME}:Ensemble"
MEMBERS = [{"name": "a", "model": "fake:a", "ray": {"num_cpus": 0.1}}, {"name": "b", "model": "fake:b"}]
TEXTS = [prompt.text for prompt in PROMPTS if prompt.text is not None]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("ensembles") / "pair.yaml"
    file.write_text(str({"members": MEMBERS}))
    return {"ensembles": [str(file)], "replicas": 2, "num_cpus": 0.1, "limits": {"grace": 20.0}}


@pytest.fixture(scope="module")
def client(arguments: dict[str, Any]) -> Iterator[openai.OpenAI]:
    """OpenAI's client, as it is, of two replicas."""
    make_fakes()
    port = free_port()
    with ray_clusters.cluster():
        start_proxy("127.0.0.1", port)
        serve.run(app(arguments), name=NAME)
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=60)
        serve.shutdown()


@pytest.fixture(scope="module")
def expected() -> dict[tuple[str, int], str]:
    make_fakes()
    with Ensemble.load({"members": [{**member, "ray": None} for member in MEMBERS]}) as ensemble:
        return {
            (text, seed): ensemble.generate(text, max_new_tokens=10, sampling=f"0.9 seed:{seed}").text
            for text in TEXTS
            for seed in range(4)
        }


def ask(client: openai.OpenAI, text: str, seed: int) -> str:
    answer = client.completions.create(model="pair", prompt=text, max_tokens=10, temperature=0.9, seed=seed)
    return answer.choices[0].text


def asked(number: int) -> tuple[str, int]:
    return TEXTS[number % len(TEXTS)], number % 4


def test_of_two_hundred_requests_none_is_lost_or_wrong_when_a_replica_is_killed(
    client: openai.OpenAI, expected: dict[tuple[str, int], str]
) -> None:
    answered = threading.Semaphore(0)

    def one(number: int) -> str:
        found = ask(client, *asked(number))
        answered.release()
        return found

    with ThreadPoolExecutor(8) as pool:
        texts = [pool.submit(one, number) for number in range(REQUESTS)]
        for _ in range(REQUESTS // 3):
            answered.acquire()
        before = ray_clusters.processes(REPLICA)
        assert len(before) == 2
        ray_clusters.kill(before[0])
        found = [text.result() for text in texts]
    assert found == [expected[asked(number)] for number in range(REQUESTS)]
    ray_clusters.until(lambda: len(set(ray_clusters.processes(REPLICA)) - {before[0]}) == 2)


def test_while_replicas_change_all_requests_are_answered(
    client: openai.OpenAI, arguments: dict[str, Any], expected: dict[tuple[str, int], str]
) -> None:
    before = set(ray_clusters.processes(REPLICA))
    over, wrong, count = threading.Event(), list[object](), 0
    patient = client.with_options(max_retries=0)  # a client that sends nothing again

    def keep_asking() -> None:
        nonlocal count
        while not over.is_set():
            key = asked(count)
            try:
                if (found := ask(patient, *key)) != expected[key]:
                    wrong.append((key, found))
            except openai.OpenAIError as error:
                wrong.append(error)
            count += 1

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        serve.run(app({**arguments, "revision": "2"}), name=NAME)
    finally:
        over.set()
        asking.join()
    assert not wrong
    assert count > 10
    assert before.isdisjoint(ray_clusters.processes(REPLICA))


def test_a_replica_answers_as_the_server_does(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["pair", "pair/a", "pair/b"]
    pieces = client.completions.create(model="pair", prompt="the cat", max_tokens=6, temperature=0, stream=True)
    whole = client.completions.create(model="pair", prompt="the cat", max_tokens=6, temperature=0)
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text
    with pytest.raises(openai.BadRequestError, match="max_token"):
        client.completions.create(model="pair", prompt="a", extra_body={"max_token": 3})


def test_what_cannot_be_loaded_fails_the_deployment_in_words(client: openai.OpenAI, tmp_path: Path) -> None:
    file = tmp_path / "lost.yaml"
    file.write_text("members: [{name: lost, model: 'fake:lost'}]")
    with pytest.raises(RuntimeError):
        serve.run(app({"ensembles": [str(file)], "num_cpus": 0.1}), name="lost", route_prefix="/lost")
    deployment = serve.status().applications["lost"].deployments["Ensemble"]
    assert "there is no fake model 'lost'" in deployment.message
    serve.delete("lost")
