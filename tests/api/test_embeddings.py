import pytest
from flask import g

from app import create_app
from app.api.embeddings import wants_vectors
from app.config import parse_settings
from app.errors import VectorsNotAllowed
from app.keys.admin_key import create_admin_key
from app.keys.principal import ADMIN, Principal, Scope
from app.tenancy import Reach

DOOR = Principal("door", frozenset({Scope.RECOGNIZE}), Reach("door"))


def test_vectors_are_for_keys_that_may_see_them():
    assert [wants_vectors(asked, ADMIN) for asked in (None, True, False)] == [True, True, False]
    assert [wants_vectors(asked, DOOR) for asked in (None, False)] == [False, False]
    with pytest.raises(VectorsNotAllowed):
        wants_vectors(True, DOOR)


def test_a_key_that_may_not_see_them_is_told_so_over_http(tmp_path):
    settings = parse_settings(storage_dir=tmp_path)
    create_admin_key(settings.admin_key_file)
    app = create_app(settings)

    @app.before_request
    def _another_key():
        g.client = DOOR

    headers = {"x-api-key": settings.admin_key_file.read_text().strip()}
    for path in ("/v1/embeddings?", "/v1/embeddings/batch?", "/v1/embeddings/batch?stream=true&"):
        refused = app.test_client().post(f"{path}vectors=true", data=b"photo", headers=headers)
        assert (refused.status_code, refused.get_json()["code"]) == (403, "vectors_not_allowed")
