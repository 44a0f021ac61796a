"""The header `Idempotency-Key` as the API's description has it."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from flask import Flask
from flask_openapi3.utils import parse_rule

V = TypeVar("V", bound=Callable[..., Any])

HEADER: Final = "Idempotency-Key"
_ATTRIBUTE: Final = "facedex_idempotent"
_PARAMETER: Final[dict[str, Any]] = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "A request that is sent again with the same key is done once, and answered as the first time.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}


def marked(view: V) -> V:
    """Say of a view that it takes the header; for those that call `once` or `resumable` themselves."""
    setattr(view, _ATTRIBUTE, True)
    return view


def takes_key(app: Flask, endpoint: str) -> bool:
    """Whether the view of an endpoint takes the header."""
    return hasattr(app.view_functions[endpoint], _ATTRIBUTE)


def describe_idempotency(app: Flask, paths: dict[str, Any]) -> None:
    """Add the header to each operation of an OpenAPI document whose view takes it."""
    for rule in app.url_map.iter_rules():
        if not takes_key(app, rule.endpoint):
            continue
        for method in rule.methods or ():
            operation = paths.get(parse_rule(rule.rule), {}).get(method.lower())
            if operation is not None:
                operation["parameters"] = [*(operation.get("parameters") or ()), _PARAMETER]
