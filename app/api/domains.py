"""`/v1/domains`."""

from urllib.parse import quote

from flask_openapi3 import APIBlueprint, Tag

from app.api.access import access
from app.api.dump import dump_domain, dump_report
from app.api.erasures import answer_erasure
from app.api.idempotency import idempotent
from app.api.idempotency_header import marked
from app.api.openapi import PROBLEM_RESPONSES, SECURITY, ViewReturn
from app.api.schemas import (
    DomainDeletion,
    DomainOut,
    DomainPage,
    DomainPath,
    DomainReport,
    Erased,
    NewDomain,
    PageQuery,
)
from app.api.wiring import services
from app.keys.principal import Scope

bp = APIBlueprint(
    "domains",
    __name__,
    url_prefix="/v1/domains",
    abp_tags=[Tag(name="domains")],
    abp_security=SECURITY,
    abp_responses=PROBLEM_RESPONSES,
)


@bp.post("", responses={201: DomainOut})
@access(Scope.ADMIN, installation=True)
@idempotent
def create_domain(body: NewDomain) -> ViewReturn:
    """Create a domain for the embeddings of the active model pack."""
    info = services().domains.create(body.name)
    return dump_domain(info), 201, {"Location": f"/v1/domains/{quote(info.name, safe='')}"}


@bp.get("", responses={200: DomainPage})
@access()
def list_domains(query: PageQuery) -> ViewReturn:
    """List the domains by name."""
    page = services().domains.list(limit=query.limit, cursor=query.cursor)
    return {"items": [dump_domain(info) for info in page.items], "next_cursor": page.next_cursor}


@bp.get("/<domain>", responses={200: DomainReport})
@access()
def get_domain(path: DomainPath) -> ViewReturn:
    """Report a domain's status: persons, embeddings, index, model."""
    return dump_report(services().domains.report(path.domain))


@bp.delete("/<domain>", responses={200: Erased})
@access(Scope.ADMIN, installation=True)
@marked
def delete_domain(path: DomainPath, query: DomainDeletion) -> ViewReturn:
    """Delete a domain with all persons, embeddings and pictures in it; its dataset only where that is asked for."""
    answer = answer_erasure(
        lambda claim: services().erasure.erase_domain(path.domain, with_dataset=query.dataset, claim=claim),
        is_long=lambda: False,  # files are deleted, and none is rewritten
    )
    services().keeper.expect_change()  # keys have lost its name
    return answer
