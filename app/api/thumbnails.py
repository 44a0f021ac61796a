"""`…/persons/{label}/thumbnail` and `…/faces/{face_id}/thumbnail`: small pictures, where pictures are kept."""

from typing import Any, Final

from flask import Response, g, request
from flask_openapi3 import APIBlueprint, Tag

from app.api.access import access
from app.api.openapi import BINARY, PROBLEM_RESPONSES, SECURITY, ViewReturn
from app.api.schemas import FacePath, PersonPath
from app.api.wiring import services
from app.enrolment.thumbnails import MEDIA_TYPE, ShownFace
from app.keys.principal import Scope

bp = APIBlueprint(
    "thumbnails",
    __name__,
    url_prefix="/v1/domains/<domain>/persons/<label>",
    abp_tags=[Tag(name="faces")],
    abp_security=SECURITY,
    abp_responses=PROBLEM_RESPONSES,
)

_RESPONSES: Final[dict[Any, Any]] = {
    200: {"description": "a square of at most 128 pixels", "content": {MEDIA_TYPE: {"schema": BINARY}}},
    304: {"description": "it is as it was"},
}


@bp.get("/thumbnail", responses=_RESPONSES)
@access(Scope.ENROL)
def get_person_thumbnail(path: PersonPath) -> ViewReturn:
    """Give a small picture of a person, where STORE_IMAGES has kept one: of the face that the detector was surest of."""
    return _answer(services().thumbnails.find(path.domain, path.label))


@bp.get("/faces/<face_id>/thumbnail", responses=_RESPONSES)
@access(Scope.ENROL)
def get_face_thumbnail(path: FacePath) -> ViewReturn:
    """Give a small picture of an enrolled face, where STORE_IMAGES has kept its picture."""
    return _answer(services().thumbnails.find(path.domain, path.label, path.face_id))


def _answer(face: ShownFace) -> Response:
    """Only who may see it now is told that it is as it was."""
    if request.if_none_match.contains(face.etag):
        response = Response(status=304)
    else:
        data = services().thumbnails.read(face, client=g.client.id, request_id=g.request_id)
        response = Response(data, mimetype=MEDIA_TYPE)
    response.set_etag(face.etag)
    response.headers["Cache-Control"] = "private, no-cache"  # asked for each time: it may have been erased
    return response
