"""`/v1/domains/{domain}/audit`."""

import json
from typing import Any

from flask_openapi3 import APIBlueprint, Tag
from sqlalchemy import Row

from app.api.access import access
from app.api.audit_schemas import AuditPage, AuditQuery
from app.api.openapi import PROBLEM_RESPONSES, SECURITY, ViewReturn
from app.api.schemas import DomainPath
from app.api.wiring import services
from app.audit.reading import chain_of, page
from app.enrolment.lookup import find_domain
from app.errors import InvalidRequest
from app.keys.principal import Scope
from app.pages import decode_cursor, encode_cursor

bp = APIBlueprint(
    "audit",
    __name__,
    url_prefix="/v1/domains/<domain>/audit",
    abp_tags=[Tag(name="audit")],
    abp_security=SECURITY,
    abp_responses=PROBLEM_RESPONSES,
)


@bp.get("", responses={200: AuditPage})
@access(Scope.ADMIN)
def list_events(path: DomainPath, query: AuditQuery) -> ViewReturn:
    """List a domain's events, the latest first: what was changed and recognised, by whom, in which request."""
    with services().database.transaction() as session:
        domain = find_domain(session, path.domain)
        chain = chain_of(session, domain.id)
        rows = page(
            session,
            domain.id,
            limit=query.limit + 1,
            below=_seq(query.cursor),
            action=query.action,
            person=query.person,
        )
    more = len(rows) > query.limit
    return {
        "items": [_dump(row) for row in rows[: query.limit]],
        "next_cursor": encode_cursor(str(rows[query.limit - 1].seq)) if more else None,
        "head": None if chain is None else str(chain.head),
    }


def _seq(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    (seq,) = decode_cursor(cursor, 1)
    if not (seq.isascii() and seq.isdecimal() and len(seq) < 19):
        raise InvalidRequest("The cursor is not one that this service gave.")
    return int(seq)


def _dump(row: Row[Any]) -> dict[str, Any]:
    """`AuditEvent`: the text's members, and the event's hash; of a text that was tampered with, what can be read."""
    try:
        body: dict[str, Any] = dict(json.loads(row.body))
    except (ValueError, TypeError):
        body = {}
    empty: dict[str, Any] = {"at": "", "action": "", "client": "", "request_id": None, "persons": [], "details": {}}
    shown = {name: body.get(name, nothing) for name, nothing in empty.items()}
    return {"seq": row.seq, **shown, "hash": bytes(row.hash).hex()}
