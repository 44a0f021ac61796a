"""`/v1/domains/{domain}/persons/{label}/faces`."""

from contextlib import ExitStack

from flask import Response, g, jsonify, request, send_file
from flask_openapi3 import APIBlueprint, Tag

from app.api.access import access
from app.api.dump import dump_face, dump_outcome, dump_person
from app.api.idempotency import idempotent, resumable
from app.api.idempotency_header import marked
from app.api.metrics import ENROLMENTS
from app.api.openapi import BINARY, PROBLEM_RESPONSES, SECURITY, ViewReturn, picture_body
from app.api.pictures import is_longer_than_one, parse_uploads
from app.api.problems import problem_response
from app.api.schemas import EnrolmentAnswer, EnrolmentProblem, FacePage, FacePath, PageQuery, PersonPath
from app.api.wiring import services
from app.db.idempotency import Claim
from app.enrolment.faces import EnrolmentResult
from app.enrolment.images import content_type, suffix
from app.erasure.answers import of_who_is_there
from app.errors import FaceNotFound
from app.keys.principal import Scope

bp = APIBlueprint(
    "faces",
    __name__,
    url_prefix="/v1/domains/<domain>/persons/<label>/faces",
    abp_tags=[Tag(name="faces")],
    abp_security=SECURITY,
    abp_responses=PROBLEM_RESPONSES,
)


@bp.post(
    "",
    responses={201: EnrolmentAnswer, 409: EnrolmentProblem, 422: EnrolmentProblem},
    openapi_extensions=picture_body({}, many=True),
)
@access(Scope.ENROL)
@marked
def enrol_faces(path: PersonPath) -> ViewReturn:
    """Enrol the main face of one or many pictures; creates the person when new.

    Each file is answered on its own. 201 where at least one was enrolled; otherwise the first file's error, with the results
    of all.
    """
    with ExitStack() as held:
        if is_longer_than_one(request, max_bytes=services().settings.max_upload_bytes):
            held.enter_context(services().long_requests.place(g.client.id))
        request.max_content_length = services().settings.max_request_bytes
        return resumable(
            lambda claim: _enrol(path, held, claim),
            as_kept=lambda session, body: of_who_is_there(session, path.domain, body),
        )


@bp.get("", responses={200: FacePage})
@access(Scope.ENROL)
def list_faces(path: PersonPath, query: PageQuery) -> ViewReturn:
    """List a person's enrolled faces, oldest first."""
    page = services().faces.list(path.domain, path.label, limit=query.limit, cursor=query.cursor)
    return {"items": [dump_face(face) for face in page.items], "next_cursor": page.next_cursor}


@bp.get("/<face_id>/image", responses={200: {"description": "the file", "content": {"image/*": {"schema": BINARY}}}})
@access(Scope.ENROL)
def get_face_image(path: FacePath) -> ViewReturn:
    """Give back the picture that a face was enrolled from, where STORE_IMAGES has kept it."""
    picture = services().faces.picture(path.domain, path.label, path.face_id)
    try:
        response = send_file(picture, content_type(picture), max_age=0, etag=False, last_modified=None)
    except FileNotFoundError:  # deleted a moment ago
        raise FaceNotFound("This person has no face of that id whose picture was kept.") from None
    response.headers["Content-Disposition"] = f'inline; filename="{path.face_id.lower()}{suffix(picture)}"'
    response.headers["Cache-Control"] = "no-store"  # a browser would keep it on disk, past sign-out and erasure
    return response


@bp.delete("/<face_id>", responses={204: None})
@access(Scope.ENROL)
@idempotent
def delete_face(path: FacePath) -> ViewReturn:
    """Delete one enrolled face."""
    services().faces.delete(path.domain, path.label, path.face_id)
    return "", 204


def _enrol(path: PersonPath, held: ExitStack, claim: Claim | None) -> tuple[Response, bool]:
    """The answer, and whether it is final: a file that failed may be enrolled when it is sent again with the same key."""
    result = _enrol_uploads(path, held, claim)
    answer = _answer(result)
    if answer["enrolled"]:
        response = jsonify(answer)
        response.status_code = 201
        return response, not answer["failed"]
    # A failure of ours comes first: the client should send the files again rather than replace them.
    worst = min((outcome for outcome in result.outcomes if outcome.error), key=lambda outcome: outcome.rejected)
    assert worst.error is not None
    return problem_response(worst.error, **answer), False


def _enrol_uploads(path: PersonPath, held: ExitStack, claim: Claim | None) -> EnrolmentResult:
    settings, long_requests = services().settings, services().long_requests
    long = is_longer_than_one(request, max_bytes=settings.max_upload_bytes)
    uploads = parse_uploads(
        request,
        max_bytes=settings.max_upload_bytes,
        max_files=settings.max_request_files,
        max_request_bytes=settings.max_request_bytes,
    )
    if len(uploads) > 1 and not long:  # small files: only now it is known how many
        held.enter_context(long_requests.place(g.client.id))
    return services().faces.enrol(
        path.domain,
        path.label,
        [(upload.name, upload.data) for upload in uploads],
        client=g.client.id,
        request_id=g.request_id,
        claim=claim,
    )


def _answer(result: EnrolmentResult) -> dict[str, object]:
    results = [dump_outcome(outcome) for outcome in result.outcomes]
    counts = {"enrolled": 0, "rejected": 0, "failed": 0}
    for entry in results:
        counts[entry["status"]] += 1
        ENROLMENTS.labels(entry["status"]).inc()
    person = dump_person(result.person) if result.person else None
    return {"person": person, **counts, "results": results, "request_id": g.request_id}
