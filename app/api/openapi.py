"""What the generated `/openapi.json` says about all operations alike."""

from typing import Any, Final

from flask import Response
from flask_openapi3 import OpenAPI
from pydantic import BaseModel

from app.api.access import describe_access
from app.api.idempotency_header import describe_idempotency
from app.api.schemas import Problem

# What a view returns. Flask's own alias cannot be resolved at run time, where flask_openapi3 reads annotations.
ViewReturn = Response | dict[str, Any] | tuple[Any, int] | tuple[Any, int, dict[str, str]]

SECURITY_SCHEMES: Final[dict[str, Any]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "session": {"type": "http", "scheme": "bearer", "description": "the token that a session was answered with"},
}
SECURITY: Final[list[dict[str, list[Any]]]] = [{"bearer": []}, {"header": []}]
PROBLEM: Final[dict[str, Any]] = {
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
}
# The code in the body says which of the reasons listed in docs/api.md applies.
PROBLEM_RESPONSES: Final[dict[Any, Any]] = {
    400: PROBLEM | {"description": "The request cannot be understood"},
    401: PROBLEM | {"description": "No API key, or one that is unknown, revoked or expired"},
    403: PROBLEM | {"description": "This key may not have that"},
    404: PROBLEM | {"description": "What the path names does not exist"},
    409: PROBLEM | {"description": "The request contradicts what is stored"},
    413: PROBLEM | {"description": "Too many bytes or pixels"},
    414: {
        "description": "A path or query of more than 8,190 bytes; the server itself answers",
        "content": {"text/html": {"schema": {"type": "string"}}},
    },
    415: PROBLEM | {"description": "A picture of a format that is not accepted"},
    422: PROBLEM | {"description": "Parameters, picture or face cannot be used"},
    429: PROBLEM | {"description": "Too many requests with this key, or from this address; see Retry-After"},
    500: PROBLEM | {"description": "An error of the service; its log has the request id"},
    503: PROBLEM | {"description": "Busy or not available; see Retry-After"},
    504: PROBLEM | {"description": "The deadline passed"},
}
ERROR_MODEL: Final = Problem
BINARY: Final[dict[str, str]] = {"type": "string", "format": "binary"}
_NULL: Final = {"type": "null"}
_BASE64: Final = {"type": "string", "description": "the picture's file in base64, or as a data: URL"}


class DescribedAPI(OpenAPI):
    """Its document also says what each operation asks of a key, which take an idempotency key, and how problems are sent."""

    def generate_spec_json(self) -> None:
        """As the library's, which keeps the result."""
        super().generate_spec_json()  # type: ignore[no-untyped-call]
        describe_access(self, self.spec_json["paths"])
        describe_idempotency(self, self.spec_json["paths"])
        _mend_media_types(self.spec_json["paths"])
        _describe_streams(self.spec_json["paths"])


def _mend_media_types(paths: dict[str, Any]) -> None:
    """Problems with members of their own have the media type of all problems, which a model alone cannot say.

    They have these members where there was something to tell: a parameter may have been wrong before that.
    """
    plain = {"$ref": f"#/components/schemas/{Problem.__name__}"}
    problems = {f"#/components/schemas/{model.__name__}" for model in Problem.__subclasses__()}
    for operations in paths.values():
        for operation in operations.values():
            for response in operation["responses"].values():
                content = response.get("content", {})
                schema = content.get("application/json", {}).get("schema", {})
                if schema.get("$ref") in problems:
                    del content["application/json"]
                    content["application/problem+json"] = {"schema": {"anyOf": [schema, plain]}}


def _describe_streams(paths: dict[str, Any]) -> None:
    """What takes the parameter `stream` answers in lines of JSON where that is asked for."""
    lines = {"schema": {"type": "string", "description": "one JSON object a line"}}
    for operations in paths.values():
        for operation in operations.values():
            if any(parameter["name"] == "stream" for parameter in operation.get("parameters", [])):
                operation["responses"]["200"]["content"]["application/x-ndjson"] = lines


def picture_body(fields: dict[str, Any], *, many: bool = False) -> dict[str, Any]:
    """The three ways to send a picture, with the further `fields` of form and JSON."""
    file = {"type": "array", "items": BINARY} if many else BINARY
    content: dict[str, Any] = {
        "multipart/form-data": {
            "schema": {"type": "object", "required": ["file"], "properties": {"file": file} | fields}
        },
        "image/*": {"schema": BINARY},
    }
    if not many:
        content["application/json"] = {
            "schema": {"type": "object", "required": ["image"], "properties": {"image": _BASE64} | fields}
        }
    return {"requestBody": {"required": True, "content": content}}


def form_with_photos(model: type[BaseModel]) -> dict[str, Any]:
    """A model as JSON, with one photo in base64, or as a form, with several photos; or without any."""
    schema = model.model_json_schema()
    fields: dict[str, Any] = schema["properties"]
    content = {
        "application/json": {"schema": schema | {"properties": fields | {"photo": {"anyOf": [_BASE64, _NULL]}}}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": schema["required"],
                "properties": {name: {"type": "string"} for name in fields}
                | {"file": {"type": "array", "items": BINARY}},
            }
        },
    }
    return {"requestBody": {"required": True, "content": content}}


def pair_body(fields: dict[str, Any]) -> dict[str, Any]:
    """The two ways to send two pictures, with the further `fields` of form and JSON."""

    def schema(names: tuple[str, str], picture: dict[str, str]) -> dict[str, Any]:
        return {"type": "object", "required": list(names), "properties": dict.fromkeys(names, picture) | fields}

    content = {
        "multipart/form-data": {"schema": schema(("file1", "file2"), BINARY)},
        "application/json": {"schema": schema(("image1", "image2"), _BASE64)},
    }
    return {"requestBody": {"required": True, "content": content}}
