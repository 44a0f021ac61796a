"""What is wrong with a file of settings, for the person who writes it."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError


def faults_of(error: ValidationError, data: Mapping[str, Any]) -> Iterable[str]:
    """Where it is, and what; never what stands there: it may be a secret."""
    for item in error.errors(include_url=False, include_input=False):
        reason = "there is no such setting" if item["type"] == "extra_forbidden" else item["msg"]
        where = _where(item["loc"], data)
        yield f"{where}: {reason}" if where else reason.removeprefix("Value error, ")


def _where(loc: tuple[int | str, ...], data: Mapping[str, Any]) -> str:
    """`cameras["entrance"].fps`: a camera by its name, where it has one."""
    found = ""
    value: Any = data
    for part in loc:
        value = _inside(value, part)
        if isinstance(part, int):
            name = value.get("name") if isinstance(value, dict) else None
            found += f'["{name}"]' if isinstance(name, str) else f"[{part}]"
        else:
            found += f".{part}" if found else part
    return found


def _inside(value: Any, part: int | str) -> Any:
    if isinstance(value, dict):
        return value.get(part)
    return value[part] if isinstance(value, list) and isinstance(part, int) and part < len(value) else None
