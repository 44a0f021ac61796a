"""Whatever the OpenAPI document allows, and what it does not: no 5xx, and every answer is one that the document describes.

Twice as many of both, or more: FACEDEX_TEST_EXAMPLES=12 scripts/test tests/service/test_schemathesis.py
"""

import os
import random

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests import pictures
from tests.service.running import RunningService, running_service

pytestmark = [pytest.mark.service, pytest.mark.slow]

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = int(os.environ.get("FACEDEX_TEST_EXAMPLES", "6"))
# An attacker's way in, and a client's slip: neither may be answered as if it were right.
REFUSED = {401}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    # The tests come from one address, and many of them without a key.
    env = {"AUTH_FAILURES_PER_MINUTE": "100000"}
    with running_service(tmp_path_factory.mktemp("schemathesis") / "storage", env=env) as running:
        with running.client() as http:
            for name in ("people", "others"):
                http.post("/v1/domains", json={"name": name}).raise_for_status()
            http.post("/v1/domains/people/persons", json={"label": "Eileen"}).raise_for_status()
        yield running


@pytest.fixture(scope="module")
def document(service: RunningService) -> dict:
    with service.client() as http:
        return http.get("/openapi.json").json()


def key_of(service: RunningService, kind: str) -> str | None:
    """An API key: the admin's, one that is for a single domain that no request is about, or none."""
    if kind == "missing":
        return None
    if kind == "valid":
        return service.key
    with service.client() as http:
        made = http.post(
            "/v1/keys",
            json={
                "name": "foreign",
                "scopes": ["recognize", "enrol", "verify", "embed", "admin"],
                "domains": ["others"],
            },
        )
    assert made.status_code == 201, made.text
    return made.json()["key"]


# Some of the pictures are pictures.
_FILES = st.sampled_from([pictures.filling_portrait().read_bytes(), b"no picture", b""])
schemathesis.openapi.format("binary", _FILES)
schemathesis.openapi.media_type("image/*", _FILES)


@pytest.mark.parametrize("kind", ["valid", "foreign", "missing"])
def test_every_operation_answers_as_it_says(service: RunningService, document: dict, kind: str) -> None:
    key = key_of(service, kind)
    schema = schemathesis.openapi.from_dict(document)
    statuses: dict[str, set[int]] = {}
    with httpx.Client(base_url=service.url, headers={"x-api-key": key} if key else {}, timeout=60) as http:
        assert http.get("/v1/domains").status_code == (200 if key else 401)
    for found in schema.get_all_operations():
        operation = found.ok()
        seen = statuses.setdefault(operation.label, set())
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _try(operation, mode, service, key, seen)
    assert len(statuses) > 20
    if kind == "valid":
        # Nobody guesses an id, or two pictures of one person.
        guessable = {label: seen for label, seen in statuses.items() if "_id}" not in label}
        refused_only = {label for label, seen in guessable.items() if not any(status < 300 for status in seen)}
        assert len(refused_only) < len(guessable) / 2, refused_only
    if kind == "missing":
        open_to_all = {"GET /healthz", "GET /readyz"}
        # 414 and the like are said before anybody is asked who they are.
        assert all(seen & REFUSED or label in open_to_all for label, seen in statuses.items()), statuses
        assert not any(status < 300 for label, seen in statuses.items() for status in seen if label not in open_to_all)


def _try(operation, mode: GenerationMode, service: RunningService, key: str | None, seen: set[int]) -> None:
    @seed(0)
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case) -> None:
        case.headers = {name: value for name, value in (case.headers or {}).items() if name.lower() not in _KEYS}
        if (
            case.path_parameters
            and operation.method != "delete"
            and random.Random(repr(case.path_parameters)).random() < 0.5
        ):
            case.path_parameters = {name: _REAL.get(name, value) for name, value in case.path_parameters.items()}
        response = case.call(base_url=service.url, headers={"x-api-key": key} if key else {})
        seen.add(response.status_code)
        case.validate_response(response, checks=CHECKS)

    try:
        check()
    except Unsatisfiable:  # what takes no parameters cannot be asked wrongly
        assert mode is GenerationMode.NEGATIVE


_KEYS = {"x-api-key", "authorization"}
# Half of the requests are about what there is.
_REAL = {"domain": "people", "label": "Eileen"}
