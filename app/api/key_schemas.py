"""What `/v1/keys` takes and answers."""

from typing import Literal

from pydantic import AwareDatetime, BaseModel, Field

from app.api.schemas import Input
from app.keys.grants import MAX_DOMAINS, MAX_GRACE, MAX_RATE
from app.keys.principal import Scope


class KeyPath(Input):
    """A key in the path."""

    key_id: str = Field(max_length=64, description="the key's id")


class NewKey(Input):
    """A key to make: for named domains or for every one, and nothing that the key that asks has not itself."""

    name: str = Field(max_length=200, description="what it is for; not secret")
    scopes: list[Scope] = Field(min_length=1, max_length=len(Scope))
    domains: list[str] = Field([], max_length=MAX_DOMAINS, description="names or ids")
    every_domain: bool = Field(False, description="also those to come, instead of named ones")
    expires_at: AwareDatetime | None = Field(None, description="with a time zone; null: as the key that asks")
    rate_per_minute: int | None = Field(
        None, ge=1, le=MAX_RATE, description="null: as the key that asks, or the setting"
    )


class Rotation(Input):
    """How a key gets a new text."""

    grace_s: int = Field(
        0, ge=0, le=int(MAX_GRACE.total_seconds()), description="for how long the old text is good as well"
    )


class KeyOut(BaseModel):
    """A key; its text is nowhere."""

    id: str
    prefix: str
    name: str
    state: Literal["active", "expired", "revoked"]
    scopes: list[Scope]
    domains: list[str]
    every_domain: bool
    rate_per_minute: int | None
    created_by: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    previous_until: str | None = Field(description="until when the text from before the last rotation is good as well")


class NewKeyOut(KeyOut):
    """A key with its text, which is shown this once: null where a request is repeated with its idempotency key."""

    key: str | None


class KeyPage(BaseModel):
    """Keys, the oldest first."""

    items: list[KeyOut]
    next_cursor: str | None
