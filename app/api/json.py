"""JSON in and out."""

from typing import Any

from flask.json.provider import DefaultJSONProvider


class StrictJSON(DefaultJSONProvider):
    """Keys in the order of the code, names readable, and hostile nesting an error like any other."""

    sort_keys = False
    ensure_ascii = False

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        """As `json.loads`.

        Raises:
            ValueError: not JSON, nested too deeply, or with NaN or infinity, which JSON does not have.
        """
        try:
            return super().loads(s, parse_constant=_refuse_constant, **kwargs)
        except RecursionError:
            raise ValueError("nested too deeply") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
