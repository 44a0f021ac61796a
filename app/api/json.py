"""JSON in and out."""

from typing import Any, Final

import orjson
from flask import Response, make_response
from flask.json.provider import DefaultJSONProvider

_OPTIONS: Final = orjson.OPT_APPEND_NEWLINE


class StrictJSON(DefaultJSONProvider):
    """Keys in the order of the code, names readable, and hostile nesting an error like any other.

    Answers are written by orjson: of the time that a web process takes for one with embeddings, the standard library's digits
    were a tenth. What clients send is read by the standard library, which tells all that is no JSON apart.
    """

    sort_keys = False
    ensure_ascii = False

    def response(self, *args: Any, **kwargs: Any) -> Response:
        """As Flask's `jsonify`, in one line. What is no number (NaN, infinity) is null."""
        obj = self._prepare_response_obj(args, kwargs)
        answer = make_response(orjson.dumps(obj, option=_OPTIONS))
        answer.mimetype = self.mimetype
        return answer

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
