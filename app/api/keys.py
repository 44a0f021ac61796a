"""`/v1/keys`: for administrators, of the installation or of a tenant. Each sees keys whose domains are all its own."""

from datetime import datetime, timedelta
from typing import Any

from flask import g
from flask_openapi3 import APIBlueprint, Tag

from app.api.access import access
from app.api.idempotency import idempotent
from app.api.key_schemas import KeyOut, KeyPage, KeyPath, NewKey, NewKeyOut, Rotation
from app.api.openapi import PROBLEM_RESPONSES, SECURITY, ViewReturn
from app.api.schemas import PageQuery
from app.api.wiring import services
from app.keys.grants import Grant
from app.keys.principal import Scope
from app.keys.service import KeyInfo, within_maker

bp = APIBlueprint(
    "keys",
    __name__,
    url_prefix="/v1/keys",
    abp_tags=[Tag(name="keys")],
    abp_security=SECURITY,
    abp_responses=PROBLEM_RESPONSES,
)


@bp.get("", responses={200: KeyPage})
@access(Scope.ADMIN)
def list_keys(query: PageQuery) -> ViewReturn:
    """List the keys, the oldest first, revoked and expired ones too."""
    page = services().keys.list(limit=query.limit, cursor=query.cursor)
    return {"items": [dump_key(info) for info in page.items], "next_cursor": page.next_cursor}


@bp.post("", responses={201: NewKeyOut})
@access(Scope.ADMIN)
@idempotent(secret="key")  # noqa: S106 -- the name of the member
def create_key(body: NewKey) -> ViewReturn:
    """Make a key. Its text is in this answer, and nowhere else."""
    grant = Grant(
        scopes=frozenset(body.scopes),
        domains=frozenset(body.domains),
        every_domain=body.every_domain,
        expires_at=body.expires_at,
        rate_per_minute=body.rate_per_minute,
    )
    info, text = services().keys.create(body.name, within_maker(grant, g.client), g.client)
    return dump_key(info) | {"key": text}, 201


@bp.delete("/<key_id>", responses={200: KeyOut})
@access(Scope.ADMIN)
@idempotent
def revoke_key(path: KeyPath) -> ViewReturn:
    """Revoke a key, at once and for good."""
    return dump_key(services().keys.revoke(path.key_id))


@bp.post("/<key_id>/rotate", responses={200: NewKeyOut})
@access(Scope.ADMIN)
@idempotent(secret="key")  # noqa: S106 -- the name of the member
def rotate_key(path: KeyPath, body: Rotation) -> ViewReturn:
    """Give a key another text; the one that it had ends now, or after the grace."""
    info, text = services().keys.rotate(path.key_id, g.client, timedelta(seconds=body.grace_s))
    return dump_key(info) | {"key": text}


def dump_key(info: KeyInfo) -> dict[str, Any]:
    """`KeyOut`."""
    return {
        "id": str(info.id),
        "prefix": info.prefix,
        "name": info.name,
        "state": info.state,
        "scopes": sorted(info.grant.scopes),
        "domains": sorted(info.grant.domains),
        "every_domain": info.grant.every_domain,
        "rate_per_minute": info.grant.rate_per_minute,
        "created_by": info.created_by,
        "created_at": info.created_at.isoformat(),
        "expires_at": _time(info.grant.expires_at),
        "revoked_at": _time(info.revoked_at),
        "previous_until": _time(info.previous_until),
    }


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
