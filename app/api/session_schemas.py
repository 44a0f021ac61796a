"""What sessions and the verification of a person take and answer, as pydantic models: see `schemas.py`."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from app.api.schemas import CandidatePerson, Coordinates, Input
from app.sessions.limits import HIGHEST_RATE, LOWEST_RATE, MAX_TEMPLATES


class SessionPath(Input):
    """A session in the path."""

    session_id: str = Field(description="the session's id")


class NewSession(Input):
    """A session to make. What is left out is usual."""

    kind: Literal["enrol", "verify"]
    person: str = Field(description="label, external id or id; of somebody new who is to be enrolled, the label")
    max_frames: int | None = Field(
        None,
        ge=1,
        description="frames that are looked at; default: 60 to enrol, 30 to verify, FACE_MAX_FRAMES_PER_SESSION at most",
    )
    expires_in_s: float | None = Field(None, ge=1, description="seconds; default and most: SESSION_TTL_S")
    templates: int | None = Field(None, ge=1, le=MAX_TEMPLATES, description="enrol: so many are wanted; default 5")
    min_templates: int | None = Field(
        None, ge=1, le=MAX_TEMPLATES, description="enrol: so few are enough when the frames end; default 3"
    )
    false_match_rate: float | None = Field(
        None,
        ge=LOWEST_RATE,
        le=HIGHEST_RATE,
        description="verify: how often somebody else's face may be accepted; default 0.001",
    )
    min_frames: int | None = Field(None, ge=1, description="verify: good frames before it is decided; default 3")


class SessionOut(BaseModel):
    """A session of frames."""

    id: str
    domain: str
    kind: Literal["enrol", "verify"]
    person: str = Field(description="what the person is called now")
    person_id: str | None = Field(description="null until somebody new is enrolled")
    state: Literal["open", "succeeded", "failed", "expired", "cancelled"] = Field(
        description="succeeded: enrolled, or verified"
    )
    limits: dict[str, Any]
    frames: int = Field(description="so many at most were looked at; exact once it has ended")
    progress: dict[str, Any] = Field(description="templates and wanted, or good_frames and their mean distance")
    result: dict[str, Any] | None = Field(description="once it is decided; docs/api.md says what it holds")
    created_by: str
    created_at: str
    expires_at: str
    finished_at: str | None


class NewSessionOut(SessionOut):
    """A session, and what opens its stream."""

    token: str | None = Field(description="told once; null in the answer to a repeated request")
    stream: str = Field(description="path of the WebSocket")


class PersonVerifyParameters(Input):
    """Parameters of the verification of a person."""

    threshold: float | None = Field(
        None, gt=0, le=2, description="largest cosine distance of the person's faces; default: the model pack's"
    )


class VerifiedFace(BaseModel):
    """The main face of the picture."""

    box: Coordinates
    detection_score: float


class PersonVerificationAnswer(BaseModel):
    """Whether a picture shows a person."""

    verified: bool
    reason: Literal["not_alike", "rejected", "not_valid"] | None = Field(description="why not; null where verified")
    person: CandidatePerson
    distance: float = Field(description="cosine distance of the nearest of the person's faces, 0 to 2")
    threshold: float
    confidence: float = Field(description="calibrated probability in percent; 50 at the model pack's own threshold")
    face: VerifiedFace
    domain: str
    model: str
    timings_ms: dict[str, float] = Field(description="by stage: decode, detect, embed, compare")
    elapsed_time: float = Field(description="seconds")
    request_id: str
