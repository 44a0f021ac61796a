"""Names of domains and persons: any text that a person may have as a name, and nothing that only a program would send."""

import unicodedata
from typing import Final

from app.errors import InvalidName

NAME_MAX_CHARS: Final = 200


def clean_name(value: str, what: str) -> str:
    """The form in which a name is kept: NFC, without white space at either end.

    Two spellings that look the same (`Š` as one code point or as two) thus are the same name.

    Args:
        value: what the client sent.
        what: how the error calls it, e.g. `domain`.

    Raises:
        InvalidName: it is empty or too long, or holds control characters or lone surrogates.
    """
    name = unicodedata.normalize("NFC", value).strip()
    if not name:
        raise InvalidName(f"The {what} is empty.")
    if len(name) > NAME_MAX_CHARS:
        raise InvalidName(f"The {what} has {len(name)} characters; at most {NAME_MAX_CHARS} are kept.")
    # Cc: control characters, NUL among them; Cs: lone surrogates. Neither can be stored as text.
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in name):
        raise InvalidName(f"The {what} holds control characters.")
    return name
