"""Events as the API shows them."""

from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from app.api.schemas import PageQuery


class AuditQuery(PageQuery):
    """Which events."""

    action: str | None = Field(
        None, pattern=r"^[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*$", max_length=65, description="only these, e.g. face.enrolled"
    )
    person: UUID | None = Field(None, description="only events about the person of this id")


class AuditEvent(BaseModel):
    """One event of a domain's chain. `hash` is of the event's text and of the hash before it."""

    seq: int
    at: str = Field(description="UTC, with microseconds")
    action: str
    client: str = Field(description="the id of an API key, `admin` or `cli`")
    request_id: str | None
    persons: list[str]
    details: dict[str, Any]
    hash: str


class AuditPage(BaseModel):
    """Events, the latest first. `head` is the chain's end, SEQ:HASH: worth noting elsewhere."""

    items: list[AuditEvent]
    next_cursor: str | None
    head: str | None
