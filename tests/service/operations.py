"""Requests for every operation of the OpenAPI document, with the names that a test wants in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from tests import pictures

NOBODY = "5f6cb2a5-0000-4000-8000-000000000000"
"""The id of whatever the test has no name for."""

METHODS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True)
class Operation:
    """One operation of the document, which `document` is, for its references."""

    path: str
    method: str
    told: dict[str, Any]
    document: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.method.upper()} {self.path}"

    @property
    def scopes(self) -> list[str] | None:
        """Any one of which it needs; None where it is public."""
        return self.told.get("x-facedex-scopes")

    @property
    def installation(self) -> bool:
        return self.told.get("x-facedex-installation", False)

    @property
    def by_token(self) -> bool:
        """Whether the token of what the path names lets one in, rather than a key."""
        return self.told.get("x-facedex-token", False)

    def send(self, http: httpx.Client, names: dict[str, str]) -> httpx.Response:
        """The request, with `names` for whatever parameters and fields are called so, and the least of all others."""
        path = self.path
        for name, value in names.items():
            path = path.replace(f"{{{name}}}", quote(value, safe=""))
        path = re.sub(r"\{\w+\}", NOBODY, path)
        query = {
            parameter["name"]: names[parameter["name"]]
            for parameter in self.told.get("parameters", [])
            if parameter["in"] == "query" and parameter["name"] in names
        }
        return http.request(self.method, path, params=query, **self._body(names))

    def _body(self, names: dict[str, str]) -> dict[str, Any]:
        content = self.told.get("requestBody", {}).get("content", {})
        if "multipart/form-data" in content:
            fields = self._resolved(content["multipart/form-data"]["schema"])["properties"]
            photo = pictures.portrait().read_bytes()
            files = {name: ("a.png", photo) for name in fields if name.startswith("file")}
            return {"files": files, "data": {name: names[name] for name in fields if name in names}}
        if "application/json" in content:
            return {"json": self._example(content["application/json"]["schema"], names)}
        return {}

    def _example(self, schema: dict[str, Any], names: dict[str, str], name: str = "") -> Any:
        schema = self._resolved(schema)
        for choice in (schema.get("anyOf") or schema.get("allOf") or [])[:1]:
            return self._example(choice, names, name)
        if name in names:
            return names[name]
        if "const" in schema or "enum" in schema:
            return schema.get("const", (schema.get("enum") or [None])[0])
        kind = schema.get("type")
        if kind == "object":
            fields, required = schema.get("properties", {}), schema.get("required", [])
            wanted = [
                field for field in fields if field in required or field.removesuffix("s") in names or field in names
            ]
            return {field: self._example(fields[field], names, field) for field in wanted}
        if kind == "array":
            return [self._example(schema.get("items", {}), names, name.removesuffix("s"))]
        return {
            "string": NOBODY if name.endswith("id") else "x",
            "integer": schema.get("minimum", 1),
            "number": 1.0,
            "boolean": False,
        }.get(kind)

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in schema:
            schema = self.document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
        return schema


def operations(document: dict[str, Any]) -> Iterator[Operation]:
    """Every operation of the document."""
    for path, methods in sorted(document["paths"].items()):
        for method in METHODS:
            if method in methods:
                yield Operation(path, method, methods[method], document)
