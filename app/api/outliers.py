"""`/v1/domains/{domain}/outliers`: templates that are far from the others of their person."""

from flask_openapi3 import APIBlueprint, Tag

from app.api.access import access
from app.api.dump import dump_outlier
from app.api.openapi import PROBLEM_RESPONSES, SECURITY, ViewReturn
from app.api.person_schemas import OutlierPage
from app.api.schemas import DomainPath, PageQuery
from app.api.wiring import services
from app.keys.principal import Scope

bp = APIBlueprint(
    "outliers",
    __name__,
    url_prefix="/v1/domains/<domain>/outliers",
    abp_tags=[Tag(name="persons")],
    abp_security=SECURITY,
    abp_responses=PROBLEM_RESPONSES,
)


@bp.get("", responses={200: OutlierPage})
@access(Scope.ENROL)
def list_outliers(path: DomainPath, query: PageQuery) -> ViewReturn:
    """List faces that are far from the other faces of their person: probably somebody else's, or of a bad picture.

    A page looks at up to `limit` persons; a page without outliers is not the last while it has a `next_cursor`.
    """
    page = services().outliers.find(path.domain, limit=query.limit, cursor=query.cursor)
    return {
        "items": [dump_outlier(outlier) for outlier in page.outliers],
        "examined": page.examined,
        "truncated": page.truncated,
        "threshold": round(page.threshold, 6),
        "next_cursor": page.next_cursor,
    }
