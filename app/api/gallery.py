"""`/v1/domains/{domain}/gallery`."""

from flask import Response, request
from flask_openapi3 import APIBlueprint, Tag

from app.api.access import access
from app.api.openapi import BINARY, PROBLEM_RESPONSES, SECURITY, ViewReturn
from app.api.schemas import DomainPath, GalleryQuery
from app.api.wiring import services
from app.gallery_pages import MEDIA_TYPE
from app.keys.principal import Scope

bp = APIBlueprint(
    "gallery",
    __name__,
    url_prefix="/v1/domains/<domain>/gallery",
    abp_tags=[Tag(name="gallery")],
    abp_security=SECURITY,
    abp_responses=PROBLEM_RESPONSES,
)


@bp.get(
    "",
    responses={
        200: {"description": "a page of members and templates", "content": {MEDIA_TYPE: {"schema": BINARY}}},
        304: {"description": "The page of that ETag is still the right one"},
    },
)
@access(Scope.GALLERY)
def read_gallery(path: DomainPath, query: GalleryQuery) -> ViewReturn:
    """Tell what has changed in the gallery since a version, or all of it: members, their templates, and who is gone.

    For whoever keeps a copy of it. The form of the pages is described in docs/api.md.
    """
    page = services().feed.page(path.domain, query.since, query.limit, request.if_none_match.contains_weak)
    answer = Response(page.body or b"", 304 if page.body is None else 200, content_type=MEDIA_TYPE)
    answer.set_etag(page.etag)
    answer.headers["Cache-Control"] = "private, no-cache"
    return answer
