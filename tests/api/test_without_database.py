"""With `VECTOR_DB_ENABLED=false` what is done to persons is refused, all of it alike, and costs no worker."""

import io

import pytest
from flask.testing import FlaskClient

from app.api.wiring import build_app
from app.config import parse_settings

PERSONS = "/v1/domains/people/persons"
PATHS = [
    ("GET", PERSONS, None),
    ("POST", PERSONS, {"label": "Ana"}),
    ("PATCH", f"{PERSONS}/Ana", {"metadata": {}}),
    ("POST", f"{PERSONS}/Ana/merge", {"from": "Bor"}),
    ("GET", f"{PERSONS}/Ana/rejections", None),
    ("DELETE", f"{PERSONS}/Ana/rejections/1", None),
    ("GET", "/v1/domains/people/duplicates", None),
]


@pytest.fixture
def client(tmp_path) -> FlaskClient:
    settings = parse_settings(storage_dir=tmp_path, vector_db_enabled=False)
    settings.admin_key_file.write_text("secret-key-of-the-tests")
    settings.admin_key_file.chmod(0o600)
    return build_app(settings).test_client()


@pytest.mark.parametrize(("method", "path", "body"), PATHS)
def test_it_is_refused(client: FlaskClient, method: str, path: str, body) -> None:
    answer = client.open(path, method=method, json=body, headers={"x-api-key": "secret-key-of-the-tests"})
    assert (answer.status_code, answer.get_json()["code"]) == (503, "database_disabled")
    assert "Retry-After" in answer.headers


def test_a_rejection_is_refused_before_the_pool_is_asked(client: FlaskClient) -> None:
    # There is no pool: asking it would be `embedder_unavailable`.
    answer = client.post(
        f"{PERSONS}/Ana/rejections",
        data={"file": (io.BytesIO(b"x"), "x.jpg")},
        headers={"x-api-key": "secret-key-of-the-tests"},
    )
    assert (answer.status_code, answer.get_json()["code"]) == (503, "database_disabled")
