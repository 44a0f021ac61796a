"""`/v1/domains/{domain}/persons/{label}/reference-photos`, and `…/preload`."""

from contextlib import ExitStack
from typing import Any

from flask import Response, g, jsonify, request
from flask_openapi3 import APIBlueprint, Tag

from app.api.access import access
from app.api.dump import dump_photo, dump_ref
from app.api.idempotency import idempotent, kept_answer, once, resumable
from app.api.idempotency_header import marked
from app.api.openapi import PROBLEM_RESPONSES, SECURITY, ViewReturn, picture_body
from app.api.pictures import Upload, allow_one_picture, is_longer_than_one, parse_probe, parse_uploads
from app.api.problems import problem_response, validated
from app.api.reference_schemas import PhotoPath, PhotosAnswer, PreloadAnswer, PreloadQuery, ReferencePhotoPage
from app.api.schemas import Input, PageQuery, PersonPath
from app.api.wiring import services
from app.db.references import EXTRACTED, FAILED, WAITING
from app.enrolment.photo_rows import AddedPhotos
from app.enrolment.references import Preloaded
from app.keys.principal import Scope

bp = APIBlueprint(
    "references",
    __name__,
    url_prefix="/v1/domains/<domain>/persons/<label>",
    abp_tags=[Tag(name="reference photos")],
    abp_security=SECURITY,
    abp_responses=PROBLEM_RESPONSES,
)


@bp.post(
    "/reference-photos",
    responses={202: PhotosAnswer, 200: PhotosAnswer},
    openapi_extensions=picture_body({}, many=True),
)
@access(Scope.ENROL)
@marked
def add_reference_photos(path: PersonPath) -> ViewReturn:
    """Keep old photos of a person, and have their faces extracted in the background; all of them or none.

    202 with the job that does it. 200 where all of them are known, and nothing is left to be done.
    """
    with ExitStack() as held:
        hold_place(held)
        if (kept := kept_answer()) is not None:
            return kept
        uploads = [(upload.name, upload.data) for upload in _uploads()]

        def write() -> ViewReturn:
            added = services().references.add(path.domain, path.label, uploads, request_id=g.request_id)
            return _dump_added(added), 200 if added.job_id is None else 202

        return once(write)


@bp.get("/reference-photos", responses={200: ReferencePhotoPage})
@access(Scope.ENROL)
def list_reference_photos(path: PersonPath, query: PageQuery) -> ViewReturn:
    """List a person's reference photos, oldest first, and what became of each."""
    page = services().references.list(path.domain, path.label, limit=query.limit, cursor=query.cursor)
    return {"items": [dump_photo(photo) for photo in page.items], "next_cursor": page.next_cursor}


@bp.delete("/reference-photos/<photo_id>", responses={204: None})
@access(Scope.ENROL)
@idempotent
def delete_reference_photo(path: PhotoPath) -> ViewReturn:
    """Delete a reference photo with the face that was made of it, as if it had never been sent."""
    services().references.delete(path.domain, path.label, path.photo_id)
    return "", 204


@bp.post("/preload", responses={200: PreloadAnswer})
@access(Scope.ENROL)
@marked
def preload(path: PersonPath, query: PreloadQuery) -> ViewReturn:
    """Extract the person's waiting reference photos now, within the request's deadline.

    What is not done by then waits for the background. Where nothing could be done at all, the reason is answered.
    """

    def work(_claim: object) -> tuple[Response, bool]:
        preloaded = services().references.preload(
            path.domain,
            path.label,
            deadline=g.deadline,
            client=g.client.id,
            request_id=g.request_id,
            failed=query.failed,
        )
        answer = _dump_preloaded(preloaded)
        if preloaded.error is not None and answer[WAITING] == len(answer["photos"]):
            return problem_response(preloaded.error), False
        return jsonify(answer), answer["status"] != "unfinished"

    return resumable(work)


def hold_place(held: ExitStack) -> None:
    """Let the body be as long as it may be, several pictures in a form, and take a place for such requests where it is."""
    settings = services().settings
    if is_longer_than_one(request, max_bytes=settings.max_upload_bytes):
        held.enter_context(services().long_requests.place(g.client.id))
    allow_one_picture(request, max_bytes=settings.max_upload_bytes)
    if request.mimetype == "multipart/form-data":  # which is read into files, not into memory
        request.max_content_length = settings.max_request_bytes


def _uploads() -> list[Upload]:
    settings = services().settings
    if request.mimetype == "application/json":
        probe = parse_probe(request, {}, max_bytes=settings.max_upload_bytes)
        validated(Input, probe.parameters)
        return [Upload("image", probe.image)]
    return parse_uploads(request, max_bytes=settings.max_upload_bytes, max_files=settings.max_request_files)


def _dump_added(added: AddedPhotos) -> dict[str, Any]:
    return {
        "person": {"id": str(added.person.id), "label": added.person.label, "name": added.person.display_name},
        "photos": [dump_photo(photo) for photo in added.photos],
        "job_id": added.job_id and str(added.job_id),
        "request_id": g.request_id,
    }


def _dump_preloaded(preloaded: Preloaded) -> dict[str, Any]:
    photos = [dump_photo(entry.photo) for entry in preloaded.extractions if entry.photo is not None]
    counts = {state: sum(photo["state"] == state for photo in photos) for state in (WAITING, EXTRACTED, FAILED)}
    status = "unfinished" if counts[WAITING] else "done" if photos else "nothing_waiting"
    return {
        "status": status,
        "person": dump_ref(preloaded.person),
        **counts,
        "photos": photos,
        "request_id": g.request_id,
    }
