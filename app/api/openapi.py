"""What the generated `/openapi.json` says about all operations alike."""

from typing import Any, Final

from flask import Response

from app.api.schemas import Problem

# What a view returns. Flask's own alias cannot be resolved at run time, where flask_openapi3 reads annotations.
ViewReturn = Response | dict[str, Any] | tuple[Any, int] | tuple[Any, int, dict[str, str]]

SECURITY_SCHEMES: Final[dict[str, Any]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
SECURITY: Final[list[dict[str, list[Any]]]] = [{"bearer": []}, {"header": []}]
_PROBLEM: Final[dict[str, Any]] = {
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
}
# The code in the body says which of the reasons listed in docs/api.md applies.
PROBLEM_RESPONSES: Final[dict[Any, Any]] = {
    400: _PROBLEM | {"description": "The request cannot be understood"},
    401: _PROBLEM | {"description": "No API key, or an unknown one"},
    403: _PROBLEM | {"description": "This key may not have that"},
    404: _PROBLEM | {"description": "What the path names does not exist"},
    409: _PROBLEM | {"description": "The request contradicts what is stored"},
    413: _PROBLEM | {"description": "Too many bytes or pixels"},
    415: _PROBLEM | {"description": "A picture of a format that is not accepted"},
    422: _PROBLEM | {"description": "Parameters, picture or face cannot be used"},
    500: _PROBLEM | {"description": "An error of the service; its log has the request id"},
    503: _PROBLEM | {"description": "Busy or not available; see Retry-After"},
    504: _PROBLEM | {"description": "The deadline passed"},
}
ERROR_MODEL: Final = Problem
_BINARY: Final = {"type": "string", "format": "binary"}
_BASE64: Final = {"type": "string", "description": "the picture's file in base64, or as a data: URL"}


def picture_body(fields: dict[str, Any], *, many: bool = False) -> dict[str, Any]:
    """The three ways to send a picture, with the further `fields` of form and JSON."""
    file = {"type": "array", "items": _BINARY} if many else _BINARY
    content: dict[str, Any] = {
        "multipart/form-data": {
            "schema": {"type": "object", "required": ["file"], "properties": {"file": file} | fields}
        },
        "image/*": {"schema": _BINARY},
    }
    if not many:
        content["application/json"] = {
            "schema": {"type": "object", "required": ["image"], "properties": {"image": _BASE64} | fields}
        }
    return {"requestBody": {"required": True, "content": content}}


def pair_body(fields: dict[str, Any]) -> dict[str, Any]:
    """The two ways to send two pictures, with the further `fields` of form and JSON."""

    def schema(names: tuple[str, str], picture: dict[str, str]) -> dict[str, Any]:
        return {"type": "object", "required": list(names), "properties": dict.fromkeys(names, picture) | fields}

    content = {
        "multipart/form-data": {"schema": schema(("file1", "file2"), _BINARY)},
        "application/json": {"schema": schema(("image1", "image2"), _BASE64)},
    }
    return {"requestBody": {"required": True, "content": content}}
