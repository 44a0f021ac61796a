"""How a stream is closed: the codes of RFC 6455, section 7.4, and our own."""

from enum import IntEnum
from typing import Final

from app.errors import FacedexError


class Closing(IntEnum):
    """Why the server closes a stream. What begins with 4 is ours (docs/api.md)."""

    DONE = 1000
    """The result was sent."""
    NOT_UTF8 = 1007
    UNWELCOME = 1008
    """Too many messages that are none."""
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTART = 1012
    """The service restarts: connect again, and go on."""
    TAKEN_OVER = 4001
    """A newer connection streams to this session."""
    SILENT = 4002
    """No message came for too long: connect again, and go on."""
    EXPIRED = 4003
    """The session has expired."""
    ENDED = 4004
    """The session was decided or cancelled elsewhere, or is gone."""
    DEAF = 4005
    """The client reads too slowly, or does not answer pings."""


_BY_ERROR: Final[dict[str, Closing]] = {
    "session_taken_over": Closing.TAKEN_OVER,
    "session_expired": Closing.EXPIRED,
    "session_ended": Closing.ENDED,
    "session_not_found": Closing.ENDED,
    "session_key_ended": Closing.ENDED,
    "domain_not_found": Closing.ENDED,
    "person_not_found": Closing.ENDED,
    "person_erased": Closing.ENDED,
    "contract_mismatch": Closing.INTERNAL,
    "model_error": Closing.INTERNAL,
}


def closing_of(error: FacedexError) -> Closing | None:
    """How a stream ends that meets this error; None where it goes on with the next frame."""
    return next((_BY_ERROR[kind.code] for kind in _facedex_classes(error) if kind.code in _BY_ERROR), None)


def _facedex_classes(error: FacedexError) -> list[type[FacedexError]]:
    return [kind for kind in type(error).__mro__ if issubclass(kind, FacedexError)]
