"""`/v1/domains/{domain}/sessions` and `/v1/sessions/{session_id}`; `streams.py` takes the frames."""

from typing import Any, Final

from flask import g
from flask_openapi3 import APIBlueprint, Tag

from app.api.access import access
from app.api.idempotency import idempotent, kept_answer, once
from app.api.idempotency_header import marked
from app.api.openapi import PROBLEM_RESPONSES, SECURITY, ViewReturn
from app.api.schemas import DomainPath
from app.api.session_schemas import NewSession, NewSessionOut, SessionOut, SessionPath
from app.api.wiring import services
from app.deadline import Deadline
from app.errors import PersonNotFound, ScopeMissing
from app.keys.principal import Scope
from app.sessions.service import Kind, SessionInfo, Wanted

bp = APIBlueprint(
    "sessions",
    __name__,
    url_prefix="/v1",
    abp_tags=[Tag(name="sessions")],
    abp_security=SECURITY,
    abp_responses=PROBLEM_RESPONSES,
)

# Of the request's time; the rest is for the session itself.
_PRELOAD_SHARE: Final = 0.8
_SCOPES = {Kind.ENROL: Scope.ENROL, Kind.VERIFY: Scope.VERIFY}


@bp.post("/domains/<domain>/sessions", responses={201: NewSessionOut})
@access(Scope.ENROL, Scope.VERIFY)
@marked
def create_session(path: DomainPath, body: NewSession) -> ViewReturn:
    """Make a session: frames that enrol a person, or decide whether it is them.

    Needs the scope that is called as `kind` is. The token opens the stream; it is in this answer, and nowhere else. Of somebody
    who has no face yet, reference photos that wait are extracted first.
    """
    kind = Kind(body.kind)
    if _SCOPES[kind] not in g.client.scopes:
        raise ScopeMissing(f"This needs an API key with the scope {_SCOPES[kind].value}.")
    if (kept := kept_answer()) is not None:
        return kept
    wanted = Wanted(**body.model_dump(exclude={"kind", "person"}))
    try:
        _extract_photos(path.domain, body.person)
    except PersonNotFound:
        if kind is Kind.VERIFY:
            raise

    def write() -> ViewReturn:
        info, token = services().sessions.create(path.domain, body.person, kind, wanted, request_id=g.request_id)
        return dump_session(info) | {"token": token, "stream": f"/v1/sessions/{info.id}/stream"}, 201

    return once(write, secret="token")  # noqa: S106 -- the name of the member


def _extract_photos(domain: str, person: str) -> None:
    """Before the session's own transaction, which must not wait for the pool; what fails is told by the lack of a face."""
    services().references.preload_where_needed(
        domain,
        person,
        deadline=Deadline.after(_PRELOAD_SHARE * g.deadline.remaining_s()),
        client=g.client.id,
        request_id=g.request_id,
    )


@bp.get("/sessions/<session_id>", responses={200: SessionOut})
@access(Scope.ENROL, Scope.VERIFY)
def get_session(path: SessionPath) -> ViewReturn:
    """How far a session is, and how it has ended; for seven days after that."""
    return dump_session(services().sessions.read(path.session_id))


@bp.delete("/sessions/<session_id>", responses={204: None})
@access(Scope.ENROL, Scope.VERIFY)
@idempotent
def cancel_session(path: SessionPath) -> ViewReturn:
    """End a session undecided and forget its frames. One that has ended stays as it is."""
    services().sessions.cancel(path.session_id)
    return "", 204  # and no name, which an erasure would not find in the kept answer of a path without a domain


def dump_session(info: SessionInfo) -> dict[str, Any]:
    """`SessionOut`."""
    return {
        "id": str(info.id),
        "domain": info.domain,
        "kind": info.kind.value,
        "person": info.label,
        "person_id": str(info.person_id) if info.person_id else None,
        "state": info.state,
        "limits": info.limits.to_json(),
        "frames": info.frames,
        "progress": info.progress,
        "result": info.result,
        "created_by": info.created_by,
        "created_at": info.created_at.isoformat(),
        "expires_at": info.expires_at.isoformat(),
        "finished_at": info.finished_at.isoformat() if info.finished_at else None,
    }
