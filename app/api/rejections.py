"""`/v1/domains/{domain}/persons/{label}/rejections`: "not this person"."""

from typing import Any

from flask import g, request
from flask_openapi3 import APIBlueprint, Tag

from app.api.access import access
from app.api.dump import dump_rejection
from app.api.idempotency import idempotent, kept_answer, once
from app.api.idempotency_header import marked
from app.api.openapi import PROBLEM_RESPONSES, SECURITY, ViewReturn, picture_body
from app.api.person_schemas import RejectionOut, RejectionPage, RejectionParameters, RejectionPath
from app.api.pictures import allow_one_picture, parse_probe
from app.api.problems import validated
from app.api.schemas import PageQuery, PersonPath
from app.api.wiring import services
from app.enrolment.rejections import RejectionRequest
from app.keys.principal import Scope

bp = APIBlueprint(
    "rejections",
    __name__,
    url_prefix="/v1/domains/<domain>/persons/<label>/rejections",
    abp_tags=[Tag(name="rejections")],
    abp_security=SECURITY,
    abp_responses=PROBLEM_RESPONSES,
)

_BODY: dict[str, Any] = picture_body({"face": {"type": "integer", "minimum": 0}, "actual": {"type": "string"}})


@bp.post("", responses={201: RejectionOut, 200: RejectionOut}, openapi_extensions=_BODY)
@access(Scope.RECOGNIZE, Scope.ENROL)
@marked
def reject_face(path: PersonPath, query: RejectionParameters) -> ViewReturn:
    """Say of a face that it is not this person's.

    The person is then no candidate for faces that are nearer to it than to any of the person's own. 200 where it was said
    before. The picture comes as to /recognize.
    """
    max_bytes = services().settings.max_upload_bytes
    allow_one_picture(request, max_bytes=max_bytes)
    if (kept := kept_answer()) is not None:  # reads the body, before its parts are taken out of it
        return kept
    probe = parse_probe(request, query.model_dump(exclude_none=True), max_bytes=max_bytes)
    parameters = validated(RejectionParameters, probe.parameters)
    wanted = RejectionRequest(
        image=probe.image,
        domain=path.domain,
        label=path.label,
        face=parameters.face,
        actual=parameters.actual,
        deadline=g.deadline,
        request_id=g.request_id,
        client=g.client.id,
    )
    seen = services().rejections.look(wanted)

    def write() -> ViewReturn:
        info, new = services().rejections.add(wanted, seen)
        return dump_rejection(info), 201 if new else 200

    return once(write)


@bp.get("", responses={200: RejectionPage})
@access(Scope.ENROL)
def list_rejections(path: PersonPath, query: PageQuery) -> ViewReturn:
    """List the faces that are not this person's, oldest first."""
    page = services().rejections.list(path.domain, path.label, limit=query.limit, cursor=query.cursor)
    return {"items": [dump_rejection(info) for info in page.items], "next_cursor": page.next_cursor}


@bp.delete("/<rejection_id>", responses={204: None})
@access(Scope.ENROL)
@idempotent
def delete_rejection(path: RejectionPath) -> ViewReturn:
    """Forget that a face is not this person's."""
    services().rejections.delete(path.domain, path.label, path.rejection_id)
    return "", 204
