"""`/v1/domains/{domain}/persons/{label}/faces`."""

from contextlib import ExitStack

from flask import g, jsonify, request
from flask_openapi3 import APIBlueprint, Tag

from app.api.dump import dump_face, dump_outcome, dump_person
from app.api.metrics import ENROLMENTS
from app.api.openapi import PROBLEM_RESPONSES, SECURITY, ViewReturn, picture_body
from app.api.pictures import is_longer_than_one, parse_uploads
from app.api.problems import problem_response
from app.api.schemas import EnrolmentAnswer, EnrolmentProblem, FacePage, FacePath, PageQuery, PersonPath
from app.api.wiring import services
from app.enrolment.faces import EnrolmentResult

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
def enrol_faces(path: PersonPath) -> ViewReturn:
    """Enrol the main face of one or many pictures; creates the person when new.

    Each file is answered on its own. 201 where at least one was enrolled; otherwise the first file's error, with the results
    of all.
    """
    result = _enrol_uploads(path)
    answer = _answer(result)
    if answer["enrolled"]:
        return jsonify(answer), 201
    # A failure of ours comes first: the client should send the files again rather than replace them.
    worst = min((outcome for outcome in result.outcomes if outcome.error), key=lambda outcome: outcome.rejected)
    assert worst.error is not None
    return problem_response(worst.error, **answer)


@bp.get("", responses={200: FacePage})
def list_faces(path: PersonPath, query: PageQuery) -> ViewReturn:
    """List a person's enrolled faces, oldest first."""
    page = services().faces.list(path.domain, path.label, limit=query.limit, cursor=query.cursor)
    return {"items": [dump_face(face) for face in page.items], "next_cursor": page.next_cursor}


@bp.delete("/<face_id>", responses={204: None})
def delete_face(path: FacePath) -> ViewReturn:
    """Delete one enrolled face."""
    services().faces.delete(path.domain, path.label, path.face_id)
    return "", 204


def _enrol_uploads(path: PersonPath) -> EnrolmentResult:
    settings, long_requests = services().settings, services().long_requests
    with ExitStack() as held:
        long = is_longer_than_one(request, max_bytes=settings.max_upload_bytes)
        if long:
            held.enter_context(long_requests.place(g.client.id))
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
        )


def _answer(result: EnrolmentResult) -> dict[str, object]:
    results = [dump_outcome(outcome) for outcome in result.outcomes]
    counts = {"enrolled": 0, "rejected": 0, "failed": 0}
    for entry in results:
        counts[entry["status"]] += 1
        ENROLMENTS.labels(entry["status"]).inc()
    person = dump_person(result.person) if result.person else None
    return {"person": person, **counts, "results": results, "request_id": g.request_id}
