"""`/v1/domains`."""

from urllib.parse import quote

from flask_openapi3 import APIBlueprint, Tag

from app.api.dump import dump_domain, dump_report
from app.api.openapi import PROBLEM_RESPONSES, SECURITY, ViewReturn
from app.api.schemas import Deleted, DomainOut, DomainPage, DomainPath, DomainReport, NewDomain, PageQuery
from app.api.wiring import services

bp = APIBlueprint(
    "domains",
    __name__,
    url_prefix="/v1/domains",
    abp_tags=[Tag(name="domains")],
    abp_security=SECURITY,
    abp_responses=PROBLEM_RESPONSES,
)


@bp.post("", responses={201: DomainOut})
def create_domain(body: NewDomain) -> ViewReturn:
    """Create a domain for the embeddings of the active model pack."""
    info = services().domains.create(body.name)
    return dump_domain(info), 201, {"Location": f"/v1/domains/{quote(info.name, safe='')}"}


@bp.get("", responses={200: DomainPage})
def list_domains(query: PageQuery) -> ViewReturn:
    """List the domains by name."""
    page = services().domains.list(limit=query.limit, cursor=query.cursor)
    return {"items": [dump_domain(info) for info in page.items], "next_cursor": page.next_cursor}


@bp.get("/<domain>", responses={200: DomainReport})
def get_domain(path: DomainPath) -> ViewReturn:
    """Report a domain's status: persons, embeddings, index, model."""
    return dump_report(services().domains.report(path.domain))


@bp.delete("/<domain>", responses={200: Deleted})
def delete_domain(path: DomainPath) -> ViewReturn:
    """Delete a domain with all persons and embeddings in it."""
    info = services().domains.delete(path.domain)
    return {"deleted": info.name, "embeddings": info.embeddings}
