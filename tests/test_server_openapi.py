"""The server against its own OpenAPI document: schemathesis sends what fits it and what does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from real_server import Served, serving
from test_laws_gated import make_fakes
from unisono.backends.fake import FAKE_MODELS
from unisono.server.limits import ServerLimits

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
def document(served: Served) -> Any:
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json")


api = schemathesis.pytest.from_fixture("document")


@api.parametrize()
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_answer_is_undocumented_and_none_is_a_fault(case: Any) -> None:
    case.call_and_validate(checks=CHECKS, timeout=60)


def test_nothing_is_left_behind(served: Served) -> None:
    served.free()
