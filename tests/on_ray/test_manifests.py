"""The examples for Ray: their ensemble files can be read, their arguments are understood, and a RayService is one.

The schema is written down here from what KubeRay's types say of a RayService (ray-operator/apis/ray/v1), as far as the
example goes. Unknown fields are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from unisono.config.ensemble import load_spec
from unisono.errors import SpecError
from unisono.ray.arguments import Arguments, Replicas

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "ray"


def record(required: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


def of_texts(least: int = 0) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": TEXT, "minProperties": least}


def listed(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


TEXT, COUNT, TRUTH = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
QUANTITIES = {"type": "object", "additionalProperties": {"type": "string", "pattern": r"^[0-9.]+([EPTGMk]i?|m)?$"}}
PORT = record(("containerPort",), containerPort={"type": "integer", "minimum": 1, "maximum": 65535}, name=TEXT)
CONTAINER = record(
    ("name", "image"),
    name=TEXT,
    image=TEXT,
    ports=listed(PORT),
    resources=record(limits=QUANTITIES, requests=QUANTITIES),
    volumeMounts=listed(record(("name", "mountPath"), name=TEXT, mountPath=TEXT, readOnly=TRUTH)),
)
VOLUME = record(
    ("name",), name=TEXT, configMap=record(("name",), name=TEXT), secret=record(("secretName",), secretName=TEXT)
)
POD = record(("spec",), spec=record(("containers",), containers=listed(CONTAINER), volumes=listed(VOLUME)))
HEAD = record(("rayStartParams", "template"), rayStartParams=of_texts(), template=POD)
WORKERS = record(
    ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    rayStartParams=of_texts(),
    template=POD,
)
CLUSTER = record(
    ("headGroupSpec",),
    rayVersion={"type": "string", "pattern": r"^2\.\d+\.\d+$"},
    authOptions=record(("mode",), mode={"enum": ["token", "disabled"]}),
    headGroupSpec=HEAD,
    workerGroupSpecs=listed(WORKERS),
)
RAY_SERVICE = record(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayService"},
    metadata=record(("name",), name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}),
    spec=record(("serveConfigV2", "rayClusterConfig"), serveConfigV2=TEXT, rayClusterConfig=CLUSTER),
)
CONFIG = record(
    ("applications",),
    proxy_location={"enum": ["EveryNode", "HeadOnly", "Disabled"]},
    http_options=record(host=TEXT, port=COUNT),
    applications=listed(
        record(
            ("name", "route_prefix", "import_path", "args"),
            name=TEXT,
            route_prefix={"type": "string", "pattern": "^/"},
            import_path={"const": "unisono.ray.application:app"},
            args={"type": "object"},
        )
    ),
)


def check_config(config: Any) -> Arguments:
    jsonschema.validate(config, CONFIG)
    return Arguments.read(config["applications"][0]["args"])


def test_the_serve_config_is_one_and_its_arguments_are_understood() -> None:
    arguments = check_config(yaml.safe_load((EXAMPLES / "serve.yaml").read_text()))
    assert arguments.replicas == Replicas(least=2, most=4)


def test_the_manifest_is_a_ray_service_with_an_ensemble_that_can_be_read(tmp_path: Path) -> None:
    ensembles, service = yaml.safe_load_all((EXAMPLES / "rayservice.yaml").read_text())
    jsonschema.validate(service, RAY_SERVICE)
    arguments = check_config(yaml.safe_load(service["spec"]["serveConfigV2"]))
    file = tmp_path / Path(arguments.ensembles[0]).name
    file.write_text(ensembles["data"][file.name])
    assert [member.ray is not None for member in load_spec(file).members] == [True, True]
    pod = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    assert all(path.startswith(tuple(mounts.values())) for path in (*arguments.ensembles, str(arguments.api_key_file)))
    assert service["spec"]["rayClusterConfig"]["authOptions"]["mode"] == "token"


def test_the_schema_refuses_what_kuberay_would() -> None:
    _, service = yaml.safe_load_all((EXAMPLES / "rayservice.yaml").read_text())
    service["spec"]["rayClusterConfig"]["workerGroupSpec"] = []
    with pytest.raises(jsonschema.ValidationError, match="workerGroupSpec"):
        jsonschema.validate(service, RAY_SERVICE)


def test_the_example_ensemble_can_be_read() -> None:
    assert [member.on_failure for member in load_spec(EXAMPLES / "duo.yaml").members] == ["degrade", "degrade"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ensemble": ["duo.yaml"]}, "no argument 'ensemble'; did you mean 'ensembles'?"),
        ({"replicas": {"least": 3, "most": 2}}, "3 at least and 2 at most"),
        ({"limits": {"connections": 10}}, "for a server with sockets of its own"),
        ({"limits": {"promt": 10}}, "there is no limit 'promt'; did you mean 'prompt'?"),
        ({"batch": 0}, "'batch' is 0"),
        ({"limits": {"timeout": 0}}, "the limit timeout is 0"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as refused:
        Arguments.read({"ensembles": ["duo.yaml"], **change})
    assert words in refused.value.message


def test_limits_have_the_types_of_limits() -> None:
    limits = Arguments.read({"ensembles": ["duo.yaml"], "limits": {"prompt": 100.0, "timeout": 2}}).server_limits()
    assert (limits.prompt, type(limits.prompt), limits.timeout) == (100, int, 2)
