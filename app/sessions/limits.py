"""What a session may cost and what it is to reach. Pure."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

from app.config import Settings
from app.errors import InvalidRequest

N = TypeVar("N", int, float)

MAX_TEMPLATES: Final = 10
_TEMPLATES: Final = 5
_LEAST_TEMPLATES: Final = 3
_ENROL_FRAMES: Final = 60
_VERIFY_FRAMES: Final = 30
_LEAST_FRAMES: Final = 3
_FALSE_MATCH_RATE: Final = 1e-3
LOWEST_RATE: Final = 1e-6
HIGHEST_RATE: Final = 0.1


class Kind(StrEnum):
    """What a session is for."""

    ENROL = "enrol"
    """Pick templates of a person, who may be new."""

    VERIFY = "verify"
    """Decide whether it is a person who is enrolled."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client asks of a new session; None leaves it to us. `SessionLimits` says what each means."""

    max_frames: int | None = None
    expires_in_s: float | None = None
    templates: int | None = None
    min_templates: int | None = None
    false_match_rate: float | None = None
    min_frames: int | None = None


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What a session may cost, and when it has reached its end.

    Attributes:
        max_frames: so many frames are looked at; then it is decided.
        expires_in_s: seconds from its making until it ends undecided.
        templates, min_templates: enrolment ends with so many; at its frames' end it is content with so few.
        false_match_rate: verification accepts somebody else no more often than that, as far as the model pack's rates hold.
        min_frames: verification decides on no fewer good frames, unless the client says that there are no more.
    """

    max_frames: int
    expires_in_s: float
    templates: int | None = None
    min_templates: int | None = None
    false_match_rate: float | None = None
    min_frames: int | None = None

    @classmethod
    def of(cls, kind: Kind, wanted: Wanted, settings: Settings) -> "SessionLimits":
        """The limits of a new session.

        Raises:
            InvalidRequest: one is out of its bounds, or is not this kind's; the message names it.
        """
        usual = _ENROL_FRAMES if kind is Kind.ENROL else _VERIFY_FRAMES
        most = settings.face_max_frames_per_session
        max_frames = _within("max_frames", wanted.max_frames, min(usual, most), 1, most)
        expires_in_s = _within("expires_in_s", wanted.expires_in_s, settings.session_ttl_s, 1, settings.session_ttl_s)
        if kind is Kind.ENROL:
            _refuse(kind, false_match_rate=wanted.false_match_rate, min_frames=wanted.min_frames)
            templates = _within("templates", wanted.templates, min(_TEMPLATES, max_frames), 1, MAX_TEMPLATES)
            least = _within("min_templates", wanted.min_templates, min(_LEAST_TEMPLATES, templates), 1, templates)
            return cls(max_frames, expires_in_s, templates=templates, min_templates=least)
        _refuse(kind, templates=wanted.templates, min_templates=wanted.min_templates)
        rate = _within("false_match_rate", wanted.false_match_rate, _FALSE_MATCH_RATE, LOWEST_RATE, HIGHEST_RATE)
        frames = _within("min_frames", wanted.min_frames, min(_LEAST_FRAMES, max_frames), 1, max_frames)
        return cls(max_frames, expires_in_s, false_match_rate=rate, min_frames=frames)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "SessionLimits":
        """What `to_json` gave."""
        return cls(**data)

    def to_json(self) -> dict[str, Any]:
        """Its attributes, without those of the other kind."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def _within(name: str, value: N | None, usual: N, low: N, high: N) -> N:
    if value is None:
        return usual
    if not low <= value <= high:
        raise InvalidRequest(f"{name} has to be from {low:g} to {high:g}.")
    return value


def _refuse(kind: Kind, **others: object) -> None:
    for name, value in others.items():
        if value is not None:
            raise InvalidRequest(f"{name} is not for sessions of kind {kind.value}.")
