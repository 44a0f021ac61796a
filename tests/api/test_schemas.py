from typing import Any

from flask_openapi3 import OpenAPI
from pydantic import BaseModel

from app.api.schemas import PageQuery, PersonListQuery, RecognizeQuery


def test_the_schema_of_what_is_asked_is_what_pydantic_makes_of_it():
    for model in (PageQuery, PersonListQuery, RecognizeQuery):
        assert model.model_json_schema() == BaseModel.model_json_schema.__func__(model)
        assert model.model_json_schema(mode="serialization") == BaseModel.model_json_schema.__func__(
            model, mode="serialization"
        )


def test_no_schema_is_made_for_a_request(monkeypatch):
    """flask_openapi3 looks into the schema of the query's model each time."""
    app = OpenAPI(__name__)

    @app.get("/")
    def view(query: PageQuery) -> dict[str, Any]:
        return query.model_dump()

    client = app.test_client()
    assert client.get("/?limit=7").json == {"limit": 7, "cursor": None}
    monkeypatch.setattr("pydantic.json_schema.GenerateJsonSchema.generate", None)
    assert client.get("/?limit=8").json == {"limit": 8, "cursor": None}
