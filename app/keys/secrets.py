"""The text of a key: made at random, shown once, recognised by its digest."""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Final

_SECRET_BYTES: Final = 32
_PREFIX_BYTES: Final = 8
_FORM: Final = re.compile(r"fdx_([0-9a-f]{16})_[A-Za-z0-9_-]{43}")
_PREFIX_FORM: Final = re.compile(r"[0-9a-f]{16}")
_NO_DIGEST: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class Secret:
    """What is kept of a key's text.

    Attributes:
        prefix: what it begins with; not secret, and safe to log.
        digest: SHA-256 of the whole text.
        until: when it ends, where it does so before the key: it was replaced by another.
    """

    prefix: str
    digest: bytes
    until: datetime | None = None


def new_secret() -> tuple[str, Secret]:
    """A new text, `fdx_<prefix>_<256 random bits>`, and what is kept of it."""
    prefix = secrets.token_hex(_PREFIX_BYTES)
    given = f"fdx_{prefix}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    return given, Secret(prefix, _digest(given))


def is_prefix(text: str) -> bool:
    """Whether it has the form of a prefix."""
    return _PREFIX_FORM.fullmatch(text) is not None


def prefix_of(given: str) -> str | None:
    """The prefix in a text, None where it has not the form of a key."""
    found = _FORM.fullmatch(given)
    return found.group(1) if found else None


def is_text_of(given: str, secret: Secret | None) -> bool:
    """Whether it is this secret's text; takes as long where there is no secret at all."""
    same = hmac.compare_digest(_digest(given), secret.digest if secret else _NO_DIGEST)
    return same and secret is not None


def _digest(given: str) -> bytes:
    # No slow hash: nobody guesses 256 random bits.
    return hashlib.sha256(given.encode()).digest()
