"""The server against its own OpenAPI document: schemathesis sends what fits it and what does not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from support.fakes import make_fakes
from support.real_server import Served, serving
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.server.limits import ServerLimits
from unisono.server.openapi import document

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    make_fakes()
    with serving(gac_model="duo", limits=ServerLimits(output=16)) as running:
        yield running
    FAKE_MODELS.clear()


@pytest.fixture(scope="module")
def api(served: Served) -> Any:
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json")


OPERATIONS = [
    f"{method.upper()} {path}"
    for path, operations in document(gac=True)["paths"].items()
    for method in operations
    if path != "/openapi.json"  # which is read to begin with
]
EXAMPLES = int(os.environ.get("UNISONO_EXAMPLES", "60"))


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("label", OPERATIONS)
def test_no_answer_is_undocumented_and_none_is_a_fault(api: Any, label: str, mode: GenerationMode) -> None:
    [operation] = [found.ok() for found in api.get_all_operations() if found.ok().label == label]
    if mode is GenerationMode.NEGATIVE and not operation.body:
        pytest.skip("there is nothing to be wrong about")

    @settings(max_examples=EXAMPLES if operation.body else 5, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def answers(case: Any) -> None:
        case.call_and_validate(checks=CHECKS, timeout=60)

    answers()


def test_nothing_is_left_behind(served: Served) -> None:
    served.free()
