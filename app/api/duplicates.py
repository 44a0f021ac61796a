"""`/v1/domains/{domain}/duplicates`: persons who may be one."""

from flask_openapi3 import APIBlueprint, Tag

from app.api.access import access
from app.api.dump import dump_pair
from app.api.openapi import PROBLEM_RESPONSES, SECURITY, ViewReturn
from app.api.person_schemas import DuplicatePage, DuplicatesQuery
from app.api.schemas import DomainPath
from app.api.wiring import services
from app.keys.principal import Scope

bp = APIBlueprint(
    "duplicates",
    __name__,
    url_prefix="/v1/domains/<domain>/duplicates",
    abp_tags=[Tag(name="persons")],
    abp_security=SECURITY,
    abp_responses=PROBLEM_RESPONSES,
)


@bp.get("", responses={200: DuplicatePage})
@access(Scope.ENROL)
def list_duplicates(path: DomainPath, query: DuplicatesQuery) -> ViewReturn:
    """List pairs of persons whose templates are near to each other.

    A page compares up to `limit` persons with all others; a page without pairs is not the last while it has a `next_cursor`.
    """
    page = services().duplicates.find(path.domain, limit=query.limit, cursor=query.cursor, threshold=query.threshold)
    return {
        "items": [dump_pair(pair, page.pictured) for pair in page.pairs],
        "examined": page.examined,
        "truncated": page.truncated,
        "threshold": page.threshold,
        "next_cursor": page.next_cursor,
    }
