"""Lists in pages: the cursor names the last item seen, so that nothing is skipped or shown twice while others write."""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.errors import InvalidRequest
from app.names import has_control_characters

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page; `next_cursor` is None on the last."""

    items: Sequence[T]
    next_cursor: str | None


def encode_cursor(*key: str) -> str:
    """The cursor behind the item with this sort key."""
    return base64.urlsafe_b64encode(json.dumps(key, ensure_ascii=False).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, parts: int) -> list[str]:
    """The sort key in a cursor.

    Raises:
        InvalidRequest: it is not one of ours.
    """
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError):
        raise InvalidRequest("The cursor is not one that this service gave.") from None
    if not isinstance(key, list) or len(key) != parts or not all(isinstance(part, str) for part in key):
        raise InvalidRequest("The cursor is not one that this service gave.")
    if any(has_control_characters(part) for part in key):
        raise InvalidRequest("The cursor is not one that this service gave.")
    return key
