"""`/v1/domains/{domain}/persons`."""

from flask_openapi3 import APIBlueprint, Tag

from app.api.dump import dump_person
from app.api.openapi import PROBLEM_RESPONSES, SECURITY, ViewReturn
from app.api.schemas import (
    Deleted,
    DomainPath,
    NewPerson,
    PersonChange,
    PersonListQuery,
    PersonOut,
    PersonPage,
    PersonPath,
)
from app.api.wiring import services
from app.enrolment.persons import UNSET

bp = APIBlueprint(
    "persons",
    __name__,
    url_prefix="/v1/domains/<domain>/persons",
    abp_tags=[Tag(name="persons")],
    abp_security=SECURITY,
    abp_responses=PROBLEM_RESPONSES,
)


@bp.get("", responses={200: PersonPage})
def list_persons(path: DomainPath, query: PersonListQuery) -> ViewReturn:
    """List a domain's persons by label."""
    page = services().persons.list(path.domain, limit=query.limit, cursor=query.cursor, contains=query.q)
    return {"items": [dump_person(info) for info in page.items], "next_cursor": page.next_cursor}


@bp.post("", responses={201: PersonOut})
def create_person(path: DomainPath, body: NewPerson) -> ViewReturn:
    """Create a person without faces; uploading a face to a new label creates one too."""
    return dump_person(services().persons.create(path.domain, body.label, body.display_name)), 201


@bp.get("/<label>", responses={200: PersonOut})
def get_person(path: PersonPath) -> ViewReturn:
    """Show a person."""
    return dump_person(services().persons.get(path.domain, path.label))


@bp.patch("/<label>", responses={200: PersonOut})
def change_person(path: PersonPath, body: PersonChange) -> ViewReturn:
    """Change a person's label or display name."""
    given = body.model_fields_set
    info = services().persons.update(
        path.domain,
        path.label,
        new_label=body.label if "label" in given and body.label is not None else UNSET,
        display_name=body.display_name if "display_name" in given else UNSET,
    )
    return dump_person(info)


@bp.delete("/<label>", responses={200: Deleted})
def delete_person(path: PersonPath) -> ViewReturn:
    """Delete a person with all enrolled faces."""
    info = services().persons.delete(path.domain, path.label)
    return {"deleted": str(info.id), "embeddings": info.faces}
