"""Names of domains and persons: any text that a person may have as a name, and nothing that only a program would send."""

import unicodedata
from typing import Final
from uuid import UUID

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
    if len(value) > 4 * NAME_MAX_CHARS:  # composing shortens it less than that, and takes long for what is very long
        raise InvalidName(f"The {what} has {len(value)} characters; at most {NAME_MAX_CHARS} are kept.")
    name = unicodedata.normalize("NFC", value).strip()
    if not name:
        raise InvalidName(f"The {what} is empty.")
    if len(name) > NAME_MAX_CHARS:
        raise InvalidName(f"The {what} has {len(name)} characters; at most {NAME_MAX_CHARS} are kept.")
    if "\ufffd" in name:  # what decoders put in the place of bytes that are no UTF-8: different names would become one
        raise InvalidName(f"The {what} is not valid UTF-8.")
    if has_control_characters(name):
        raise InvalidName(f"The {what} holds control characters.")
    return name


def has_control_characters(text: str) -> bool:
    """Whether a text holds control characters (Cc, NUL among them) or lone surrogates (Cs): neither can be stored as text."""
    return any(unicodedata.category(char) in ("Cc", "Cs") for char in text)


def as_uuid(text: str) -> UUID | None:
    """The id that a text is, None where it is none.

    In the usual form only: `UUID` takes many others, which are ordinary names here.
    """
    try:
        value = UUID(text)
    except ValueError:
        return None
    return value if str(value) == text.lower() else None
